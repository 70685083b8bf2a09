"""The build step that copies configs/ and sweeps/ into the package, where `jepa_ray.config.shipped` finds them.

Everything else about the package is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("configs", "sweeps")


class BuildWithSpecs(build_py):
    """Adds the YAML files to the built package. An editable installation reads them where they are."""

    def run(self) -> None:
        """Build the package, then copy the files."""
        super().run()
        if not self.editable_mode:
            for source, target in self._copies().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """The files of a source distribution."""
        return [*super().get_source_files(), *self._copies()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files of the built package."""
        copies = [] if self.editable_mode else list(self._copies().values())
        return [*super().get_outputs(include_bytecode), *copies]

    def _copies(self) -> dict[str, str]:
        target = Path(self.build_lib) / "jepa_ray" / "shipped"
        files = [path for folder in FOLDERS for path in sorted(Path(folder).glob("*.yaml"))]
        return {str(path): str(target / path) for path in files}


setup(cmdclass={"build_py": BuildWithSpecs})
