"""Malicious files and names are refused with an error of one line, in little time and memory, and no code of them runs.

An attacker wants to write a file outside the output root, to read a private file, to run code, or to exhaust the
machine. Tests of malicious datasets are in `data/test_bad_inputs.py`.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import pickle
import resource
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml

import jepa_ray
from jepa_ray import cli
from jepa_ray.config import SweepConfig, TrainConfig, load_sweep_config, yaml_loader
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, DataError
from jepa_ray.evaluate import app as evaluate_app
from jepa_ray.files import RunFolder
from jepa_ray.report.__main__ import app as report_app
from jepa_ray.sweep.__main__ import app as sweep_app
from jepa_ray.sweep.storage.study import Study
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.__main__ import app as train_app
from jepa_ray.train.loop import Trainer

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
MAX_MIB = 400  # memory that a refusal may take in addition to what was imported before


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs a command in this process, in an empty folder, and asserts that it takes little memory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(app: Any, *arguments: str) -> Ended:
        monkeypatch.chdir(work)
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(SystemExit) as stop:
            cli.run(app, "command")
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert taken < MAX_MIB, f"the command took {taken:.0f} MiB"
        printed = capsys.readouterr()
        return Ended(int(stop.value.code or 0), printed.out, printed.err)

    return call


def assert_refused(ended: Ended, *messages: str, code: int = 2) -> None:
    assert ended.code == code, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert ended.err.rstrip("\n").isprintable(), ended
    assert len(ended.err) < 3000
    for message in messages:
        assert message in ended.err


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# ------------------------------------------------------------------------------------ specs as text

BASE = "{data: {builtin: two_rooms}}"


def spec(name: str = "s", base: str = BASE, space: str = "{training.ema_decay: [0.9, 0.99]}", more: str = "") -> str:
    return f"name: {name}\nbase: {base}\nspace: {space}\n{more}"


def laughs(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * width) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {k: 1}"]
    return "\n".join(lines + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, levels)])


def chain(levels: int) -> str:
    return "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, levels))])


def conditions(levels: int) -> str:
    keys = ["training.ema_decay", "training.learning_rate", "training.weight_decay", "training.warmup_epochs"]
    keys += ["training.grad_clip_norm", "training.loss.variance", "training.loss.covariance", "training.loss.sigreg"]
    values = "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]"
    parts = [f"{keys[0]}: {values}"]
    parts += [f"{keys[i]}: {{choices: {values}, when: {{{keys[i - 1]}: {values}}}}}" for i in range(1, levels)]
    return "{" + ", ".join(parts) + "}"


OBJECT = "!!python/object/apply:os.system ['touch CANARY']"
TEXTS: dict[str, tuple[str, str]] = {
    # YAML that runs code, expands to a large size, or never ends
    "a tag that calls": (spec(more=f"search: {OBJECT}"), "is not valid YAML"),
    "a tag that makes an object": (spec(more="search: !!python/object:os.PathLike {}"), "is not valid YAML"),
    "a tag that names a module": (spec(more="search: !!python/name:os.system"), "is not valid YAML"),
    "a billion laughs": (spec(more=laughs(9)), "more than 20,000 values"),
    "laughs that overflow 64 bits": (spec(more=laughs(40)), "more than 20,000 values"),
    "a merge bomb": (spec(more=merges(40)), "more than 20,000 values"),
    "an alias to itself": (spec(more="search: &a [*a]"), "an alias is inside the node that it refers to"),
    "a mapping that is its own value": (spec(more="search: &a {b: *a}"), "an alias is inside"),
    "deep nesting": (spec(more="search: " + "[" * 5000 + "]" * 5000), "levels of nesting"),
    "deep nesting in blocks": (spec(more="search:\n" + "".join(" " * i + "a:\n" for i in range(1, 500))), "levels"),
    "deep nesting by aliases": (spec(more=chain(900)), "levels of nesting, including those inside aliases"),
    "very many values": (spec(more="search: [" + "1," * 200_000 + "]"), "more than 20,000 values"),
    "a file of 2 MiB": (spec(more="# " + "x" * (2 * MIB)), "is larger than 1,024 KiB"),
    "a key twice": (spec() + "name: t\n", "duplicate key 'name', line 4"),
    "a key twice, deeper": (spec(more="search: {seed: 1, seed: 2}"), "duplicate key 'seed'"),
    "several documents": (spec() + "---\n" + spec(), "is not valid YAML"),
    "a zero byte": (spec(more="search: {seed: \0}"), "is not valid YAML"),
    "an unhashable key": (spec(more="? [a, b]\n: 1"), "is not valid YAML"),
    "an undefined alias": (spec(more="search: *nowhere"), "undefined alias"),
    "no mapping": ("- a\n- b", "must contain a mapping"),
    "nothing": ("", "must contain a mapping"),
    # numbers
    "an integer of 10,000 digits": (spec(more=f"search: {{seed: {'9' * 10_000}}}"), "a number with 10,000 characters"),
    "an integer in base 60": (spec(more=f"search: {{seed: 1{':59' * 90_000}}}"), "a number with 270,001 characters"),
    "an integer of 90 digits": (spec(more=f"search: {{seed: {'9' * 90}}}"), "does not fit into a 64-bit integer"),
    "infinity": (spec(more="base2: 1", base="{data: {builtin: two_rooms}, training: {learning_rate: .inf}}"), "finite"),
    "not a number": (spec(space="{training.ema_decay: [.nan]}"), "training.ema_decay"),
    "1e400": (spec(space="{training.learning_rate: {low: 1.0e-4, high: 1.0e+400}}"), "finite"),
    "too many trials": (spec(more="search: {num_trials: 1000000000000}"), "search.num_trials is 1000000000000, but"),
    "too many epochs": (spec(more="early_stopping: {scheduler: median, max_epochs: 100000000000}"), "max_epochs"),
    "a seed that no generator takes": (spec(more="search: {seed: 4294967296}"), "search.seed"),
    "a range of 10^12 values": (
        spec(space="{training.warmup_epochs: {low: 0, high: 1000000000000, int: true}}"),
        "more than 1,000,000 values",
    ),
    "a range in tiny steps": (
        spec(space="{training.warmup_epochs: {low: 0, high: 1, step: 1.0e-12}}"),
        "more than 1,000,000 values",
    ),
    "conditions that multiply": (spec(space=conditions(8)), "more than 10,000 combinations"),
    "too many choices": (spec(space="{training.ema_decay: [" + "0.5," * 3000 + "]}"), "at most 2000 items"),
    "a model that fills the memory": (spec(base="{data: {builtin: two_rooms}, model: {latent_dim_state: 1000000000}}"),
                                      "but must be at most"),
    "a model without an end": (spec(base="{data: {builtin: two_rooms}, model: {transition_depth: 100000000}}"),
                               "transition_depth is 1e+08 deep"),
    "data that fills the disk": (spec(base="{data: {builtin: two_rooms, two_rooms: {trajectories: 100000000}}}"),
                                 "GiB of frames, but must give at most"),
    # names that would be written outside the output root
    "a name above the root": (spec(name="../../etc"), "name is '../../etc'"),
    "a name of dots": (spec(name="'..'"), "name is '..'"),
    "an absolute name": (spec(name="/tmp/x"), "name is '/tmp/x'"),
    "a name with a zero byte": (spec(name='"a\\0b"'), "name is"),
    "a name with a line break": (spec(name='"a\\n"'), "name is"),
    "a name in lookalikes": (spec(name='"\\u2024\\u2024\\u2215x"'), "name is"),
    "a name that is written backwards": (spec(name='"a\\u202Egnp"'), "name is"),
    "the name of a device of Windows": (spec(name="con.yaml"), "must not be the name of a Windows device"),
    "a name with a backslash": (spec(name="'..\\x'"), "name is"),
    "a name with a stream": (spec(name="'a:b'"), "name is"),
    "a name with a dot at its end": (spec(name="'a.'"), "name is"),
    "a name of 10,000 characters": (spec(name="a" * 10_000), "(10,002 characters)"),
    "a name that is a list": (spec(name="[a]"), "name is ['a']"),
    "a run's name above the root": (spec(base="{data: {builtin: two_rooms}, experiment: {name: ../x}}"), "base"),
    "a model's name with a path": (spec(more="tracking: {registered_model: ../x}"), "tracking.registered_model"),
    "a model's name of dots": (spec(more="tracking: {registered_model: '..'}"), "tracking.registered_model"),
    "a model's name with a quote": (spec(more='tracking: {registered_model: "a\' OR 1"}'), "tracking.registered_model"),
    "an experiment's name with a zero byte": (spec(more='tracking: {experiment: "a\\0"}'), "tracking.experiment"),
    "a base with a zero byte": (spec(base='"a\\0b.yaml"'), "zero byte"),
    "a base that is a device": (spec(base="/dev/zero"), "it is not a regular file"),
    "a base that is a folder": (spec(base="/etc"), "it is a folder"),
    "a base that is not a config": (spec(base="/etc/passwd"), "/etc/passwd"),
    "a secret in another key": (spec(name="'${env:HOME}'"), "only storage, tracking.uri, base.data.path"),
    # control characters for terminals
    "an escape code as a key": (spec(more='"\\e[2J\\e]0;owned\\a": 1'), "unknown key \\x1b[2J"),
    "an escape code as a value": (spec(more='search: {algorithm: "\\e[31mtpe"}'), "search.algorithm is '\\x1b[31mtpe'"),
    "a line break in a key": (spec(more='"a\\nerror: all is well": 1'), "unknown key a\\nerror"),
    "a value of a megabyte": (spec(more=f"search: {{algorithm: {'x' * 900_000}}}"), "(900,002 characters)"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_hostile_spec_is_refused(call: Call, tmp_path: Path, case: str) -> None:
    text, message = TEXTS[case]
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    before = tree(tmp_path)
    for dry in ([], ["--dry-run"]):
        ended = call(sweep_app, str(path), "--output", "out", *dry)
        assert_refused(ended, message)
        assert ended.out == ""
    assert tree(tmp_path) == before


def test_an_error_quotes_no_line_of_the_file(call: Call, tmp_path: Path) -> None:
    """`base` may name any file that the user can read, so an error must not print its content."""
    secret = tmp_path / "shadow"
    secret.write_text("root:$6$rounds=656000$abcdef: [x\n")
    path = tmp_path / "spec.yaml"
    path.write_text(spec(base=str(secret)))
    ended = call(sweep_app, str(path))
    assert_refused(ended, "shadow: is not valid YAML")
    assert "656000" not in ended.err


def test_a_large_space_is_counted_and_not_listed(call: Call, tmp_path: Path) -> None:
    """A control for the limits: a valid spec with 10^12 points."""
    keys = ["ema_decay", "learning_rate", "weight_decay", "warmup_epochs", "grad_clip_norm", "loss.variance"]
    keys += ["loss.covariance", "loss.sigreg", "loss.inverse_dynamics", "loss.temporal_similarity", "ema_decay_final"]
    space = {f"training.{key}": [0.01 * i for i in range(1, 11)] for key in keys} | {"experiment.seed": [*range(10)]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(spec()) | {"space": space}))
    ended = call(sweep_app, str(path), "--dry-run")
    assert ended.code == 0, ended
    assert "space: 1000000000000 points" in ended.out


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket", "link to itself"])
def test_a_spec_that_is_not_a_regular_file_is_refused_at_once(call: Call, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spec.yaml"
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "socket":
            import socket

            bound = stack.enter_context(socket.socket(socket.AF_UNIX))
            here = Path.cwd()
            os.chdir(tmp_path)  # the path of a socket must be short
            bound.bind("spec.yaml")
            os.chdir(here)
        else:
            path.symlink_to(path)
        assert_refused(call(sweep_app, str(path)), "spec.yaml: cannot be read")
        assert_refused(call(train_app, "--config", str(path)), "spec.yaml: cannot be read")


SETS = {
    "a call": (f"search.seed={OBJECT}", "the value is not valid YAML"),
    "laughs": ("search.seed={" + laughs(9).replace("\n", ", ") + "}", "the value is not valid YAML"),
    "a name above the root": ("name=../x", "name is '../x'"),
    "no key": ("=1", "must have the form dotted.key=value"),
    "a key of 10,000 parts": ("a." * 10_000 + "a=1", "(20,003 characters): must have the form dotted.key=value"),
    "a key below a value": ("name.x=1", "name is a value, not a section"),
    "attributes of Python": ("base.__class__.__init__=1", "unknown key base.__class__"),
    "escape codes": ("\x1b[2Jx=1", "unknown key \\x1b[2Jx"),
    "a path with a zero byte": ('base.data.path="a\\0b"', "zero byte"),
    "a secret elsewhere": ("base.data.cache_dir='${env:HOME}/x'", "may contain a secret"),
}


@pytest.mark.parametrize("case", SETS)
def test_a_hostile_option_is_refused(call: Call, tmp_path: Path, case: str) -> None:
    item, message = SETS[case]
    path = tmp_path / "spec.yaml"
    path.write_text(spec())
    before = tree(tmp_path)
    assert_refused(call(sweep_app, str(path), "--set", item), message)
    assert tree(tmp_path) == before


def test_the_limits_leave_room_for_real_configs() -> None:
    """A control: a document just below each limit is read."""
    assert yaml_loader.parse("a: " + "[" * 38 + "]" * 38)
    assert len(yaml_loader.parse("[" + "1," * 15_000 + "]")) == 15_000
    assert yaml_loader.parse("a: &a {k: 1}\nb: {<<: *a, k: 2}\nc: *a") == {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 1}}
    assert yaml_loader.parse(str(2**63 - 1)) == 2**63 - 1


# ---------------------------------------------------------------------------- links in the output folder


@pytest.mark.parametrize(
    "planted", ["sweep", "spec.yaml", "optuna.db", "checkpoints", "ray.log", ".s.lock", ".s.owner"]
)
def test_a_link_in_the_output_folder_is_refused_and_not_followed(tmp_path: Path, planted: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    root = tmp_path / "out"
    folder = root / "sweeps" / "s"
    folder.parent.mkdir(parents=True)
    if planted == "sweep":
        folder.symlink_to(elsewhere)
    elif planted.startswith("."):
        (folder.parent / planted).symlink_to(elsewhere / "precious")
    else:
        folder.mkdir()
        (folder / planted).symlink_to(elsewhere if planted == "checkpoints" else elsewhere / "precious")
    with (
        pytest.raises(ConfigError, match=r"is a link to .*elsewhere.* remove the link"),
        RunFolder(folder, "spec.yaml").begin("a: 1\n", fresh=False),
    ):
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "mine"


def test_an_output_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with RunFolder(tmp_path / "out" / "sweeps" / "s", "spec.yaml").begin("a: 1\n", fresh=False):
        pass
    assert (tmp_path / "disk" / "sweeps" / "s" / "spec.yaml").exists()


@pytest.mark.parametrize("text", [laughs(9), "a: !!python/name:os.system", "[1, 2", "just text"])
def test_a_planted_document_is_refused(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "sweeps" / "s"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(text)
    with (
        pytest.raises(ConfigError, match=r"spec\.yaml: (is not valid YAML|must contain)"),
        RunFolder(folder, "spec.yaml").begin("a: 1\n", fresh=False),
    ):
        pass


# ------------------------------------------------------------------------------------------- checkpoints


class Canary:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def healthy(train_config: TrainConfig, dataset: TrajectoryDataset) -> bytes:
    """A training checkpoint with a best epoch."""
    trainer = Trainer(train_config, dataset)
    trainer.run_epoch()
    return ckpt.to_bytes(trainer.checkpoint())


@pytest.fixture
def model(healthy: bytes) -> dict[str, Any]:
    """A model checkpoint, which tests change."""
    return ckpt.best_model(ckpt.from_bytes(healthy))


def rezipped(data: bytes, compression: int, change: Callable[[str, bytes], bytes] = lambda name, part: part) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def overlapping(data: bytes) -> bytes:
    """A zip file with thousands of entries that share the same bytes: reading all of them takes much memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/99", b"0" * 100_000)
        last = new.infolist()[-1]
        for i in range(2000):
            copy = zipfile.ZipInfo(f"archive/data/{100 + i}")
            copy.header_offset, copy.file_size = last.header_offset, last.file_size
            copy.compress_size, copy.CRC = last.compress_size, last.CRC
            new.filelist.append(copy)
    return out.getvalue()


def with_model(made: dict[str, Any], /, **changes: Any) -> bytes:
    return ckpt.to_bytes({**made, **changes})


def with_config(model: dict[str, Any], key: str, value: Any) -> bytes:
    config = json.loads(json.dumps(model["config"]))
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return with_model(model, config=config)


def with_weight(model: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> bytes:
    weights = dict(model["model"])
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name] = change(weights[name])
    return with_model(model, model=weights)


def deep(levels: int) -> list[Any]:
    nested: list[Any] = ["lol"]
    for _ in range(levels):
        nested = [nested] * 9  # the same list nine times: small in the file, large when all of it is visited
    return nested


Make = Callable[[dict[str, Any], Path], bytes]
CHECKPOINTS: dict[str, Make] = {
    "a pickle that calls": lambda model, canary: pickle.dumps(Canary(canary)),
    "torch's own format, which calls": lambda model, canary: with_model(model, extra=Canary(canary)),
    "a call in place of the weights": lambda model, canary: with_weight(model, lambda tensor: Canary(canary)),
    "a whole module": lambda model, canary: with_model(model, model=torch.nn.Linear(2, 2)),
    "half a file": lambda model, canary: with_model(model)[:5000],
    "no bytes": lambda model, canary: b"",
    "zeros": lambda model, canary: b"\0" * 100_000,
    "text": lambda model, canary: b"model: {}\n" * 100,
    "a zip of other things": lambda model, canary: rezipped(with_model(model), 0, lambda name, part: b"hello"),
    "a zip bomb": lambda model, canary: rezipped(
        with_model(model, extra=torch.zeros(8 * MIB)), zipfile.ZIP_DEFLATED
    ),
    "entries that overlap": lambda model, canary: overlapping(with_model(model)),
    "a list": lambda model, canary: ckpt.to_bytes([1, 2]),  # type: ignore[arg-type]
    "nothing in it": lambda model, canary: ckpt.to_bytes({}),
    "another format": lambda model, canary: with_model(model, format=99),
    "no weights": lambda model, canary: ckpt.to_bytes({k: v for k, v in model.items() if k != "model"}),
    "weights that are a list": lambda model, canary: with_model(model, model=[1]),
    "weights of another model": lambda model, canary: with_model(model, model={"a": torch.zeros(2)}),
    "a weight that is text": lambda model, canary: with_weight(model, lambda tensor: "x"),
    "a weight of another shape": lambda model, canary: with_weight(model, lambda tensor: tensor[:1]),
    "a sparse weight": lambda model, canary: with_weight(model, lambda tensor: tensor.to_sparse()),
    "a weight with one element that claims to have all": lambda model, canary: with_weight(
        model, lambda tensor: torch.zeros(1).expand(tensor.shape)
    ),
    "a config that is a list": lambda model, canary: with_model(model, config=[1, 2]),
    "a config with an unknown key": lambda model, canary: with_config(model, "model.evil", 1),
    "a config of laughs": lambda model, canary: with_config(model, "model.evil", None) and with_model(
        model, config=model["config"] | {"model": deep(9)}
    ),
    "a config with a tensor": lambda model, canary: with_model(model, config={"data": torch.zeros(3)}),
    "a config of a huge model": lambda model, canary: with_config(model, "model.latent_dim_state", 65536),
    "a config of an endless model": lambda model, canary: with_config(model, "model.transition_depth", 10**9),
    "a config with a name above the root": lambda model, canary: with_config(model, "experiment.name", "../x"),
    "shapes that are text": lambda model, canary: with_model(
        model, data_spec=model["data_spec"] | {"observation_shape": "abc"}
    ),
    "shapes that are huge": lambda model, canary: with_model(
        model, data_spec=model["data_spec"] | {"observation_shape": [3, 10**9, 10**9]}
    ),
    "shapes that are negative": lambda model, canary: with_model(
        model, data_spec=model["data_spec"] | {"action_dim": -5}
    ),
    "shapes with an unknown key": lambda model, canary: with_model(model, data_spec={"evil": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(call: Call, tmp_path: Path, model: dict[str, Any], case: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "best_jepa_model.pt"
    path.write_bytes(CHECKPOINTS[case](model, canary))
    before = tree(tmp_path)
    assert_refused(call(evaluate_app, str(path)), "best_jepa_model.pt: ")
    with pytest.raises(DataError, match=r"best_jepa_model\.pt: "):
        jepa_ray.load(path)
    assert not canary.exists()
    assert tree(tmp_path) == before


def test_unpickling_the_canary_creates_its_folder(tmp_path: Path) -> None:
    """A control for the tests of malicious checkpoints."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_healthy_checkpoint_is_loaded(tmp_path: Path, model: dict[str, Any]) -> None:
    path = tmp_path / "best_jepa_model.pt"
    path.write_bytes(ckpt.to_bytes(model))
    assert jepa_ray.load(path).latent_dim == 16


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_checkpoint_that_is_not_a_regular_file_is_refused_at_once(call: Call, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "best_jepa_model.pt"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    assert_refused(call(evaluate_app, str(path)), "cannot be read (it is not a regular file)")


def test_a_checkpoint_cannot_choose_the_location_of_a_cache(call: Call, tmp_path: Path, model: dict[str, Any]) -> None:
    path, chosen = tmp_path / "best_jepa_model.pt", tmp_path / "chosen-by-the-attacker"
    path.write_bytes(with_config(model, "data.cache_dir", str(chosen)))
    assert call(evaluate_app, str(path)).code == 0
    assert not chosen.exists()
    assert (tmp_path / "cache" / "jepa_ray").exists()  # the user's own cache folder


def test_the_error_about_data_that_a_checkpoint_names_shows_nothing_of_the_file(
    call: Call, tmp_path: Path, model: dict[str, Any]
) -> None:
    path, secret = tmp_path / "best_jepa_model.pt", tmp_path / "id_rsa"
    secret.write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n")
    config = model["config"] | {"data": model["config"]["data"] | {"builtin": None, "path": str(secret)}}
    path.write_bytes(with_model(model, config=config))
    ended = call(evaluate_app, str(path))
    assert_refused(ended, "id_rsa")
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("case", ["a pickle that calls", "half a file", "zeros", "text"])
def test_a_run_does_not_resume_from_a_hostile_checkpoint(tmp_path: Path, model: dict[str, Any], case: str) -> None:
    """Runs and workers resume by `from_bytes`, whose error fails the trial but not its worker group."""
    canary = tmp_path / "canary"
    with pytest.raises(DataError, match="is not a checkpoint that loads without unpickling code"):
        ckpt.from_bytes(CHECKPOINTS[case](model, canary))
    assert not canary.exists()


RESTORED: dict[str, Any] = {
    "no optimiser": lambda made: {k: v for k, v in made.items() if k != "optimizer"},
    "an optimiser that is a string": lambda made: made | {"optimizer": "x"},
    "an optimiser of another model": lambda made: made | {"optimizer": {"state": {}, "param_groups": []}},
    "terms that are a list": lambda made: made | {"terms": [1]},
    "weights of another model": lambda made: made | {"model": {"a": torch.zeros(2)}},
    "a list": lambda made: [1, 2],
}


@pytest.mark.parametrize("case", RESTORED)
def test_a_trial_is_not_continued_from_the_checkpoint_of_another_run(
    train_config: TrainConfig, dataset: TrajectoryDataset, healthy: bytes, case: str
) -> None:
    """A `DataError` fails the trial on all ranks; another error would end the worker group, and be retried."""
    with pytest.raises(DataError, match="the checkpoint does not fit this run"):
        Trainer(train_config, dataset).restore(RESTORED[case](ckpt.from_bytes(healthy)))


# ------------------------------------------------------------------------------------------------ studies


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    """The folder of a sweep with one trial."""
    folder = tmp_path / "out" / "sweeps" / "s"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec())
    study = Study.open(load_sweep_config(folder / "spec.yaml"), folder / "optuna.db")
    trial = study.optuna.ask({"training.ema_decay": optuna.distributions.CategoricalDistribution([0.9, 0.99])})
    study.begin(trial.number)
    study.report(trial.number, 1, METRICS_ROW, last=True)
    study.finish(trial.number)
    return folder


METRICS_ROW = {"val_rollout_mrr": 0.5, "epoch_s": 1.0, "val_loss": 0.1, "val_cosine": 0.9}


def sql(folder: Path, command: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(folder / "optuna.db")) as database, database:
        database.execute(command, values)


def set_epoch(value: Any) -> Callable[[Path], None]:
    return lambda folder: sql(
        folder, "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'epoch_1'", json.dumps(value)
    )


def add_attribute(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: sql(
        folder, "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, ?, ?)", key, json.dumps(value)
    )


def as_fifo(folder: Path) -> None:
    (folder / "optuna.db").unlink()
    os.mkfifo(folder / "optuna.db")


def another_database(folder: Path) -> None:
    (folder / "optuna.db").unlink()
    sql(folder, "CREATE TABLE studies (a)")


STUDIES: dict[str, Callable[[Path], Any]] = {
    "not a database": lambda folder: (folder / "optuna.db").write_bytes(b"not a database" * 1000),
    "half a database": lambda folder: (folder / "optuna.db").write_bytes((folder / "optuna.db").read_bytes()[:20_000]),
    "a pipe": as_fifo,
    "another database": another_database,
    "another sweep's": lambda folder: sql(folder, "UPDATE studies SET study_name = 'other'"),
    "an epoch that is a list": set_epoch([1, 2]),
    "an epoch of texts": set_epoch({"last": True, "val_rollout_mrr": "<b>1</b>"}),
    "an epoch of objects": set_epoch({"last": True, "val_rollout_mrr": {"a": 1}}),
    "an epoch whose group is a number": set_epoch({"last": True, "ran": 5, "val_rollout_mrr": 0.5}),
    "an epoch without an end": set_epoch({"val_rollout_mrr": 0.5}),
    "an epoch that is not JSON": lambda folder: sql(folder, "UPDATE trial_user_attributes SET value_json = '{'"),
    "an error that is a number": add_attribute("error", 5),
    "a stop at a text": add_attribute("stop_epoch", "x"),
    "a repeat of a list": add_attribute("repeat_of", [1]),
}


@pytest.mark.parametrize("case", STUDIES)
def test_a_hostile_study_is_refused(call: Call, sweep_folder: Path, case: str) -> None:
    STUDIES[case](sweep_folder)
    before = tree(sweep_folder)
    assert_refused(call(report_app, str(sweep_folder)), "optuna.db: ")
    assert tree(sweep_folder) == before
    if case not in ("a pipe", "another sweep's"):  # in these cases a new sweep of that name starts without a study
        with pytest.raises(ConfigError, match=r"optuna\.db: does not hold the study of sweep s"):
            Study.open(load_sweep_config(sweep_folder / "spec.yaml"), sweep_folder / "optuna.db")


CMA = {
    "name": "s",
    "base": {"data": {"builtin": "two_rooms"}},
    "space": {"training.ema_decay": {"low": 0.5, "high": 0.9}, "training.learning_rate": {"low": 0.1, "high": 0.9}},
    "search": {"algorithm": "cma-es", "num_trials": 40, "enqueue_base": False},
}


def searched(study: Study, trials: int) -> None:
    from jepa_ray.sweep.search.searcher import Search

    search = Search(study)
    for i in range(trials):
        suggestion = search.ask()
        assert suggestion is not None
        study.report(suggestion.number, 1, METRICS_ROW | {"val_rollout_mrr": 0.1 + 0.01 * (i % 7)}, last=True)
        study.finish(suggestion.number)


def test_a_pickle_in_a_study_is_only_loaded_if_it_is_a_cma_es_optimiser(tmp_path: Path) -> None:
    """Optuna stores the state of CMA-ES as a pickle. Its own pickles are loaded, any other is refused."""
    database, config = tmp_path / "optuna.db", SweepConfig.model_validate(CMA)
    searched(Study.open(config, database), 20)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM trial_system_attributes WHERE key LIKE 'cma:optimizer%'"
        assert connection.execute(query).fetchone()[0]
    searched(Study.open(config, database), 3)
    evil = pickle.dumps(Canary(tmp_path / "canary")).hex()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM trial_system_attributes WHERE key LIKE 'cma:optimizer%' AND key NOT LIKE '%:0'")
        connection.execute(
            "UPDATE trial_system_attributes SET value_json = ? WHERE key LIKE 'cma:optimizer:0'", (json.dumps(evil),)
        )
    with pytest.raises(ConfigError, match=r"is not a CMA-ES optimizer \(it names .*mkdir\), and is not loaded"):
        searched(Study.open(config, database), 1)
    assert not (tmp_path / "canary").exists()


# --------------------------------------------------------------------------------------- MLflow artifacts


@pytest.fixture
def artifact(tmp_path: Path, model: dict[str, Any]) -> Iterator[Path]:
    """The files of a registered model, and files that MLflow's own flavours would unpickle."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "best_jepa_model.pt").write_bytes(ckpt.to_bytes(model))
    for name in ("python_model.pkl", "model.pkl", "data.pkl", "best_config.yaml"):
        (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    yield folder
    assert not (tmp_path / "canary").exists()


def test_our_loader_reads_no_pickle_of_an_artifact(artifact: Path) -> None:
    from jepa_ray.adapters.pyfunc import _load_pyfunc

    assert _load_pyfunc(str(artifact)).get_raw_model().latent_dim == 16


@pytest.mark.parametrize("case", ["a pickle that calls", "torch's own format, which calls", "a zip bomb", "zeros"])
def test_our_loader_refuses_an_artifact_of_hostile_weights(
    artifact: Path, tmp_path: Path, model: dict[str, Any], case: str
) -> None:
    from jepa_ray.adapters.pyfunc import _load_pyfunc

    (artifact / "best_jepa_model.pt").write_bytes(CHECKPOINTS[case](model, tmp_path / "canary"))
    with pytest.raises(DataError):
        _load_pyfunc(str(artifact))


def test_our_loader_ignores_the_description_of_an_artifact(artifact: Path) -> None:
    """MLflow reads paths from `MLmodel`; our loader opens one fixed name in the folder that it is given."""
    from jepa_ray.adapters.pyfunc import _load_pyfunc

    described = {"flavors": {"python_function": {"data": "../../../etc", "python_model": "python_model.pkl"}}}
    (artifact / "MLmodel").write_text(yaml.safe_dump(described))
    assert _load_pyfunc(str(artifact)).get_raw_model().latent_dim == 16
    with pytest.raises(DataError, match="cannot be read"):
        _load_pyfunc(str(artifact / ".." / "nowhere"))


def test_the_package_loads_no_model_through_mlflow() -> None:
    """`mlflow.pyfunc.load_model` runs code of the model; this package only reads weights, and never calls it."""
    sources = Path(jepa_ray.__file__).parent.rglob("*.py")
    calls = [f"{p.name}: {line}" for p in sources for line in p.read_text().splitlines() if "load_model(" in line]
    assert all("pyfunc.load_model" not in call or '"' in call or "`" in call for call in calls), calls


# ---------------------------------------------------------------------------------------------- the report

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_a_report_of_a_hostile_study_contains_no_script_of_it(call: Call, sweep_folder: Path) -> None:
    for key in ("error", "stop", "collapse"):
        add_attribute(key, EVIL)(sweep_folder)
    sql(sweep_folder, "UPDATE trials SET state = 'FAIL'")
    sessions = json.dumps({"began": 1.8e9, "command": EVIL, "versions": {EVIL: EVIL}})
    sql(
        sweep_folder,
        "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'session_0', ?)",
        sessions,
    )
    ended = call(report_app, str(sweep_folder))
    assert ended.code == 0, ended
    page = (sweep_folder / "report.html").read_text()
    assert "alert(1)" in page  # it is shown, as text
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_report_does_not_contain_files_that_a_link_refers_to(call: Call, sweep_folder: Path, tmp_path: Path) -> None:
    import base64

    secret = tmp_path / "id_rsa"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n not a picture but a key, hunter2")
    (sweep_folder / "planned.png").symlink_to(secret)
    assert call(report_app, str(sweep_folder)).code == 0
    encoded = base64.b64encode(secret.read_bytes()).decode()
    assert encoded not in (sweep_folder / "report.html").read_text()
    (sweep_folder / "planned.png").unlink()
    (sweep_folder / "planned.png").write_bytes(secret.read_bytes())
    assert call(report_app, str(sweep_folder)).code == 0
    assert encoded in (sweep_folder / "report.html").read_text()  # a control: a picture of the folder itself is shown


def test_a_leaderboard_contains_no_formulas(tmp_path: Path) -> None:
    from jepa_ray.sweep.output.leaderboard import write_leaderboard

    formulas = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1"]
    config = SweepConfig.model_validate(
        yaml.safe_load(spec())
        | {"space": {"data.observation": [*formulas, "pixels"], "training.ema_decay": [0.5, 0.9]}}
    )
    study = Study(config, optuna.storages.InMemoryStorage())
    for text in (*formulas, "pixels"):
        study.optuna.enqueue_trial({"data.observation": text, "training.ema_decay": 0.5})
        trial = study.optuna.ask(
            {
                "data.observation": optuna.distributions.CategoricalDistribution([*formulas, "pixels"]),
                "training.ema_decay": optuna.distributions.CategoricalDistribution([0.5, 0.9]),
            }
        )
        study.begin(trial.number)
        study.report(trial.number, 1, METRICS_ROW | {"val_rollout_mrr": -0.5}, last=True)
        study.finish(trial.number)
    rows = list(csv.DictReader(write_leaderboard(study, {}, tmp_path).read_text().splitlines()))
    assert [row["data.observation"] for row in rows] == [*(f"'{text}" for text in formulas), "pixels"]
    assert {row["objective"] for row in rows} == {"-0.5"}  # numbers are unchanged
    assert {row["training.ema_decay"] for row in rows} == {"0.5"}


def test_the_shapes_of_a_real_dataset_are_valid(dataset: TrajectoryDataset) -> None:
    """A control for the checks of `data_spec`."""
    stored = {"data_spec": dataclasses.asdict(dataset.spec)}
    assert ckpt.data_spec(stored) == dataset.spec
    assert np.prod(dataset.spec.observation_shape) < ckpt.MAX_SIZE
