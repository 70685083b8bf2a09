"""The pages of `docs/`, and the blocks of code in them: what each is marked as, and how it is run.

A mark is a comment on the line before a fence: `run`, `run with: ARGUMENTS` (added to its last command, to make it
short), `run with model` (a trained `best_jepa_model.pt` is there), `file: NAME` (the reader saves it), `not run: WHY`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    mark: str  # without the comment's signs, empty where there is none
    code: str


def blocks(page: Path) -> Iterator[Block]:
    found = re.findall(r"^(?:<!-- ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return (Block(language, mark, code) for mark, language, code in found)


def follow(page: Path, folder: Path) -> int:
    """Do in `folder` what a reader of the page does, from top to bottom; returns how many blocks were run."""
    for name in ("configs", "sweeps"):
        (folder / name).symlink_to(ROOT / name)
    run = 0
    for block in blocks(page):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.code)
        elif block.mark.startswith("run"):
            _run(block, folder)
            run += 1
    return run


def _run(block: Block, folder: Path) -> None:
    code = block.code.rstrip("\n") + " " + block.mark.partition("run with: ")[2]
    interpreter = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euc"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    imports = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env = os.environ | {"PATH": path, "PYTHONPATH": imports, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run([*interpreter, code], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
