"""The commands as users run them. Bad input gives one line and exit code 2, and nothing is written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jepa_ray import cli
from jepa_ray.sweep.__main__ import app as sweep_app
from jepa_ray.train.__main__ import app as train_app

ROOT = Path(__file__).parent.parent
MakeH5 = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

BASE = "data: {builtin: two_rooms}"
BEFORE_RAY = r"(loading torch and Ray \.\.\. \d+ s\n)*(preparing the dataset \.\.\. \d+ s\n)*"  # all that may be shown
SPEC = "name: s\nbase: {data: {builtin: two_rooms}}\nspace: {training.ema_decay: [0.9, 0.99]}\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `python ARGS...` outside the repository, with a temporary cache folder."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "XDG_CACHE_HOME": str(tmp_path / "xdg"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        command = [sys.executable, *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def assert_refused(done: subprocess.CompletedProcess[str], out: Path, *says: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("\n")
    assert re.fullmatch(BEFORE_RAY, done.stdout), done.stdout
    for part in says:
        assert part in done.stderr
    assert not out.exists()


# --------------------------------------------------------------------------- bad configs and command lines

# case -> (text of the config, part of the message)
BAD_TRAIN = {
    "broken YAML": ("a: [1", "is not valid YAML"),
    "unknown key": (f"{BASE}\ntraining: {{learning_rte: 1}}", "did you mean training.learning_rate?"),
    "out of range": (f"{BASE}\ntraining: {{ema_decay: 2}}", "training.ema_decay is 2, but must be less than 1"),
    "unknown metric": (f"{BASE}\nexperiment: {{objective: {{metric: acc}}}}", "experiment.objective.metric is 'acc'"),
    "batch not divisible": (
        f"{BASE}\ntraining: {{batch_size: 30, num_workers: 4}}",
        "batch_size is 30, but must be divisible by the number of workers (4): use 28 or 32",
    ),
    "no data": ("data: {}", "exactly one of path and builtin"),
}
BAD_SWEEP = {
    "broken YAML": ("name: [s", "is not valid YAML"),
    "unknown key": (SPEC + "serch: {}", "unknown key serch: did you mean search?"),
    "unknown swept key": (SPEC.replace("ema_decay", "ema_dekay"), "did you mean training.ema_decay?"),
    "out of range": (SPEC.replace("0.9,", "1.9,"), "training.ema_decay is 1.9, but must be less than 1"),
    "unknown metric": (SPEC + "objective: {metric: val_los}", "objective.metric is 'val_los'"),
    "empty space": ("name: s\nbase: {data: {builtin: two_rooms}}\nspace: {}", "space is {}, but"),
    "batch not divisible": (
        SPEC + "resources: {workers_per_trial: 3}",
        "batch_size is 32, but must be divisible by the number of workers (3): use 30 or 33",
    ),
    "missing base": (SPEC.replace("{data: {builtin: two_rooms}}", "no.yaml"), "no.yaml: cannot be read"),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_train_refuses_bad_config(run: Run, tmp_path: Path, out: Path, case: str) -> None:
    text, says = BAD_TRAIN[case]
    config = write(tmp_path / "c.yaml", text)
    assert_refused(run("-m", "jepa_ray.train", "--config", config, "--output", str(out)), out, config, says)


@pytest.mark.parametrize("case", BAD_SWEEP)
def test_sweep_refuses_bad_spec(run: Run, tmp_path: Path, out: Path, case: str) -> None:
    text, says = BAD_SWEEP[case]
    spec = write(tmp_path / "s.yaml", text)
    assert_refused(run("-m", "jepa_ray.sweep", spec, "--output", str(out)), out, says)


def test_missing_files_are_refused(run: Run, out: Path) -> None:
    says = "no.yaml: cannot be read (No such file or directory)"
    assert_refused(run("-m", "jepa_ray.train", "--config", "no.yaml", "--output", str(out)), out, says)
    assert_refused(run("-m", "jepa_ray.sweep", "no.yaml", "--output", str(out)), out, says)


def test_set_without_equals_sign_is_refused(run: Run, tmp_path: Path, out: Path) -> None:
    config, spec = write(tmp_path / "c.yaml", BASE), write(tmp_path / "s.yaml", SPEC)
    says = "--set training.seed: must have the form dotted.key=value"
    args = ["--output", str(out), "--set", "training.seed"]
    assert_refused(run("-m", "jepa_ray.train", "--config", config, *args), out, says)
    assert_refused(run("-m", "jepa_ray.sweep", spec, *args), out, says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["jepa_ray.train"], "--config"),
        (["jepa_ray.sweep"], "SPEC.yaml"),
        (["jepa_ray.sweep", "s.yaml", "--dryrun"], "--dryrun"),
        (["jepa_ray.data", "three-rooms"], "three-rooms"),
        (["jepa_ray.data", "two-rooms"], "--out"),
    ],
)
def test_misused_command_line_is_refused(run: Run, out: Path, args: list[str], says: str) -> None:
    assert_refused(run("-m", *args), out, says)


def test_resources_that_never_fit_are_refused_by_the_dry_run(run: Run, tmp_path: Path, out: Path) -> None:
    spec = write(tmp_path / "s.yaml", SPEC + "resources: {cpus_per_worker: 5000}")
    done = run("-m", "jepa_ray.sweep", spec, "--output", str(out), "--dry-run")
    assert_refused(done, out, "a trial needs 5000 cpus", "lower workers_per_trial or cpus_per_worker")


# ----------------------------------------------------------------------- bad data, found before Ray starts

ROWS = 22  # of the default file of `canonical_h5`
NAN_ACTION = np.zeros((ROWS, 2), np.float32)
NAN_ACTION[6] = np.nan


def not_hdf5(make: MakeH5) -> Path:
    path = make()
    path.write_text("row,action\n")
    return path


BAD_DATA: dict[str, tuple[Callable[[MakeH5], Path], str]] = {
    "not HDF5": (not_hdf5, "is not a readable HDF5 file"),
    "no action": (lambda make: make(columns={"action": None}), "lacks the column action"),
    "NaN action": (lambda make: make(columns={"action": NAN_ACTION}), "at row 6 (episode 1, step 1)"),
    "inconsistent lengths": (
        lambda make: make(columns={"ep_len": np.array([5, 7, 4, 5])}),
        "ep_len adds up to 21 rows, but the columns have 22",
    ),
    "fewer transitions than a batch": (lambda make: make(), "training.batch_size is 32, but the data has only"),
    "vectors for a vit": (lambda make: make(observation="vector", lengths=(20,) * 4), "encoder_type"),
}


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, app: Any, *args: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, so that torch and Ray are imported only once for all tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "argv", ["command", *args])
    with pytest.raises(SystemExit) as stop:
        cli.run(app, "command")
    said = capsys.readouterr()
    return subprocess.CompletedProcess(args, int(stop.value.code or 0), said.out, said.err)


def assert_no_cache(tmp_path: Path) -> None:
    left = (tmp_path / "xdg").rglob("*")
    assert [path for path in left if path.name != "jepa_ray" and path.suffix != ".lock"] == []


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused(
    canonical_h5: MakeH5,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    case: str,
) -> None:
    make, says = BAD_DATA[case]
    base = f"{{data: {{path: {make(canonical_h5)}}}}}"
    if command == "train":
        args = ["--config", write(tmp_path / "c.yaml", base), "--output", str(out)]
        done = called(monkeypatch, capsys, tmp_path, train_app, *args)
    else:
        spec = SPEC.replace("{data: {builtin: two_rooms}}", base)
        done = called(monkeypatch, capsys, tmp_path, sweep_app, write(tmp_path / "s.yaml", spec), "--output", str(out))
    assert_refused(done, out, says)
    if "batch" not in case and "vit" not in case:  # those datasets are valid for other configs
        assert_no_cache(tmp_path)


def test_bad_data_gives_one_line_in_a_separate_process(
    run: Run, canonical_h5: MakeH5, tmp_path: Path, out: Path
) -> None:
    """Importing torch and Ray prints nothing to stderr, which contains exactly one line."""
    path = canonical_h5(columns={"action": NAN_ACTION})
    spec = write(tmp_path / "s.yaml", SPEC.replace("{builtin: two_rooms}", f"{{path: {path}}}"))
    assert_refused(run("-m", "jepa_ray.sweep", spec, "--output", str(out)), out, str(path), "action is not finite")
    assert_no_cache(tmp_path)


def test_missing_data_is_refused(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "c.yaml", "data: {path: no.h5}")
    done = called(monkeypatch, capsys, tmp_path, train_app, "--config", config, "--output", str(out))
    assert_refused(done, out, f"{tmp_path.resolve() / 'no.h5'}: cannot be read")


@pytest.mark.parametrize(
    "objective", ["{metric: rollout_probe_r2}", "[{metric: val_loss}, {metric: rollout_probe_r2}]"]
)
def test_an_objective_that_the_data_does_not_support_is_refused(
    canonical_h5: MakeH5,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objective: str,
) -> None:
    data = SPEC.replace("{builtin: two_rooms}", f"{{path: {canonical_h5(columns={'state': None})}}}")
    spec = write(tmp_path / "s.yaml", f"{data}objective: {objective}")
    done = called(monkeypatch, capsys, tmp_path, sweep_app, spec, "--output", str(out))
    assert done.returncode == 2
    assert done.stderr == (
        "error: objective.metric is rollout_probe_r2, but the data has no state labels, which this metric needs:"
        " use val_rollout_mrr, or data with state labels\n"
    )
    assert not out.exists()


@pytest.mark.parametrize("key", ["cpus_per_worker: 5000", "gpus_per_worker: 100"])
def test_resources_that_never_fit_are_refused_before_data_is_simulated(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    spec = write(tmp_path / "s.yaml", SPEC + f"resources: {{{key}}}")
    done = called(monkeypatch, capsys, tmp_path, sweep_app, spec, "--output", str(out))
    assert_refused(done, out, f"lower workers_per_trial or {key.split(':')[0]}")
    config = write(tmp_path / "c.yaml", f"{BASE}\ntraining: {{{key}}}")
    done = called(monkeypatch, capsys, tmp_path, train_app, "--config", config, "--output", str(out))
    assert_refused(done, out, key.split(":")[0], "of this machine")
    assert not (tmp_path / "xdg").exists()


def test_output_that_is_a_file_is_refused(
    canonical_h5: MakeH5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file of the user")
    config = write(tmp_path / "c.yaml", f"data: {{path: {canonical_h5()}}}\ntraining: {{batch_size: 2}}")
    args = ["--config", config, "--output", str(taken), "--set", "model.encoder_type=cnn"]
    done = called(monkeypatch, capsys, tmp_path, train_app, *args)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(taken) in done.stderr
    assert taken.read_text() == "a file of the user"


# ------------------------------------------------------------------------------------------ output

MODULES = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("IMPORTED", *sorted(name for name in ("torch", "ray", "mlflow", "pandas") if name in sys.modules))
"""


PLANNED = """
name: planned
base: {data: {builtin: two_rooms}}
space:
  training.ema_decay: [0.99, 0.995, 0.999]
  model.transition_depth: [2, 4]
search: {algorithm: grid, num_trials: 5}
early_stopping: {grace_epochs: 1, max_epochs: 9, reduction_factor: 3}
"""


def test_dry_run_prints_the_budget_without_torch_and_ray(run: Run, tmp_path: Path, out: Path) -> None:
    spec = write(tmp_path / "s.yaml", PLANNED)
    done = run("-c", MODULES, "jepa_ray.sweep", spec, "--dry-run", "--output", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "IMPORTED"
    assert "sweep planned: grid search, max val_rollout_mrr" in lines
    assert "space: 6 points" in lines
    assert "  training.ema_decay: [0.99, 0.995, 0.999]" in lines
    assert "trials: 5, at most 9 epochs each, rungs at [1, 3]" in lines
    assert "epochs in the worst case: 45" in lines
    assert "checkpoints on disk: at most 5, each of two models and the optimizer's state" in lines
    assert any(line.startswith("groups: ") and "this machine has" in line for line in lines)
    assert not out.exists()
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("place", ["spec", "environment"])
def test_watch_only_and_the_dry_run_find_the_sweep_in_its_storage(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    shared = tmp_path / "shared"
    if place == "environment":
        monkeypatch.setenv("JEPA_RAY_STORAGE", str(shared))
    text = SPEC + (f"storage: {shared}\n" if place == "spec" else "")
    own = shared / "sweeps" / "s"
    spec = write(tmp_path / "s.yaml", text)
    watched = called(monkeypatch, capsys, tmp_path, sweep_app, spec, "--output", str(out), "--watch-only")
    assert_refused(watched, out, f"{own}: there is no sweep to watch")
    warm = write(tmp_path / "warm.yaml", f"{text}search: {{warm_start: [{own}]}}\n")
    dry = called(monkeypatch, capsys, tmp_path, sweep_app, warm, "--output", str(out), "--dry-run")
    assert_refused(dry, out, f"{own} is this sweep's own folder")


def test_a_sweep_in_an_object_store_cannot_be_watched(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(tmp_path / "s.yaml", SPEC + "storage: s3://bucket/runs\n")
    done = called(monkeypatch, capsys, tmp_path, sweep_app, spec, "--output", str(out), "--watch-only")
    assert_refused(done, out, "s3://bucket/runs/sweeps/s: cannot be watched", "logs s --address URL")


def test_dry_run_accepts_set(run: Run, tmp_path: Path) -> None:
    command = ["-m", "jepa_ray.sweep", write(tmp_path / "s.yaml", PLANNED), "--dry-run"]
    command += ["--set", "space.training.learning_rate={low: 1e-5, high: 1e-3, log: true}"]
    refused = run(*command)
    assert refused.returncode == 2  # a grid search, and the space is continuous now
    assert "search.algorithm is grid" in refused.stderr
    done = run(*command, "--set", "search.algorithm=tpe", "--set", "early_stopping.enabled=false")
    assert done.returncode == 0, done.stderr
    assert "space: infinitely many points" in done.stdout
    assert "trials: 5, at most 9 epochs each, rungs at none" in done.stdout


def test_dry_run_counts_periodic_checkpoints(run: Run, tmp_path: Path) -> None:
    """Nine epochs have four even ones, of which three are kept, of each of five trials."""
    sets = ["--set", "base.experiment.checkpoint_every=2", "--set", "base.experiment.keep_checkpoints=3"]
    done = run("-m", "jepa_ray.sweep", write(tmp_path / "s.yaml", PLANNED), "--dry-run", *sets)
    assert done.returncode == 0, done.stderr
    assert "state; and at most 15 periodic ones (3 per trial), each of one model\n" in done.stdout


SEARCHED = """
name: searched
base: {data: {builtin: two_rooms}, model: {vit: {depth: 2}}}
space:
  model.encoder_type: [vit, mlp]
  model.vit.depth: {choices: [1, 2, 4], when: {model.encoder_type: vit}}
  training.ema_decay: [0.99, 0.995]
objective: [{metric: val_rollout_mrr}, {metric: epoch_s}]
search: {enqueue: [{model.encoder_type: mlp}, {training.ema_decay: 0.99}]}
"""


def test_dry_run_shows_conditions_objectives_and_first_trials(run: Run, tmp_path: Path) -> None:
    spec = write(tmp_path / "s.yaml", SEARCHED)
    done = run("-c", MODULES, "jepa_ray.sweep", spec, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "IMPORTED"
    assert "sweep searched: tpe search, max val_rollout_mrr, min epoch_s" in lines
    assert "space: 8 points" in lines
    assert "    when:" in lines
    assert "      model.encoder_type: [vit]" in lines
    assert "tried first: the base config's own values" in lines
    assert "tried first: 2 enqueued configurations" in lines
    assert any(line.startswith("trials: 8,") for line in lines)
    without = run("-m", "jepa_ray.sweep", spec, "--dry-run", "--set", "base.model.vit.depth=3").stdout
    assert "the base config's" not in without


def test_dry_run_refuses_an_unsuitable_sampler_and_a_missing_warm_start(run: Run, tmp_path: Path, out: Path) -> None:
    command = ["-m", "jepa_ray.sweep", write(tmp_path / "s.yaml", SEARCHED), "--dry-run", "--output", str(out)]
    assert_refused(run(*command, "--set", "search.algorithm=gp"), out, "model.vit.depth has a condition: use tpe")
    assert_refused(run(*command, "--set", "search.warm_start=[nowhere]"), out, "nowhere is not the folder of a sweep")


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_sweep_passes_its_dry_run(run: Run, path: Path) -> None:
    done = run("-m", "jepa_ray.sweep", str(path), "--dry-run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["jepa_ray.sweep", "jepa_ray.train", "jepa_ray.data", "jepa_ray"])
def test_help_imports_nothing_slow_and_exits_with_0(run: Run, command: str) -> None:
    done = run("-c", MODULES, command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
    assert done.stdout.splitlines()[-1] == "IMPORTED"


def test_help_names_the_documented_options_and_commands(run: Run) -> None:
    said = run("-m", "jepa_ray.sweep", "--help").stdout
    for option in ("--output", "--dry-run", "--fresh", "--address", "--set", "[run] SPEC.yaml"):
        assert option in said
    for command in ("run", "status", "logs", "stop", "resume"):
        assert re.search(rf"^\W*{command} +\w", said, re.MULTILINE), command
    assert "--packed" not in said  # only for the command that a job runs


# --------------------------------------------------------------- `run` is the default command of sweep


@pytest.mark.parametrize(
    "arguments",
    [
        ["SPEC", "--dry-run", "--set", "name=other"],
        ["--dry-run", "--set", "name=other", "SPEC"],
        ["--set", "name=other", "SPEC", "--dry-run"],
        ["run", "--dry-run", "SPEC", "--set", "name=other"],
    ],
)
@pytest.mark.parametrize("command", [["jepa_ray.sweep"], ["jepa_ray", "sweep"]], ids=" ".join)
def test_options_may_stand_anywhere(run: Run, tmp_path: Path, command: list[str], arguments: list[str]) -> None:
    spec = write(tmp_path / "s.yaml", SPEC)
    done = run("-m", *command, *(spec if argument == "SPEC" else argument for argument in arguments))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sweep other: ")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["status"], "or set RAY_API_SERVER_ADDRESS"),
        (["status", "--address", "auto"], "--address auto: must be a dashboard's address, http(s)://HOST:8265"),
        (["logs"], "NAME"),
        (["logs", "s"], "--address is missing: give the URL of the cluster's dashboard, http(s)://HOST:8265, or set"),
        (["stop", "s", "--address", "10.0.0.1:6379"], "--address 10.0.0.1:6379: must be"),
        (["resume"], "NAME"),
        (["resume", "s", "t"], "unexpected extra argument"),
    ],
)
def test_misused_commands_for_jobs_are_refused_at_once(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert_refused(run("-m", "jepa_ray.sweep", *args), out, says)


# ----------------------------------------------------------------------------------------- data two-rooms


def test_two_rooms_writes_the_requested_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "rooms.h5"
    sets = ["--set", "trajectories=4", "--set", "steps=6", "--set", "wall=random"]
    done = run("-m", "jepa_ray.data", "two-rooms", "--out", str(path), *sets)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}: 4 episodes of 7 rows\n"
    with h5py.File(path) as file:
        assert file["pixels"].shape == (28, 32, 32, 3)
        assert file["ep_len"][()].tolist() == [7] * 4
        assert file["ep_offset"][()].tolist() == [0, 7, 14, 21]
    assert [p.name for p in path.parent.iterdir()] == ["rooms.h5"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [("trajectories=1", "trajectories is 1, but"), ("trajectory=4", "did you mean trajectories?"), ("x", "--set x")],
)
def test_two_rooms_refuses_bad_settings(run: Run, out: Path, setting: str, says: str) -> None:
    assert_refused(run("-m", "jepa_ray.data", "two-rooms", "--out", str(out), "--set", setting), out, says)


def test_two_rooms_into_an_unwritable_folder_is_refused(run: Run, tmp_path: Path, out: Path) -> None:
    (tmp_path / "file").touch()
    args = ["--out", str(tmp_path / "file" / "rooms.h5"), "--set", "trajectories=2"]
    assert_refused(run("-m", "jepa_ray.data", "two-rooms", *args), out, "cannot be written")


# ------------------------------------------------------------------------------------ bugs and Ctrl-C


def test_bug_is_shown_with_its_traceback_and_not_as_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    def app(**_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(SystemExit) as stop:
        cli.run(app, "command")  # type: ignore[arg-type]
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith("ZeroDivisionError\n")


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def app(**_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        cli.run(app, "command")  # type: ignore[arg-type]
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def terminate_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def test_sigterm_has_the_effect_of_ctrl_c_while_it_is_converted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job runner may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt), cli.sigterm_as_interrupt():
            terminate_this_process()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert signal.getsignal(signal.SIGTERM) == before
