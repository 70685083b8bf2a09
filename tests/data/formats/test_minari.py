"""Compares with datasets that Minari wrote, and the data that Minari reads from them; see files/minari/make.py."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jepa_ray.data.formats.minari import Minari
from jepa_ray.data.formats.peek import peek, readable
from jepa_ray.errors import DataError

ZIPPED = Path(__file__).parents[1] / "files/minari/datasets.zip"
PENDULUM = {"observation": "observations", "action": "actions", "reward": "rewards"}
SIGHTS = {
    "pixels": "observations/image",
    "camera": "observations/camera",
    "vector": "observations/vector",
    "action": "actions",
    "reward": "rewards",
}
NAMES = {
    f"{env}_{kind}": names
    for env, names in (("pendulum", PENDULUM), ("sights", SIGHTS))
    for kind in ("hdf5", "arrow", "hdf5_jpeg", "arrow_jpeg")
    if env == "sights" or "jpeg" not in kind
}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
IMAGE = {"type": "Box", "dtype": "uint8", "shape": [4, 4, 3], "low": 0, "high": 255}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folder of the datasets; tests must not change it."""
    folder = tmp_path_factory.mktemp("minari")
    with zipfile.ZipFile(ZIPPED) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def copied(real, tmp_path):
    """Copies of an Arrow and an HDF5 dataset, which a test may damage."""
    for kind in ("arrow", "hdf5"):
        shutil.copytree(real / f"pendulum_{kind}", tmp_path / kind)
    return tmp_path


def write(folder: Path, episodes: int = 3, **changes: object) -> Path:
    """Write episodes; episode e has e + 2 observations, all with the value e."""
    (folder / "data").mkdir()
    about = {"total_episodes": episodes, "data_format": "hdf5", "observation_space": json.dumps(BOX)}
    about |= {"action_space": json.dumps({"type": "Discrete", "n": 2, "start": 0})} | changes
    (folder / "data/metadata.json").write_text(json.dumps(about))
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for e in range(episodes):
            file[f"episode_{e}/observations"] = np.full((e + 2, 2), e, np.float32)
            file[f"episode_{e}/actions"] = np.full(e + 1, 1)
            file[f"episode_{e}/rewards"] = np.full(e + 1, float(e))
    return folder


def change_metadata(path: Path, **changes: object) -> None:
    about = path / "data/metadata.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | changes))


def columns_of(path: Path) -> dict[str, np.ndarray]:
    with Minari().open(path) as recording:
        return {name: column[slice(None)] for name, column in recording.columns.items()}


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match), readable(path, "Minari"):
        columns_of(path)


@pytest.mark.parametrize("name", NAMES)
def test_columns_equal_those_that_minari_reads(real, name):
    theirs = np.load(real / f"{name}.npz")
    with Minari().open(real / name) as recording:
        assert set(recording.columns) == set(NAMES[name])
        for e, (start, length) in enumerate(zip(recording.offsets, recording.lengths, strict=True)):
            for ours, key in NAMES[name].items():
                wanted = theirs[f"{e}/{key}"]
                rows = recording.columns[ours][slice(start, start + length)]
                assert rows.dtype == wanted.dtype == recording.columns[ours].dtype
                assert length == len(theirs[f"{e}/rewards"]) + 1
                assert len(wanted) == (length if key.startswith("observations") else length - 1)
                np.testing.assert_array_equal(rows[: len(wanted)], wanted, f"{ours} of episode {e}")
        assert f"{e + 1}/rewards" not in theirs


@pytest.mark.parametrize("name", NAMES)
def test_last_action_and_reward_of_an_episode_are_unused(real, name):
    with Minari().open(real / name) as recording:
        ends = np.cumsum(recording.lengths) - 1
        assert np.isnan(recording.columns["reward"][slice(None)][ends]).all()
        actions = recording.columns["action"][slice(None)][ends]
        assert (np.isnan(actions) if actions.dtype.kind == "f" else actions == 0).all()


@pytest.mark.parametrize("name", ["pendulum_{}", "sights_{}", "sights_{}_jpeg"])
def test_hdf5_and_arrow_give_the_same_columns(real, name):
    hdf5, arrow = (columns_of(real / name.format(kind)) for kind in ("hdf5", "arrow"))
    assert list(hdf5) == list(arrow)
    for key in hdf5:
        np.testing.assert_array_equal(hdf5[key], arrow[key], key)


@pytest.mark.parametrize("name", NAMES)
def test_slices_equal_the_whole_column(real, name):
    whole = columns_of(real / name)
    with Minari().open(real / name) as recording:
        for key, column in recording.columns.items():
            for rows in (slice(3, 8), slice(5, 6), slice(4, 4), slice(9, None)):
                np.testing.assert_array_equal(column[rows], whole[key][rows])


def test_text_is_not_read_and_noted(real):
    with Minari().open(real / "sights_arrow") as recording:
        assert recording.notes == ("observations mission is not read: its space is Text",)


def test_jpeg_fixtures_contain_jpeg_files(real):
    with h5py.File(real / "sights_hdf5_jpeg/data/main_data.hdf5") as file:
        assert file["episode_0/observations/camera"].ndim < 3
    with h5py.File(real / "sights_hdf5/data/main_data.hdf5") as file:
        assert file["episode_0/observations/camera"].shape == (6, 40, 32, 3)


def test_slice_of_an_arrow_file_reads_only_its_rows(tmp_path):
    write_arrow(tmp_path, np.zeros((100_000, 2), np.float32))
    with Minari().open(tmp_path) as recording:
        before = pa.total_allocated_bytes()
        rows = recording.columns["observation"]._parts[0][slice(50_000, 50_002)]
        assert rows.shape == (2, 2)
        assert pa.total_allocated_bytes() - before < 10_000


def write_arrow(folder: Path, observations: np.ndarray, **changes: object) -> None:
    (folder / "data/0").mkdir(parents=True)
    spaces = {f"{key}_space": json.dumps(BOX) for key in ("observation", "action")}
    about = {"total_episodes": 1, "data_format": "arrow", **spaces, **changes}
    (folder / "data/metadata.json").write_text(json.dumps(about))
    vectors = pa.FixedSizeListArray.from_arrays(observations.ravel(), observations.shape[1])
    table = pa.table({"observations": vectors, "actions": vectors, "rewards": np.zeros(len(vectors))})
    with pa.ipc.new_file(folder / "data/0/part-0.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=40_000)


@pytest.mark.parametrize("total", [10**15, 13, 11, 0, -1, 12.0, True, "12", None])
@pytest.mark.parametrize("kind", ["arrow", "hdf5"])
def test_wrong_number_of_episodes_is_refused(copied, kind, total):
    change_metadata(copied / kind, total_episodes=total)
    assert_refused(copied / kind, "total_episodes")


def test_invalid_metadata_is_refused(tmp_path):
    path = write(tmp_path)
    for changes in ({"data_format": "../x"}, {"observation_space": "{"}, {"observation_space": "[]"}):
        kept = (path / "data/metadata.json").read_text()
        change_metadata(path, **changes)
        assert_refused(path, "data_format|readable")
        (path / "data/metadata.json").write_text(kept)


def test_missing_episode_is_named(copied):
    with h5py.File(copied / "hdf5/data/main_data.hdf5", "a") as file:
        del file["episode_7"]
    assert_refused(copied / "hdf5", "lacks episode_7")
    shutil.rmtree(copied / "arrow/data/7")
    assert_refused(copied / "arrow", "lacks episode_7")


def test_missing_files_are_named(copied):
    (copied / "arrow/data/3/part-0.arrow").unlink()
    assert_refused(copied / "arrow", re.escape("data/3/part-0.arrow: is missing"))
    (copied / "hdf5/data/main_data.hdf5").unlink()
    assert_refused(copied / "hdf5", re.escape("main_data.hdf5: is missing"))


def test_linked_files_are_followed_and_linked_folders_are_not(copied):
    for file in (copied / "arrow/data/3/part-0.arrow", copied / "hdf5/data/main_data.hdf5"):
        before = columns_of(copied / file.relative_to(copied).parts[0])
        file.symlink_to(file.rename(copied / file.name))
        after = columns_of(copied / file.relative_to(copied).parts[0])
        np.testing.assert_array_equal(before["observation"], after["observation"])
        assert file in Minari().files(copied / file.relative_to(copied).parts[0])
    (copied / "arrow/data/5").rename(copied / "five")
    (copied / "arrow/data/5").symlink_to(copied / "five")
    assert_refused(copied / "arrow", "data/5: is a link")
    file.unlink()
    file.symlink_to(copied / "nowhere")
    assert_refused(copied / "hdf5", "or is a broken link")


def test_episode_in_another_hdf5_file_is_refused(copied):
    with h5py.File(copied / "other.h5", "w") as other, h5py.File(copied / "hdf5/data/main_data.hdf5", "a") as file:
        file.copy("episode_2", other)
        del file["episode_2"]
        file["episode_2"] = h5py.ExternalLink(str(copied / "other.h5"), "episode_2")
    assert_refused(copied / "hdf5", "another file")


@pytest.mark.parametrize("rows", [(3, 48), (3, 4, 12), (3, 3, 4, 4)])
def test_uint8_image_of_another_shape_is_not_decoded_as_jpeg(tmp_path, rows):
    path = write(tmp_path, 1, observation_space=json.dumps(IMAGE))
    values = np.arange(np.prod(rows), dtype=np.uint8).reshape(rows)[:2]
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = values
    np.testing.assert_array_equal(columns_of(path)["pixels"], values)


def test_jpeg_files_of_equal_length_are_decoded(tmp_path):
    """Minari stores JPEG files of equal length as a plain array."""
    path = write(tmp_path, 1, observation_space=json.dumps(IMAGE))
    frame = io.BytesIO()
    Image.new("RGB", (4, 4), (128, 128, 128)).save(frame, format="JPEG")
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = np.stack([np.frombuffer(frame.getvalue(), np.uint8)] * 2)
    assert (columns_of(path)["pixels"] == np.full((2, 4, 4, 3), 128)).all()


def test_jpeg_of_another_size_is_refused(real, tmp_path):
    for kind in ("arrow", "hdf5"):
        shutil.copytree(real / f"sights_{kind}_jpeg", tmp_path / kind)
        about = json.loads((tmp_path / kind / "data/metadata.json").read_text())
        space = json.loads(about["observation_space"])
        space["subspaces"]["camera"]["shape"] = [32, 40, 3]
        change_metadata(tmp_path / kind, observation_space=json.dumps(space))
        assert_refused(tmp_path / kind, "cannot be decoded")


def test_observation_named_action_does_not_replace_the_action(tmp_path):
    path = write(tmp_path, 1, observation_space=json.dumps({"type": "Dict", "subspaces": {"action": BOX}}))
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        file.move("episode_0/observations", "episode_0/x")
        file["episode_0/observations/action"] = file["episode_0/x"]
    assert set(columns_of(path)) == {"observation/action", "action", "reward"}


def test_arrow_file_of_another_shape_is_refused(tmp_path):
    write_arrow(tmp_path, np.zeros((5, 3), np.float32))
    assert_refused(tmp_path, "observations is stored as fixed_size_list")


def test_damaged_bytes_never_crash(copied):
    """Reading a damaged Arrow file either succeeds or raises `DataError`."""
    file = copied / "arrow/data/0/part-0.arrow"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for trial in range(60):
        bad = bytearray(whole)
        for at in random.integers(0, len(bad), 3):
            bad[at] = random.integers(256)
        file.write_bytes(bad[: len(bad) // 2] if trial % 6 == 0 else bad)
        with suppress(DataError), readable(copied / "arrow", "Minari"):
            columns_of(copied / "arrow")


def test_metadata_file_alone_is_not_recognised(real, tmp_path):
    for path in (real / "sights_arrow", real / "sights_arrow/data", real / "pendulum_hdf5/data"):
        assert Minari().recognises(peek(path))
    (tmp_path / "metadata.json").write_text("{}")
    assert not Minari().recognises(peek(tmp_path))
