"""The bundle of a Ray job: a zip file with this package's code, the spec, and its data if they are small.

Nothing else is uploaded; in particular not the working directory, which Ray would upload as a whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import jepa_ray
from jepa_ray.config import SweepConfig, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.files import files_in

MAX_DATA_MIB = 64  # Ray's dashboard refuses more than 100 MiB in one request, and every node gets a copy
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry: the same content gives the same zip file


def pack(to: Path, spec: SweepConfig | None = None) -> Path | None:
    """Write the zip file `to`. Returns the path of the data inside it, None if it contains no data.

    Raises `ConfigError` if the data are on this machine but too large for the bundle.
    """
    data = _local_data(spec) if spec else None
    inside = Path("data") / data.name if data else None
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for path, name in _code():
            _add(bundle, path.read_bytes(), name)
        if spec:
            _add(bundle, dump_yaml(spec.to_dict()).encode(), "spec.yaml")
        if data and inside:
            for path in files_in(data):
                _add(bundle, _read(path), str(inside / path.relative_to(data)))
    return inside


def _add(bundle: zipfile.ZipFile, content: bytes, name: str) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    bundle.writestr(entry, content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _code() -> Iterator[tuple[Path, str]]:
    """Each file of this package, and its name in the bundle."""
    root = Path(jepa_ray.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, str(Path("jepa_ray") / path.relative_to(root))


def _local_data(spec: SweepConfig) -> Path | None:
    """The spec's data if they are on this machine; otherwise the path or URI is one that the cluster can read."""
    path = spec.base.data.path
    if not isinstance(path, Path) or not path.exists():
        return None
    size = sum(file.stat().st_size for file in files_in(path)) / 2**20
    if size > MAX_DATA_MIB:
        raise ConfigError(
            f"base.data.path is {path}, {size:,.0f} MiB on this machine, but at most {MAX_DATA_MIB} MiB are uploaded"
            " with a job: put the data where every node of the cluster can read them (a shared folder, or a URI)"
            " and set the key to that location"
        )
    return path
