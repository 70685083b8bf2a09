"""The README's commands are those that CI runs, and everything it points to exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_ci_installs_and_tests_by_the_readme() -> None:
    """The whole of both blocks, the long sweep excepted: the tests run shorter ones, by the same command."""
    commands = [line for block in blocks() for line in block.splitlines()]
    assert len(commands) == 4
    sweeps = [command for command in commands if "jepa_ray.sweep" in command]
    assert sweeps == [".venv/bin/python -m jepa_ray.sweep sweeps/grid.yaml"]
    for command in set(commands) - set(sweeps):
        assert command in CI, command


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"(?<!outputs/)(?:sweeps|configs|benchmarks|docs|jepa_ray)/[\w./]*\w", README)
    assert len(named) > 8
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_its_numbers_name_the_benchmarks_they_come_from() -> None:
    for name in re.findall(r"benchmarks/(\w+)\.py", README):
        assert name in (ROOT / "EXPERIMENTS.md").read_text()
