"""Compares with datasets that LeRobot wrote, and the data that LeRobot reads from them; see files/lerobot/make.py."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jepa_ray.config import DataConfig
from jepa_ray.data.formats import format_of, open_recording
from jepa_ray.data.formats.lerobot import LeRobot
from jepa_ray.data.formats.parquet import ForwardReader, Table
from jepa_ray.data.formats.peek import peek
from jepa_ray.data.selection import select
from jepa_ray.errors import DataError

av = pytest.importorskip("av")

ZIPPED = Path(__file__).parents[1] / "files/lerobot/datasets.zip"
LENGTHS = (6, 4, 7, 5, 3)
ROLES = {"observation.state": "state", "next.reward": "reward"}
SIGHTS = ROLES | {"observation.images.top": "pixels"}
NAMES = {"vectors": ROLES, "images": SIGHTS, "videos": SIGHTS, "h264": ROLES | {"observation.image": "pixels"}}
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.image/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folder of the datasets; tests must not change it."""
    folder = tmp_path_factory.mktemp("lerobot")
    with zipfile.ZipFile(ZIPPED) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def copied(real, tmp_path):
    """Copies of the datasets, which a test may damage."""
    for name in NAMES:
        shutil.copytree(real / name, tmp_path / name)
    return tmp_path


def columns_of(path: Path) -> dict[str, np.ndarray]:
    with open_recording(path) as recording:
        return {name: column[slice(None)] for name, column in recording.columns.items()}


def assert_refused(path: Path, match: str) -> None:
    """Assert that reading fails with one line that names the path and matches `match`."""
    with pytest.raises(DataError, match=match) as raised:
        columns_of(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 600


def change_info(path: Path, feature: str = "", **changes: object) -> None:
    """Change info.json, or one of the features in it; `...` removes a key."""
    file = path / "meta/info.json"
    info = json.loads(file.read_text())
    about = info["features"][feature] if feature else info
    about |= changes
    for key, value in changes.items():
        if value is ...:
            del about[key]
    file.write_text(json.dumps(info))


def change_columns(file: Path, drop: str = "", **changes: object) -> None:
    """Change columns of a parquet file, each to an array, or to other values in some rows: {row: value}."""
    table = pq.read_table(file)
    for name, change in changes.items():
        if isinstance(change, dict):
            values = table[name].to_pylist()
            for row, value in change.items():
                values[row] = value
            kind = table.schema.field(name).type
            if pa.types.is_fixed_size_list(kind) and None in values:  # pyarrow before 25 cannot write this
                kind = pa.list_(kind.value_type)
            change = pa.array(values, kind)
        table = table.set_column(table.column_names.index(name), name, change)
    pq.write_table(table.drop([drop]) if drop else table, file)


def write(folder: Path, lengths: tuple[int, ...] = (3, 2), **columns: pa.Array) -> Path:
    """Write a dataset with the required columns and `columns`, and describe them as they are stored."""
    rows, ends = sum(lengths), np.cumsum(lengths)
    counters = {
        "index": np.arange(rows),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
    }
    episodes = {"episode_index": np.arange(len(lengths)), "length": lengths, "dataset_to_index": ends}
    episodes |= {"dataset_from_index": ends - lengths, "data/chunk_index": 0 * ends, "data/file_index": 0 * ends}
    for file, table in ((DATA, counters | columns), (EPISODES, episodes)):
        (folder / file).parent.mkdir(parents=True)
        pq.write_table(pa.table(table), folder / file)
    about = {"codebase_version": "v3.0", "total_episodes": len(lengths), "total_frames": rows}
    about["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    (folder / "meta/info.json").write_text(
        json.dumps(about | {"features": {k: feature(v) for k, v in columns.items()}})
    )
    return folder


def feature(values: pa.Array) -> dict[str, object]:
    shape = np.shape(values.to_pylist())[1:] or (1,)
    kind = values.type
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return {"dtype": np.dtype(kind.to_pandas_dtype()).name, "shape": shape}


def vectors(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.list_(pa.float32()))


@pytest.mark.parametrize("name", NAMES)
def test_rows_equal_those_that_lerobot_reads(real, name):
    about = json.loads((real / name / "meta/info.json").read_text())["features"]
    with np.load(real / f"{name}.npz") as theirs, open_recording(real / name) as ours:
        assert ours.lengths.tolist() == list(LENGTHS)
        assert ours.alignment == "next"
        for key in set(theirs.files) - {"index", "episode_index", "frame_index"}:
            column = ours.columns[NAMES[name].get(key, key)]
            frames = about[key]["dtype"] in ("image", "video")
            assert column.dtype == ("uint8" if frames else about[key]["dtype"])
            # LeRobot converts float64 to float32, and int32 to int64
            np.testing.assert_array_equal(column[slice(None)].astype(theirs[key].dtype), theirs[key], key, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_slices_equal_the_whole_column(real, name):
    whole = columns_of(real / name)
    with open_recording(real / name) as recording:
        for key, column in recording.columns.items():
            for rows in (
                slice(9, 12),
                slice(12, 19),
                slice(5, 6),
                slice(2, 9),
                slice(4, 4),
                slice(24, 25),
                slice(0, 1),
            ):
                np.testing.assert_array_equal(column[rows], whole[key][rows], key, strict=True)


@pytest.mark.parametrize("name", ["images", "videos", "h264"])
def test_each_frame_shows_the_square_of_its_step_in_the_colour_of_its_episode(real, name):
    """Compares with the drawing, not with LeRobot: the frame of a neighbouring step would differ."""
    pixels = columns_of(real / name)["pixels"].astype(int)
    last = np.cumsum(LENGTHS) - 1
    side = pixels.shape[1] // 4
    for row, frame in enumerate(pixels):
        episode = int(np.searchsorted(last, row))
        step = row - (last - LENGTHS + 1)[episode]
        turned = frame[::-1] if name == "images" else frame  # the camera whose shape is described with channels first
        y, x = (step % 3) * side, (step // 3) * side
        inner = turned[y + side // 4 : y + side - side // 4, x + side // 4 : x + side - side // 4]
        np.testing.assert_allclose(inner.mean((0, 1)), np.roll((250, 120, 10), episode), atol=12)
        np.testing.assert_allclose(frame[:, -side:].mean(), 30 * episode + 20, atol=3)


def test_fixtures_have_the_properties_that_the_tests_need(real):
    tables = {name: pq.read_table(real / name / EPISODES) for name in NAMES}
    assert tables["images"]["data/chunk_index"].to_pylist() == [0, 0, 0, 1, 1]
    assert tables["images"]["data/file_index"].to_pylist() == [0, 0, 1, 0, 0]
    top = "videos/observation.images.top"
    assert tables["videos"][f"{top}/file_index"].to_pylist() == [0, 0, 0, 0, 1]
    assert tables["videos"][f"{top}/from_timestamp"].to_pylist() == pytest.approx([0, 0.6, 1, 1.7, 0])
    codecs = {
        name: av.open(str(next((real / name).rglob("*.mp4")))).streams.video[0].codec.name
        for name in ("videos", "h264")
    }
    assert codecs["h264"] == "h264"
    assert "av1" in codecs["videos"]


def test_features_that_are_not_read_are_noted(real):
    with open_recording(real / "vectors") as recording:
        assert recording.notes == ("mood is not read: it has type string",)
    with open_recording(real / "videos") as recording:
        assert recording.notes == (
            "pixels is observation.images.top; to use another camera, set data.observation to one of"
            " observation.images.wrist",
        )


def test_observation_joins_robot_and_environment_state(real):
    columns = columns_of(real / "vectors")
    both = np.concatenate([columns["state"], columns["observation.environment_state"]], axis=1)
    np.testing.assert_array_equal(columns["observation"], both)


def test_can_be_selected_for_training(real):
    for name, shape in (("vectors", (25, 7)), ("videos", (25, 64, 80, 3))):
        with open_recording(real / name) as recording:
            chosen = select(recording, DataConfig(path=real / name)).trajectories
            assert chosen.observation.shape == shape
            assert chosen.action.shape == (25, 2)
            assert chosen.state.shape == (25, 3)


def test_single_numbers_become_vectors_in_action_and_state(tmp_path):
    numbers = pa.array(np.arange(5, dtype=np.float32))
    path = write(tmp_path, action=numbers, speed=numbers, **{"observation.state": vectors(np.zeros((5, 1)))})
    columns = columns_of(path)
    assert {name: column.shape for name, column in columns.items()} == {
        "action": (5, 1), "speed": (5,), "state": (5, 1), "observation": (5, 1),
    }  # fmt: skip


def test_renamed_feature_does_not_replace_an_existing_column(tmp_path):
    path = write(tmp_path, action=vectors(np.zeros((5, 2))), actions=vectors(np.ones((5, 2))))
    columns = columns_of(path)
    assert (columns["action"] == 0).all()
    assert (columns["actions"] == 1).all()


def test_integer_actions_are_discrete(tmp_path):
    assert columns_of(write(tmp_path, action=pa.array([1, 2, 0, 1, 0])))["action"].tolist() == [1, 2, 0, 1, 0]


def test_reading_in_order_opens_each_file_once(real, monkeypatch):
    opened, read = [], []
    monkeypatch.setattr(av, "open", lambda *a, original=av.open, **k: opened.append(a) or original(*a, **k))
    original = ForwardReader._read_from
    monkeypatch.setattr(ForwardReader, "_read_from", lambda *a: read.append(a) or original(*a))
    for name, column, tables in (("videos", "pixels", 2), ("images", "pixels", 2), ("vectors", "action", 2)):
        with open_recording(real / name) as recording:
            opened.clear(), read.clear()
            for start in range(0, 25, 2):
                recording.columns[column][slice(start, start + 2)]
            # in addition to the first video and table, which were opened for the size of frames
            assert len(read) == tables
            assert len(opened) == (name == "videos")


def test_slice_reads_only_its_rows(tmp_path):
    values = vectors(np.zeros((200_000, 8)))
    path = write(tmp_path, (100_000, 100_000), action=values)
    with open_recording(path) as recording:
        before = pa.total_allocated_bytes()
        rows = recording.columns["action"][slice(150_000, 150_002)]
        assert rows.shape == (2, 8)
        assert pa.total_allocated_bytes() - before < 8_000_000  # of 13 MB
    assert pa.total_allocated_bytes() - before < 100_000


def test_distant_frames_are_reached_by_seeking(real, monkeypatch):
    from jepa_ray.data.formats.video import Videos

    monkeypatch.setattr("jepa_ray.data.formats.video.SEEK_DISTANCE", 0.15)
    whole, seeks = columns_of(real / "h264")["pixels"], []
    with open_recording(real / "h264") as recording:
        original = Videos._open_stream
        monkeypatch.setattr(Videos, "_open_stream", lambda *a: seeks.append(a) or original(*a))
        for rows, times in ((slice(0, 2), 1), (slice(2, 4), 1), (slice(23, 25), 2), (slice(11, 13), 3)):
            np.testing.assert_array_equal(recording.columns["pixels"][rows], whole[rows])
            assert len(seeks) == times


@pytest.mark.parametrize("off", [-5e-5, 5e-5])
def test_rounded_times_give_the_nearest_frame(copied, off):
    file = copied / "h264" / DATA
    whole = columns_of(copied / "h264")["pixels"]
    times = pq.read_table(file)["timestamp"].to_numpy() + np.float32(off)
    change_columns(file, timestamp=pa.array(times))
    np.testing.assert_array_equal(columns_of(copied / "h264")["pixels"], whole)
    change_columns(file, timestamp=pa.array(times + np.float32(4 * off)))
    assert_refused(copied / "h264", "file-000.mp4")


def test_info_file_is_recognised_and_hidden_files_are_not_listed(real, copied):
    assert isinstance(format_of(real / "videos"), LeRobot)
    assert not LeRobot().recognises(peek(real))
    path = copied / "vectors"
    (path / ".cache").mkdir()
    (path / ".cache/lock").write_text("x")
    assert {str(file.relative_to(path)) for file in LeRobot().files(path)} == {
        "meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, DATA, "data/chunk-000/file-001.parquet",
    }  # fmt: skip


def test_missing_av_names_the_extra_to_install(real, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert_refused(real / "videos", re.escape("pip install 'jepa-ray[video]'"))
    columns_of(real / "images")


def test_version_2_is_refused_with_the_conversion_command(copied):
    path = copied / "vectors"
    change_info(path, codebase_version="v2.1")
    command = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=USER/NAME --push-to-hub=false --root="
    assert_refused(
        path, re.escape(f"'v2.1', but must be v3.0: convert it in place with LeRobot 0.5.1 or later: {command}{path}")
    )


@pytest.mark.parametrize("version", ["v2.0", "v4.0", "3", "", 3.0, None, ...])
def test_other_versions_are_refused(copied, version):
    change_info(copied / "vectors", codebase_version=version)
    assert_refused(copied / "vectors", "codebase_version")


@pytest.mark.parametrize(
    "key", ["features", "data_path", "video_path", "total_episodes", "total_frames", "codebase_version"]
)
@pytest.mark.parametrize("value", [..., None, 7, -1, "", "x", [], {}, 10**30, 1e300, "\n" * 99])
def test_invalid_values_in_the_info_file_are_refused(copied, key, value):
    change_info(copied / "h264", **{key: value})
    if key == "features" and value == {}:
        assert columns_of(copied / "h264") == {}
    else:
        assert_refused(copied / "h264", key)


@pytest.mark.parametrize("key", ["dtype", "shape"])
@pytest.mark.parametrize("value", [..., None, 7, "x", "x\ny", [], [0], [-3], ["3"], [3.0], [True], [2, 10**18]])
@pytest.mark.parametrize("feature", ["action", "observation.image", "timestamp"])
def test_invalid_values_of_a_feature_are_refused_or_not_read(copied, feature, key, value):
    change_info(copied / "h264", feature, **{key: value})
    if (key, value) == ("dtype", "x") and feature != "timestamp":
        with open_recording(copied / "h264") as recording:
            assert feature not in recording.columns
    else:
        assert_refused(copied / "h264", f"{feature}|{key}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b"7",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"features": NaN}',
    ],
)
def test_invalid_info_files_are_refused(copied, content):
    (copied / "vectors/meta/info.json").write_bytes(content)
    assert_refused(copied / "vectors", r"info\.json")


def test_huge_info_file_is_refused(copied):
    with (copied / "vectors/meta/info.json").open("wb") as file:
        file.truncate(1 << 40)
    assert_refused(copied / "vectors", "must have at most 16,777,216")


@pytest.mark.parametrize(
    "path",
    [
        "../{chunk_index:03d}/{file_index:03d}.parquet",
        "/etc/{chunk_index}/{file_index}",
        "data/../../{chunk_index:03d}/{file_index:03d}",
        "data/.git/{chunk_index}/{file_index}",
        "data//{chunk_index}/{file_index}",
        "data\\..\\{chunk_index}\\{file_index}",
        "data/{chunk_index:0999999999d}/{file_index}",
        "data/{chunk_index.__class__}/{file_index}",
        "data/{chunk_index!r}/{file_index}",
        "data/{chunk_index}/{file_index}/{other}",
        "data/{chunk_index}",
        "data/{}/{}",
        "data/{chunk_index}/{file_index}\x00",
    ],
)
def test_templates_that_lead_out_of_the_folder_are_refused(copied, path):
    change_info(copied / "h264", data_path=path)
    assert_refused(copied / "h264", "data_path")
    change_info(copied / "h264", data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    columns_of(copied / "h264")
    change_info(copied / "h264", video_path=path.replace("data", "{video_key}"))
    assert_refused(copied / "h264", "video_path")


def test_other_valid_templates_are_used(copied):
    path = copied / "vectors"
    (path / "rows").mkdir()
    for file in range(2):
        (path / f"data/chunk-000/file-00{file}.parquet").rename(path / f"rows/0_{file}.parquet")
    change_info(path, data_path="rows/{chunk_index}_{file_index}.parquet")
    assert len(columns_of(path)["action"]) == 25


def test_linked_files_are_followed_and_linked_folders_are_not(copied):
    path = copied / "h264"
    for name in (DATA, VIDEO):
        (path / name).rename(copied / Path(name).name)
        (path / name).symlink_to(copied / Path(name).name)
    assert len(columns_of(path)["pixels"]) == 25
    (path / "videos").rename(copied / "elsewhere")
    (path / "videos").symlink_to(copied / "elsewhere")
    assert_refused(path, "videos: is a link to another folder")


@pytest.mark.parametrize("name", [DATA, VIDEO, EPISODES])
@pytest.mark.parametrize("instead", ["nothing", "folder", "dangling link"])
def test_missing_files_are_named(copied, name, instead):
    file = copied / "h264" / name
    file.unlink()
    if instead == "folder":
        file.mkdir()
    elif instead == "dangling link":
        file.symlink_to(copied / "nowhere")
    assert_refused(
        copied / "h264", "lacks the files chunk" if (name, instead) == (EPISODES, "nothing") else re.escape(name)
    )


@pytest.mark.parametrize("name", [DATA, VIDEO, EPISODES])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.95])
def test_truncated_files_are_refused(copied, name, keep):
    file = copied / "h264" / name
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    assert_refused(copied / "h264", re.escape(str(file)))


EPISODE_CHANGES = [
    ("dataset_to_index", {4: 99}, "dataset_to_index of episode 4 is 99, but must be 25"),
    ("dataset_from_index", {1: 5}, "dataset_from_index of episode 1 is 5, but must be 6"),
    ("dataset_from_index", {1: -6}, "dataset_from_index of episode 1 is -6"),
    ("episode_index", {2: 1}, "episode_index of episode 2 is 1"),
    ("length", {0: 7}, "total_frames is 25, but meta/episodes has 26"),
    ("length", {0: 0, 1: 10}, "length of episode 0 is 0, but must be 1"),
    ("length", {0: -1, 1: 11}, "length of episode 0 is -1"),
    ("length", {0: None}, "has 1 missing values"),
    ("data/chunk_index", {2: -1}, "data/chunk_index of episode 2 is -1"),
    ("data/chunk_index", dict.fromkeys(range(5), 2**62), f"chunk-{2**62}/file-000.parquet: is missing"),
    ("data/file_index", {2: 1}, "returns to an earlier data file"),
    ("videos/observation.image/file_index", {2: 1}, "file-001.mp4: is missing"),
    ("videos/observation.image/from_timestamp", {2: 0.0}, "of episodes 2 and 1 overlap|of episodes 0 and 2 overlap"),
    ("videos/observation.image/from_timestamp", {2: float("nan")}, "episode 2 is from nan"),
    ("videos/observation.image/to_timestamp", {4: float("inf")}, "episode 4 is from 2.2"),
    ("videos/observation.image/to_timestamp", {4: 2.0}, "episode 4 is from 2.2"),
    ("videos/observation.image/to_timestamp", {1: 1.1}, "of episodes 1 and 2 overlap"),
    ("videos/observation.image/to_timestamp", {1: 0.8}, "does not increase within the 0.2000 s"),
]


@pytest.mark.parametrize(("column", "change", "match"), EPISODE_CHANGES)
def test_wrong_episodes_are_refused(copied, column, change, match):
    change_columns(copied / "h264" / EPISODES, **{column: change})
    assert_refused(copied / "h264", match)


@pytest.mark.parametrize("column", ["length", "data/file_index", "videos/observation.image/to_timestamp"])
def test_episode_tables_with_missing_or_invalid_columns_are_refused(copied, column):
    file = copied / "h264" / EPISODES
    change_columns(file, **{column: pa.array(["x"] * 5)})
    assert_refused(copied / "h264", f"{column} has type string")
    change_columns(file, drop=column)
    assert_refused(copied / "h264", f"lacks the column {column}")


@pytest.mark.parametrize(
    ("column", "change", "match"),
    [
        ("index", {3: 4}, "index of row 3 is 4, but must be 3"),
        ("episode_index", {6: 0}, "episode_index of row 6 is 0, but must be 1"),
        ("frame_index", {24: 3}, "frame_index of row 24 is 3, but must be 2"),
        ("frame_index", {24: None}, "has 1 missing values"),
        ("action", {3: None}, "action cannot be read"),
        (
            "action",
            pa.array([[1.0, 2.0]] * 24 + [[1.0]], pa.list_(pa.float32())),
            "has a list of length 1, but must have 2",
        ),
        ("action", pa.array([[1.0, None]] * 25, pa.list_(pa.float32())), "has 25 missing values"),
        ("action", pa.array([[1.0, 2.0]] * 25), "action has type list<.*double>, but by .*info.json must be float32"),
        ("action", pa.array([1.0] * 25, pa.float32()), "action has type float, but"),
        ("action", pa.array([[[1.0, 2.0]]] * 25, pa.list_(pa.list_(pa.float32()))), "action has type list<.*list<"),
        ("action", pa.array(["x"] * 25), "action has type string"),
        ("timestamp", {3: 0.35}, r"must have a frame at \d+\.\d{4} s, but its nearest frame is at"),
        ("timestamp", {3: 0.2}, "does not increase"),
        ("timestamp", {24: 9.0}, "does not increase within"),
        ("timestamp", {3: float("nan")}, "does not increase within"),
    ],
)
def test_wrong_rows_are_refused(copied, column, change, match):
    change_columns(copied / "h264" / DATA, **{column: change})
    assert_refused(copied / "h264", match)


def test_too_few_or_too_many_rows_are_refused(copied):
    file = copied / "h264" / DATA
    table = pq.read_table(file)
    for rows in (table.slice(0, 24), pa.concat_tables([table, table.slice(0, 1)]), table.slice(0, 0)):
        pq.write_table(rows, file)
        assert_refused(copied / "h264", f"has {len(rows)} rows, but by meta/episodes must have 25")


def test_missing_column_is_named(copied):
    for column in ("index", "timestamp", "action"):
        shutil.copytree(copied / "h264", copied / column)
        change_columns(copied / column / DATA, drop=column)
        assert_refused(copied / column, f"lacks the column {column}")


@pytest.mark.parametrize("shape", [[80, 64, 3], [3, 80, 64], [64, 80, 1], [64, 80], [4, 64, 80]])
def test_frames_of_another_shape_are_refused(copied, shape):
    change_info(copied / "h264", "observation.image", shape=shape)
    assert_refused(copied / "h264", "observation.image has")
    change_info(copied / "images", "observation.images.wrist", shape=shape)
    assert_refused(copied / "images", "observation.images.wrist has")


def video(path: Path, sides: tuple[int, int], frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = sides
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((*sides, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())


def test_videos_with_other_frames_are_refused(copied):
    file = copied / "videos/videos/observation.images.top/chunk-000/file-001.mp4"
    video(file, (64, 80), 3)
    columns_of(copied / "videos")
    video(file, (64, 80), 2)
    assert_refused(
        copied / "videos", r"file-001.mp4: must have a frame at 0.2000 s, but its nearest frame is at 0.1000 s"
    )
    video(file, (80, 64), 3)
    assert_refused(copied / "videos", r"file-001.mp4: the frame at 0.0000 s is damaged or has 80 x 64 pixels")
    file.write_text("ffconcat version 1.0\nfile file-000.mp4\n")  # a playlist that refers to another file
    assert_refused(copied / "videos", r"file-001.mp4: cannot be decoded \(.*Invalid data")


def test_other_videos_are_read_correctly_after_a_damaged_one(copied):
    file = copied / "videos/videos/observation.images.top/chunk-000/file-001.mp4"
    whole = columns_of(copied / "videos")["pixels"]
    file.write_bytes(b"")
    with open_recording(copied / "videos") as recording:
        pixels = recording.columns["pixels"]
        with pytest.raises(DataError, match=r"file-001\.mp4"):
            pixels[slice(20, 24)]
        np.testing.assert_array_equal(pixels[slice(0, 22)], whole[:22])


def image(mode: str, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"bytes": image("L"), "path": None}, "8 x 8 pixels and mode L, not"),
        ({"bytes": image("RGB", (8, 9)), "path": None}, "9 x 8 pixels and mode RGB, not"),
        ({"bytes": image("RGB")[:45], "path": None}, "cannot be read"),
        ({"bytes": b"", "path": None}, "cannot be read"),
        ({"bytes": image("RGB", kind="BMP"), "path": None}, "cannot be read"),
        ({"bytes": None, "path": "/etc/passwd"}, "is stored in another file"),
        (None, "is stored in another file"),
    ],
)
@pytest.mark.parametrize("row", [0, 3])
def test_invalid_images_are_refused(copied, value, match, row):
    change_columns(copied / "images" / DATA, **{"observation.images.wrist": {row: value}})
    assert_refused(copied / "images", match if row else "observation.images.wrist")


def test_column_of_another_type_instead_of_images_is_refused(copied):
    change_columns(copied / "images" / DATA, **{"observation.images.wrist": pa.array([b"x"] * 10)})
    assert_refused(copied / "images", "observation.images.wrist has type binary, but by meta/info.json must be images")


def test_depth_maps_are_not_read(copied):
    change_info(copied / "h264", "observation.image", info={"is_depth_map": True})
    with open_recording(copied / "h264") as recording:
        assert "pixels" not in recording.columns
        assert recording.notes == ("observation.image is not read: it has type depth",)


def test_more_rows_than_a_file_can_contain_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 100)
    table = Table(tmp_path / "x", {}, np.array([10**12]))
    with pytest.raises(DataError, match="index claims 8,000,000,000,000 bytes, but the file has 100"):
        table.check_claimed_size("index", 8)


CASES = int(os.environ.get("JEPA_RAY_FUZZ", "40"))


@pytest.mark.parametrize(
    ("name", "file"),
    [("h264", EPISODES), ("h264", DATA), ("h264", VIDEO), ("h264", "meta/info.json"), ("images", DATA)],
)
def test_damaged_bytes_are_refused_in_one_line_or_read(copied, name, file):
    whole = (copied / name / file).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(CASES):
        bad = bytearray(whole)
        for at in random.integers(0, len(bad), 3):
            bad[at] = random.integers(256)
        (copied / name / file).write_bytes(bad)
        try:
            columns_of(copied / name)
        except DataError as error:
            message = str(error)
        else:
            continue
        assert "\n" not in message
        assert str(copied / name) in message
