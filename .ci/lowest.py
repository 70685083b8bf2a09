"""Print the lowest versions of the dependencies that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("wandb", "formats", "collect")  # not `service`, whose MLflow is newer than the package's lowest


def main() -> None:
    """One `name==version` for every dependency with a lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    lowest = {}
    for requirement in wanted:
        if found := re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement):
            lowest.setdefault(found[1].lower(), found[2])
    print("\n".join(f"{name}=={version}" for name, version in sorted(lowest.items())))


if __name__ == "__main__":
    main()
