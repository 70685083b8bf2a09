"""Refuse the words and patterns that `banned_words.txt` lists, in code, docs and messages.

python .ci/prose.py [PATH ...]    without paths: every text file that git knows
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".js", ".sh", ""}
SKIPPED = ("tests/data/files/", "tests/fixtures/", ".ci/banned_words.txt", "LICENSE", ".ci/audit_ignored.txt")
ALLOW = "prose: allow"  # in a line: the word is right there


def rules() -> list[tuple[re.Pattern[str], str]]:
    """Pattern and remedy of each rule: `pattern => remedy`, one per line."""
    lines = (HERE / "banned_words.txt").read_text().splitlines()
    pairs = [line.split(" => ") for line in lines if line.strip() and not line.startswith("#")]
    return [(re.compile(pattern.strip()), remedy.strip()) for pattern, remedy in pairs]


def texts(arguments: list[str]) -> list[Path]:
    """The files to check, relative to the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *arguments],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [Path(name) for name in listed if Path(name).suffix in SUFFIXES and not name.startswith(SKIPPED)]


def findings(path: Path, known: list[tuple[re.Pattern[str], str]]) -> list[str]:
    """`file:line: word: remedy` for each banned word in a file."""
    found = []
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
        if ALLOW not in line:
            hits = ((pattern.search(line), remedy) for pattern, remedy in known)
            found += [f"{path}:{number}: {hit[0]!r}: {remedy}" for hit, remedy in hits if hit]
    return found


def main() -> int:
    """Print what is found; 1 if there is anything."""
    known = rules()
    found = [line for path in texts(sys.argv[1:]) if (ROOT / path).is_file() for line in findings(path, known)]
    print("\n".join(found) if found else "no banned words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
