"""Known vulnerabilities of the pinned packages: `make audit`.

Exits 1 for one that `audit_ignored.txt` does not give a reason to accept. Where no advisory service answers, it says
that nothing was checked, and exits 0 (1 with --required): a build must not stand still for that, nor pretend.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVICES = ("pypi", "osv")
TIMEOUT_S = 300


def main() -> int:
    """The exit code; what was found is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail where nothing can be checked")
    parser.add_argument("--tool", default=str(Path(sys.executable).with_name("pip-audit")), help="pip-audit")
    parser.add_argument("--pins", default=str(HERE.parent / "constraints.txt"))
    parser.add_argument("--ignored", type=Path, default=HERE / "audit_ignored.txt")
    options = parser.parse_args()
    ignored = read_ignored(options.ignored)
    for service in SERVICES:
        packages = advisories(options.tool, options.pins, service)
        if any("vulns" in package for package in packages):
            return judge(packages, ignored)
    print("AUDIT SKIPPED: no advisory service answers, so NO package was checked for known vulnerabilities")
    return int(options.required)


def read_ignored(path: Path) -> dict[str, str]:
    """Advisory -> why it is accepted. Each line is `ID reason`."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = dict(line.partition(" ")[::2] for line in lines if line and not line.startswith("#"))
    if bare := [name for name, reason in pairs.items() if not reason.strip()]:
        raise SystemExit(f"{path}: {bare[0]} has no reason: write `ID why it does not concern us, and until when`")
    return pairs


def advisories(tool: str, pins: str, service: str) -> list[dict[str, Any]]:
    """What pip-audit says of each package; empty where it got no answer."""
    command = [tool, "-r", pins, "--no-deps", "--disable-pip", "-s", service, "-f", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"{service}: no answer ({type(error).__name__})")
        return []
    return found


def judge(packages: list[dict[str, Any]], ignored: dict[str, str]) -> int:
    """Print what is vulnerable; 1 if anything is that is not ignored."""
    bad, seen = 0, set()
    for package in packages:
        for found in package.get("vulns", ()):
            names = {found["id"], *found.get("aliases", ())}
            seen |= names
            reason = next((ignored[name] for name in sorted(names & ignored.keys())), None)
            fixed = ", ".join(found.get("fix_versions", ())) or "no version"
            verdict = f"accepted: {reason}" if reason else f"VULNERABLE: fixed in {fixed}"
            print(f"{package['name']} {package['version']}: {found['id']} {verdict}")
            bad += reason is None
    checked = sum("vulns" in package for package in packages)
    print(f"{checked} of {len(packages)} packages were checked, {bad} vulnerabilities are not accepted")
    if unchecked := [package["name"] for package in packages if "vulns" not in package]:
        print(f"NOT checked, since the service does not know them: {', '.join(unchecked)}")
    for name in sorted(ignored.keys() - seen):
        print(f"{name} is in the list of accepted ones, but concerns no package any more")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
