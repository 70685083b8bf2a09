"""Against datasets that LeRobot itself wrote, and what it reads from them; see files/lerobot/make.py."""

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
from jepa_ray.data.formats.parquet import Forward, Table
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
    """Folder of the datasets, not to be changed."""
    folder = tmp_path_factory.mktemp("lerobot")
    with zipfile.ZipFile(ZIPPED) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def copied(real, tmp_path):
    """Copies for a test to damage."""
    for name in NAMES:
        shutil.copytree(real / name, tmp_path / name)
    return tmp_path


def columns_of(path: Path) -> dict[str, np.ndarray]:
    with open_recording(path) as recording:
        return {name: column[slice(None)] for name, column in recording.columns.items()}


def refused(path: Path, match: str) -> None:
    """In one line, that names what is wrong."""
    with pytest.raises(DataError, match=match) as raised:
        columns_of(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 600


def described(path: Path, feature: str = "", **changes: object) -> None:
    """Change info.json, or one of the features in it; `...` removes a key."""
    file = path / "meta/info.json"
    info = json.loads(file.read_text())
    about = info["features"][feature] if feature else info
    about |= changes
    for key, value in changes.items():
        if value is ...:
            del about[key]
    file.write_text(json.dumps(info))


def rewritten(file: Path, drop: str = "", **changes: object) -> None:
    """Change columns of a parquet file: to an array, or one value by {row: value}."""
    table = pq.read_table(file)
    for name, change in changes.items():
        if isinstance(change, dict):
            values = table[name].to_pylist()
            for row, value in change.items():
                values[row] = value
            change = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, change)
    pq.write_table(table.drop([drop]) if drop else table, file)


def written(folder: Path, lengths: tuple[int, ...] = (3, 2), **columns: pa.Array) -> Path:
    """A dataset with what the layout demands and `columns`, described as they are stored."""
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
def test_rows_are_those_of_lerobot_itself(real, name):
    about = json.loads((real / name / "meta/info.json").read_text())["features"]
    with np.load(real / f"{name}.npz") as theirs, open_recording(real / name) as ours:
        assert ours.lengths.tolist() == list(LENGTHS)
        assert ours.alignment == "next"
        for key in set(theirs.files) - {"index", "episode_index", "frame_index"}:
            column = ours.columns[NAMES[name].get(key, key)]
            frames = about[key]["dtype"] in ("image", "video")
            assert column.dtype == ("uint8" if frames else about[key]["dtype"])
            # LeRobot reads float64 as float32, and int32 as int64
            np.testing.assert_array_equal(column[slice(None)].astype(theirs[key].dtype), theirs[key], key, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_any_slice_is_of_the_whole(real, name):
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
    """By what was drawn, not by what LeRobot reads: frames of a neighbour would differ."""
    pixels = columns_of(real / name)["pixels"].astype(int)
    last = np.cumsum(LENGTHS) - 1
    side = pixels.shape[1] // 4
    for row, frame in enumerate(pixels):
        episode = int(np.searchsorted(last, row))
        step = row - (last - LENGTHS + 1)[episode]
        turned = frame[::-1] if name == "images" else frame  # the camera that is described channels first
        y, x = (step % 3) * side, (step // 3) * side
        inner = turned[y + side // 4 : y + side - side // 4, x + side // 4 : x + side - side // 4]
        np.testing.assert_allclose(inner.mean((0, 1)), np.roll((250, 120, 10), episode), atol=12)
        np.testing.assert_allclose(frame[:, -side:].mean(), 30 * episode + 20, atol=3)


def test_the_fixtures_hold_what_the_tests_are_about(real):
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


def test_what_is_no_column_is_noted(real):
    with open_recording(real / "vectors") as recording:
        assert recording.notes == ("mood is of type string, and left out",)
    with open_recording(real / "videos") as recording:
        assert recording.notes == (
            "pixels is observation.images.top; other cameras, for data.observation: observation.images.wrist",
        )


def test_the_environment_s_state_is_observed_beside_the_robot_s(real):
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


def test_a_single_number_is_a_vector_where_it_has_a_role(tmp_path):
    numbers = pa.array(np.arange(5, dtype=np.float32))
    path = written(tmp_path, action=numbers, speed=numbers, **{"observation.state": vectors(np.zeros((5, 1)))})
    columns = columns_of(path)
    assert {name: column.shape for name, column in columns.items()} == {
        "action": (5, 1), "speed": (5,), "state": (5, 1), "observation": (5, 1),
    }  # fmt: skip


def test_a_name_that_is_taken_stays_with_who_has_it(tmp_path):
    path = written(tmp_path, action=vectors(np.zeros((5, 2))), actions=vectors(np.ones((5, 2))))
    columns = columns_of(path)
    assert (columns["action"] == 0).all()
    assert (columns["actions"] == 1).all()


def test_whole_numbers_as_actions_are_discrete(tmp_path):
    assert columns_of(written(tmp_path, action=pa.array([1, 2, 0, 1, 0])))["action"].tolist() == [1, 2, 0, 1, 0]


def test_in_order_each_file_is_opened_once(real, monkeypatch):
    opened, read = [], []
    monkeypatch.setattr(av, "open", lambda *a, original=av.open, **k: opened.append(a) or original(*a, **k))
    original = Forward._read_from
    monkeypatch.setattr(Forward, "_read_from", lambda *a: read.append(a) or original(*a))
    for name, column, tables in (("videos", "pixels", 2), ("images", "pixels", 2), ("vectors", "action", 2)):
        with open_recording(real / name) as recording:
            opened.clear(), read.clear()
            for start in range(0, 25, 2):
                recording.columns[column][slice(start, start + 2)]
            # besides what was opened to know the size of frames: the first video, and the first table of images
            assert len(read) == tables
            assert len(opened) == (name == "videos")


def test_a_slice_reads_no_more_than_itself(tmp_path):
    values = vectors(np.zeros((200_000, 8)))
    path = written(tmp_path, (100_000, 100_000), action=values)
    with open_recording(path) as recording:
        before = pa.total_allocated_bytes()
        rows = recording.columns["action"][slice(150_000, 150_002)]
        assert rows.shape == (2, 8)
        assert pa.total_allocated_bytes() - before < 8_000_000  # of 13 MB
    assert pa.total_allocated_bytes() - before < 100_000


def test_frames_far_ahead_and_behind_are_sought_not_decoded_up_to(real, monkeypatch):
    from jepa_ray.data.formats.video import Videos

    monkeypatch.setattr("jepa_ray.data.formats.video.FAR", 0.15)
    whole, sought = columns_of(real / "h264")["pixels"], []
    with open_recording(real / "h264") as recording:
        original = Videos._opened
        monkeypatch.setattr(Videos, "_opened", lambda *a: sought.append(a) or original(*a))
        for rows, times in ((slice(0, 2), 1), (slice(2, 4), 1), (slice(23, 25), 2), (slice(11, 13), 3)):
            np.testing.assert_array_equal(recording.columns["pixels"][rows], whole[rows])
            assert len(sought) == times


@pytest.mark.parametrize("off", [-5e-5, 5e-5])
def test_the_nearest_frame_is_taken_though_times_are_rounded(copied, off):
    file = copied / "h264" / DATA
    whole = columns_of(copied / "h264")["pixels"]
    times = pq.read_table(file)["timestamp"].to_numpy() + np.float32(off)
    rewritten(file, timestamp=pa.array(times))
    np.testing.assert_array_equal(columns_of(copied / "h264")["pixels"], whole)
    rewritten(file, timestamp=pa.array(times + np.float32(4 * off)))
    refused(copied / "h264", "file-000.mp4")


def test_recognised_by_its_description_and_files_are_all_but_hidden_ones(real, copied):
    assert isinstance(format_of(real / "videos"), LeRobot)
    assert not LeRobot().recognises(peek(real))
    path = copied / "vectors"
    (path / ".cache").mkdir()
    (path / ".cache/lock").write_text("x")
    assert {str(file.relative_to(path)) for file in LeRobot().files(path)} == {
        "meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, DATA, "data/chunk-000/file-001.parquet",
    }  # fmt: skip


def test_without_av_the_extra_is_named(real, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    refused(real / "videos", re.escape("pip install 'jepa-ray[video]'"))
    columns_of(real / "images")


def test_version_2_is_refused_with_lerobot_s_own_command(copied):
    path = copied / "vectors"
    described(path, codebase_version="v2.1")
    command = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=USER/NAME --push-to-hub=false --root="
    refused(path, re.escape(f"'v2.1', but must be v3.0; LeRobot 0.5.1 or later converts it in place: {command}{path}"))


@pytest.mark.parametrize("version", ["v2.0", "v4.0", "3", "", 3.0, None, ...])
def test_other_versions_are_refused(copied, version):
    described(copied / "vectors", codebase_version=version)
    refused(copied / "vectors", "codebase_version")


@pytest.mark.parametrize(
    "key", ["features", "data_path", "video_path", "total_episodes", "total_frames", "codebase_version"]
)
@pytest.mark.parametrize("value", [..., None, 7, -1, "", "x", [], {}, 10**30, 1e300, "\n" * 99])
def test_any_other_value_in_the_description_is_refused(copied, key, value):
    described(copied / "h264", **{key: value})
    if key == "features" and value == {}:
        assert columns_of(copied / "h264") == {}
    else:
        refused(copied / "h264", key)


@pytest.mark.parametrize("key", ["dtype", "shape"])
@pytest.mark.parametrize("value", [..., None, 7, "x", "x\ny", [], [0], [-3], ["3"], [3.0], [True], [2, 10**18]])
@pytest.mark.parametrize("feature", ["action", "observation.image", "timestamp"])
def test_any_other_value_in_a_feature_is_refused_or_left_out(copied, feature, key, value):
    described(copied / "h264", feature, **{key: value})
    if (key, value) == ("dtype", "x") and feature != "timestamp":
        with open_recording(copied / "h264") as recording:
            assert feature not in recording.columns
    else:
        refused(copied / "h264", f"{feature}|{key}")


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
def test_what_is_no_description_is_refused(copied, content):
    (copied / "vectors/meta/info.json").write_bytes(content)
    refused(copied / "vectors", r"info\.json")


def test_a_description_without_end_is_not_read(copied):
    with (copied / "vectors/meta/info.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(copied / "vectors", "at most 16,777,216 are read")


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
def test_no_template_leads_out_of_the_folder(copied, path):
    described(copied / "h264", data_path=path)
    refused(copied / "h264", "data_path")
    described(copied / "h264", data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    columns_of(copied / "h264")
    described(copied / "h264", video_path=path.replace("data", "{video_key}"))
    refused(copied / "h264", "video_path")


def test_another_template_is_followed(copied):
    path = copied / "vectors"
    (path / "rows").mkdir()
    for file in range(2):
        (path / f"data/chunk-000/file-00{file}.parquet").rename(path / f"rows/0_{file}.parquet")
    described(path, data_path="rows/{chunk_index}_{file_index}.parquet")
    assert len(columns_of(path)["action"]) == 25


def test_linked_files_are_followed_and_linked_folders_are_not(copied):
    path = copied / "h264"
    for name in (DATA, VIDEO):
        (path / name).rename(copied / Path(name).name)
        (path / name).symlink_to(copied / Path(name).name)
    assert len(columns_of(path)["pixels"]) == 25
    (path / "videos").rename(copied / "elsewhere")
    (path / "videos").symlink_to(copied / "elsewhere")
    refused(path, "videos: is a link to another folder")


@pytest.mark.parametrize("name", [DATA, VIDEO, EPISODES])
@pytest.mark.parametrize("instead", ["nothing", "folder", "dangling link"])
def test_missing_files_are_named(copied, name, instead):
    file = copied / "h264" / name
    file.unlink()
    if instead == "folder":
        file.mkdir()
    elif instead == "dangling link":
        file.symlink_to(copied / "nowhere")
    refused(copied / "h264", "has no chunk" if (name, instead) == (EPISODES, "nothing") else re.escape(name))


@pytest.mark.parametrize("name", [DATA, VIDEO, EPISODES])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.95])
def test_truncated_files_are_refused(copied, name, keep):
    file = copied / "h264" / name
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    refused(copied / "h264", re.escape(str(file)))


EPISODE_CHANGES = [
    ("dataset_to_index", {4: 99}, "dataset_to_index of episode 4 is 99, but must be 25"),
    ("dataset_from_index", {1: 5}, "dataset_from_index of episode 1 is 5, but must be 6"),
    ("dataset_from_index", {1: -6}, "dataset_from_index of episode 1 is -6"),
    ("episode_index", {2: 1}, "episode_index of episode 2 is 1"),
    ("length", {0: 7}, "total_frames is 25, but meta/episodes has 26"),
    ("length", {0: 0, 1: 10}, "length of episode 0 is 0, but must be 1"),
    ("length", {0: -1, 1: 11}, "length of episode 0 is -1"),
    ("length", {0: None}, "no value in 1 rows"),
    ("data/chunk_index", {2: -1}, "data/chunk_index of episode 2 is -1"),
    ("data/chunk_index", dict.fromkeys(range(5), 2**62), f"chunk-{2**62}/file-000.parquet: is missing"),
    ("data/file_index", {2: 1}, "comes back to a file"),
    ("videos/observation.image/file_index", {2: 1}, "file-001.mp4: is missing"),
    ("videos/observation.image/from_timestamp", {2: 0.0}, "of episodes 2 and 1 overlap|of episodes 0 and 2 overlap"),
    ("videos/observation.image/from_timestamp", {2: float("nan")}, "episode 2 is from nan"),
    ("videos/observation.image/to_timestamp", {4: float("inf")}, "episode 4 is from 2.2"),
    ("videos/observation.image/to_timestamp", {4: 2.0}, "episode 4 is from 2.2"),
    ("videos/observation.image/to_timestamp", {1: 1.1}, "of episodes 1 and 2 overlap"),
    ("videos/observation.image/to_timestamp", {1: 0.8}, "does not ascend within the 0.2000 s"),
]


@pytest.mark.parametrize(("column", "change", "match"), EPISODE_CHANGES)
def test_wrong_episodes_are_refused(copied, column, change, match):
    rewritten(copied / "h264" / EPISODES, **{column: change})
    refused(copied / "h264", match)


@pytest.mark.parametrize("column", ["length", "data/file_index", "videos/observation.image/to_timestamp"])
def test_tables_of_episodes_without_what_is_needed_are_refused(copied, column):
    file = copied / "h264" / EPISODES
    rewritten(file, **{column: pa.array(["x"] * 5)})
    refused(copied / "h264", f"{column} is of type string")
    rewritten(file, drop=column)
    refused(copied / "h264", f"lacks the column {column}")


@pytest.mark.parametrize(
    ("column", "change", "match"),
    [
        ("index", {3: 4}, "index of row 3 is 4, but must be 3"),
        ("episode_index", {6: 0}, "episode_index of row 6 is 0, but must be 1"),
        ("frame_index", {24: 3}, "frame_index of row 24 is 3, but must be 2"),
        ("frame_index", {24: None}, "no value in 1 rows"),
        ("action", {3: None}, "action cannot be read"),
        ("action", pa.array([[1.0, 2.0]] * 24 + [[1.0]], pa.list_(pa.float32())), "has a list of 1 where 2 must be"),
        ("action", pa.array([[1.0, None]] * 25, pa.list_(pa.float32())), "no value in 25 rows"),
        ("action", pa.array([[1.0, 2.0]] * 25), "action is list<.*double>, but .*info.json describes float32"),
        ("action", pa.array([1.0] * 25, pa.float32()), "action is float, but"),
        ("action", pa.array([[[1.0, 2.0]]] * 25, pa.list_(pa.list_(pa.float32()))), "action is list<.*list<"),
        ("action", pa.array(["x"] * 25), "action is string"),
        ("timestamp", {3: 0.35}, "no frame|nearest frame"),
        ("timestamp", {3: 0.2}, "does not ascend"),
        ("timestamp", {24: 9.0}, "does not ascend within"),
        ("timestamp", {3: float("nan")}, "does not ascend within"),
    ],
)
def test_wrong_rows_are_refused(copied, column, change, match):
    rewritten(copied / "h264" / DATA, **{column: change})
    refused(copied / "h264", match)


def test_rows_too_few_or_too_many_are_refused(copied):
    file = copied / "h264" / DATA
    table = pq.read_table(file)
    for rows in (table.slice(0, 24), pa.concat_tables([table, table.slice(0, 1)]), table.slice(0, 0)):
        pq.write_table(rows, file)
        refused(copied / "h264", f"has {len(rows)} rows, but its episodes 25 by meta/episodes")


def test_a_column_that_is_missing_is_named(copied):
    for column in ("index", "timestamp", "action"):
        shutil.copytree(copied / "h264", copied / column)
        rewritten(copied / column / DATA, drop=column)
        refused(copied / column, f"lacks the column {column}")


@pytest.mark.parametrize("shape", [[80, 64, 3], [3, 80, 64], [64, 80, 1], [64, 80], [4, 64, 80]])
def test_frames_of_another_shape_are_refused(copied, shape):
    described(copied / "h264", "observation.image", shape=shape)
    refused(copied / "h264", "observation.image has")
    described(copied / "images", "observation.images.wrist", shape=shape)
    refused(copied / "images", "observation.images.wrist has")


def video(path: Path, sides: tuple[int, int], frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = sides
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((*sides, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())


def test_videos_that_are_others_are_refused(copied):
    file = copied / "videos/videos/observation.images.top/chunk-000/file-001.mp4"
    video(file, (64, 80), 3)
    columns_of(copied / "videos")
    video(file, (64, 80), 2)
    refused(copied / "videos", r"file-001.mp4: has its nearest frame at 0.1000 s where one at 0.2000 s must be")
    video(file, (80, 64), 3)
    refused(copied / "videos", r"file-001.mp4: its frame at 0.0000 s is of 80 x 64 pixels")
    file.write_text("ffconcat version 1.0\nfile file-000.mp4\n")  # a list of files to play instead
    refused(copied / "videos", r"file-001.mp4: cannot be decoded \(.*Invalid data")


def test_after_a_damaged_video_others_are_read_as_they_are(copied):
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
        ({"bytes": image("L"), "path": None}, "8 x 8 and mode L, not"),
        ({"bytes": image("RGB", (8, 9)), "path": None}, "9 x 8 and mode RGB, not"),
        ({"bytes": image("RGB")[:45], "path": None}, "cannot be read"),
        ({"bytes": b"", "path": None}, "cannot be read"),
        ({"bytes": image("RGB", kind="BMP"), "path": None}, "cannot be read"),
        ({"bytes": None, "path": "/etc/passwd"}, "lies in another file"),
        (None, "lies in another file"),
    ],
)
@pytest.mark.parametrize("row", [0, 3])
def test_wrong_images_are_refused(copied, value, match, row):
    rewritten(copied / "images" / DATA, **{"observation.images.wrist": {row: value}})
    refused(copied / "images", match if row else "observation.images.wrist")


def test_images_that_are_none_are_refused(copied):
    rewritten(copied / "images" / DATA, **{"observation.images.wrist": pa.array([b"x"] * 10)})
    refused(copied / "images", "observation.images.wrist is binary, but meta/info.json describes images")


def test_frames_of_distances_are_left_out(copied):
    described(copied / "h264", "observation.image", info={"is_depth_map": True})
    with open_recording(copied / "h264") as recording:
        assert "pixels" not in recording.columns
        assert recording.notes == ("observation.image is of type depth, and left out",)


def test_more_rows_than_a_file_can_hold_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 100)
    table = Table(tmp_path / "x", {}, np.array([10**12]))
    with pytest.raises(DataError, match="index claims 8,000,000,000,000 bytes, but the file has 100"):
        table.check_claim("index", 8)


CASES = int(os.environ.get("JEPA_RAY_FUZZ", "40"))


@pytest.mark.parametrize(
    ("name", "file"),
    [("h264", EPISODES), ("h264", DATA), ("h264", VIDEO), ("h264", "meta/info.json"), ("images", DATA)],
)
def test_damaged_bytes_are_refused_in_one_line_or_do_no_harm(copied, name, file):
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
