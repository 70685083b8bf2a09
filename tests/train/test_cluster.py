"""Errors of a Ray session that cannot be started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jepa_ray import secrets
from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.train import cluster


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        (
            "head:6379",
            ConfigError,
            "--address head:6379: no Ray cluster can be reached at this address (bad ${env:CLUSTER_PASSWORD})",
        ),
        (None, JepaRayError, "Ray could not be started on this machine: bad ${env:CLUSTER_PASSWORD} (details in "),
    ],
)
def test_the_error_of_ray_is_shown_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, kind: type[JepaRayError], message: str
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("bad hunter2hunter2")

    secrets.remember("CLUSTER_PASSWORD", "hunter2hunter2")
    monkeypatch.setattr(cluster.ray, "init", fail)
    with pytest.raises(kind) as refused, cluster.ray_session(address, 1, 0, tmp_path / "ray.log"):
        pass
    assert str(refused.value).startswith(message)
