"""The test run does not depend on how it is started, and says what it skipped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPS = ROOT / ".ci" / "skips.py"


def test_interrupts_arrive_where_the_shell_ignores_them() -> None:
    """As after `pytest &` in a script: a shell starts background commands with SIGINT ignored."""
    test = "tests/test_running_tests.py::test_sigint_is_not_ignored"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_sigint_is_not_ignored() -> None:
    """Neither here nor in a process that a test starts."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("reason", "code"),
    [("minutes: with JEPA_RAY_CHAOS=10", 0), ("no chromium on PATH", 1)],
    ids=["listed", "not listed"],
)
def test_ci_accepts_only_listed_skips(tmp_path: Path, reason: str, code: int) -> None:
    (tmp_path / "test_some.py").write_text("def test_that_runs(): pass\n")
    skipping = tmp_path / "tests" / "ray" / "test_chaos.py"
    skipping.parent.mkdir(parents=True)
    skipping.write_text(f"import pytest\n\n@pytest.mark.skip(reason={reason!r})\ndef test_long(): pass\n")
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "."]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "1 passed, 1 skipped" in printed
    judged = subprocess.run([sys.executable, SKIPS, report], capture_output=True, text=True, check=False)
    assert (judged.returncode, reason in judged.stdout) == (code, True)
