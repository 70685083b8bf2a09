"""The configs and sweep specs that come with the package, found by name.

Their only source is `configs/` and `sweeps/` at the top of the repository. `setup.py` copies them into a wheel.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from jepa_ray.errors import ConfigError

Kind = Literal["configs", "sweeps"]
KINDS: tuple[Kind, ...] = ("configs", "sweeps")
NOUNS: dict[Kind, str] = {"configs": "config", "sweeps": "spec"}

_PACKAGE = Path(__file__).parents[1]


def list_files(kind: Kind) -> list[Path]:
    """All shipped files of a kind, sorted by name. Raises `ConfigError` if this installation has none."""
    folders = (_PACKAGE / "shipped" / kind, _PACKAGE.parent / kind)  # of a wheel, of a checkout
    files = next((found for folder in folders if (found := sorted(folder.glob("*.yaml")))), None)
    if files is None:
        raise ConfigError(f"this installation of jepa-ray has no {kind}/: install the wheel, or a complete checkout")
    return files


def find(path: Path, kind: Kind) -> tuple[Path, Path]:
    """The file that a path or the name of a shipped file stands for, and the place that its relative paths start from.

    `grid` stands for the shipped `sweeps/grid.yaml`, unless there is a file with that name. A shipped file is used as
    if it were in the working directory: `../outputs` in it is `outputs` there. Raises `ConfigError` for an unknown
    name, with the known ones.
    """
    if path.name != str(path) or path.suffix or path.is_file():
        return path, path
    known = {file.stem: file for file in list_files(kind)}
    if path.name not in known:
        nearest = difflib.get_close_matches(path.name, known, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ConfigError(
            f"{path}: is neither a file nor the name of a shipped {NOUNS[kind]}{hint}; shipped in {kind}/:"
            f" {', '.join(known)}"
        )
    return known[path.name], Path(kind) / known[path.name].name
