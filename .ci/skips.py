"""Fail for a skipped test that `allowed_skips.txt` does not list.

python .ci/skips.py TESTS.xml    the JUnit file that pytest wrote
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

ALLOWED = Path(__file__).parent / "allowed_skips.txt"


def skipped(report: Path) -> list[tuple[str, str]]:
    """Id and reason of each skipped test. A module that is skipped as a whole counts as one."""
    cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 (pytest wrote it)
    return [
        (
            f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}",
            skip.get("message") or skip.text or "",
        )
        for case in cases
        for skip in case.findall("skipped")
    ]


def allowed() -> list[tuple[str, str]]:
    """The listed pairs of a part of the id and a part of the reason."""
    lines = [line for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split(" => ") for line in lines]
    return [(test, reason) for test, reason in pairs]


def main() -> int:
    """Print every skip; 1 if one is not allowed."""
    listed, wrong = allowed(), 0
    for test, reason in skipped(Path(sys.argv[1])):
        fine = any(part in test and why in reason for part, why in listed)
        wrong += not fine
        print(f"skipped {'as listed' if fine else 'BUT NOT LISTED in .ci/allowed_skips.txt'}: {test}: {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
