"""The README's commands are those of CI and the Makefile, and every file that the README and the docs name exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CI = (ROOT / ".ci" / "run").read_text()

INSTALLATION = ["python3 -m venv .venv", ".venv/bin/pip install -q -c constraints.txt -e '.[dev]'"]
SWEEP = ".venv/bin/python -m jepa_ray.sweep sweeps/grid.yaml"
TESTS = ".venv/bin/pytest"


def blocks() -> list[list[str]]:
    """The lines of each shell block of the README."""
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)]


def recipe(*arguments: str) -> list[str]:
    """The commands that `make ARGUMENTS` would run if nothing were built yet; make only prints them."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def runs(command: str, lines: list[str]) -> bool:
    """Whether one of the lines is the command, alone or with what follows it."""
    return any(re.search(rf"(^|[\s(;&|]){re.escape(command)}(?=$|[\s;&|)])", line) for line in lines)


def test_the_blocks_are_two_commands_and_the_plain_ones() -> None:
    assert blocks() == [["make sweep"], ["make test"], [*INSTALLATION, SWEEP, TESTS]]


def test_the_two_commands_run_the_plain_ones() -> None:
    for command in (*INSTALLATION, SWEEP):
        assert runs(command, recipe("sweep")), command
    for command in (*INSTALLATION, TESTS):
        assert runs(command, recipe("test")), command


def test_ci_installs_and_tests_by_the_readme() -> None:
    """Every command but the long sweep: the tests run shorter sweeps, by the same command."""
    lines = CI.splitlines()
    made = [shlex.split(line)[1:] for line in lines if line.startswith("make ")]
    executed = lines + [command for arguments in made for command in recipe(*arguments)]
    assert runs("make test", lines)
    for command in (*INSTALLATION, TESTS):
        assert runs(command, executed), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_it_names_exists(page: Path) -> None:
    folders = "sweeps|configs|benchmarks|docker|docs|jepa_ray|tests"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./]*\w", page.read_text())
    if page == README:
        assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_benchmark_that_a_page_names_is_among_the_experiments() -> None:
    experiments = (ROOT / "EXPERIMENTS.md").read_text()
    named = {name for page in PAGES for name in re.findall(r"benchmarks/(\w+)\.py", page.read_text())}
    assert len(named) > 8
    assert sorted(name for name in named if name not in experiments) == []
