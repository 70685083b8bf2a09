"""The pages of `docs/` and their code blocks: the mark of each block, and how it is run.

A mark is a comment on the line before a fence: `run`; `run with: ARGUMENTS`, which are added to the last command to
shorten it; `run with model`, which needs a trained `best_jepa_model.pt` in the folder; `file: NAME`, which the reader
saves under that name; `not run: REASON`.
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
    mark: str  # the text of the comment; empty without a comment
    code: str


def blocks(page: Path) -> Iterator[Block]:
    found = re.findall(r"^(?:<!-- ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return (Block(language, mark, code) for mark, language, code in found)


def follow(page: Path, folder: Path) -> int:
    """Run the blocks of the page in `folder`, from top to bottom, as a reader would. Returns how many were run."""
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
