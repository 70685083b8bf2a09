"""`make audit` fails for a known vulnerability, and reports an advisory service that is unavailable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SAFE = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {
    "name": "aiohttp",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2024-1"], "fix_versions": ["1.1"], "description": "it is bad"}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found"}

Audit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """Runs the audit with given answers of the advisory services, by the names of the services."""

    def run(answers: dict[str, Any], *arguments: str, ignored: str = "") -> subprocess.CompletedProcess[str]:
        tool = tmp_path / "pip-audit"
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        tool.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"answer = json.load(open({str(tmp_path / 'answers.json')!r})).get(sys.argv[sys.argv.index('-s') + 1])\n"
            "if answer is None: sys.exit('ConnectionError')\n"
            "print(json.dumps({'dependencies': answer, 'fixes': []}))\n"
            "sys.exit(any(package.get('vulns') for package in answer))\n"
        )
        tool.chmod(0o755)
        (tmp_path / "ignored.txt").write_text(ignored)
        command = [sys.executable, str(ROOT / ".ci" / "audit.py"), "--tool", str(tool)]
        command += ["--ignored", str(tmp_path / "ignored.txt"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_a_known_vulnerability_fails(audit: Audit) -> None:
    done = audit({"pypi": [SAFE, BAD]})
    assert done.returncode == 1
    assert "aiohttp 1.0: PYSEC-1 VULNERABLE: fixed in 1.1" in done.stdout


def test_packages_without_vulnerabilities_pass(audit: Audit) -> None:
    done = audit({"pypi": [SAFE, UNKNOWN]})
    assert done.returncode == 0
    assert "1 of 2 packages were checked, 0 vulnerabilities are not accepted" in done.stdout
    assert "NOT checked, since the service does not know them: torch" in done.stdout


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-2024-1"])
def test_an_accepted_vulnerability_passes_and_its_reason_is_shown(audit: Audit, name: str) -> None:
    done = audit({"pypi": [BAD]}, ignored=f"# a comment\n{name} we open no such port; until 2027\nCVE-0 old\n")
    assert done.returncode == 0
    assert "accepted: we open no such port" in done.stdout
    assert "CVE-0 is in the list of accepted ones, but concerns no package any more" in done.stdout


def test_a_vulnerability_is_not_accepted_without_a_reason(audit: Audit) -> None:
    done = audit({"pypi": [BAD]}, ignored="PYSEC-1\n")
    assert done.returncode == 1
    assert "PYSEC-1 has no reason" in done.stderr


@pytest.mark.parametrize("answers", [{}, {"pypi": [UNKNOWN, UNKNOWN]}, {"pypi": []}])
def test_an_unavailable_service_is_reported_and_fails_only_if_required(audit: Audit, answers: Any) -> None:
    """A registry without advisories reports every package as unknown, which must not look like a passed audit."""
    done = audit(answers)
    assert done.returncode == 0
    assert "AUDIT SKIPPED: no advisory service answers, so NO package was checked" in done.stdout
    assert audit(answers, "--required").returncode == 1


def test_the_second_service_is_used_if_the_first_is_unavailable(audit: Audit) -> None:
    done = audit({"pypi": [UNKNOWN], "osv": [BAD]})
    assert done.returncode == 1
    assert "PYSEC-1" in done.stdout


def test_without_the_tool_the_audit_is_skipped(audit: Audit) -> None:
    done = audit({}, "--tool", "/nowhere/pip-audit", "--required")
    assert done.returncode == 1
    assert "AUDIT SKIPPED" in done.stdout


def test_ci_and_make_run_it() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text()
    assert "$(BIN)/python .ci/audit.py" in (ROOT / "Makefile").read_text()
