from __future__ import annotations

import os

import pytest

from jepa_ray.machine import Machine, count_usable_cpus


def test_cpus_are_those_that_this_process_may_use() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Machine.local().cpus == 1
    finally:
        os.sched_setaffinity(0, before)


class TestWithoutAffinity:
    """macOS has no `os.sched_getaffinity`."""

    @pytest.fixture(autouse=True)
    def _macos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    def test_process_cpu_count_is_used_where_python_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
        assert Machine.local().cpus == 3

    def test_else_all_cpus_of_the_machine_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "process_cpu_count", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 5)
        assert Machine.local().cpus == 5

    def test_an_unknown_number_counts_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "process_cpu_count", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert count_usable_cpus() == 1
