"""JEPA against the generative baseline: sentences and tables from planted runs, and small real comparisons."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from rich.console import Console

from jepa_ray import cli
from jepa_ray.compare import measure, table
from jepa_ray.compare.__main__ import app
from jepa_ray.compare.result import ComparisonRun, Measured, Memory, Parameters, Planning, Side, load, save
from jepa_ray.compare.run import Settings, make_run_config, order_runs, run_comparison
from jepa_ray.config import TrainConfig, dump_yaml
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, DataError
from jepa_ray.model.learner import build_learner
from jepa_ray.planning.success import Rate
from jepa_ray.train.checkpoint import load_model
from jepa_ray.train.collectives import Communicator

ROOT = Path(__file__).parents[2]
TARGET = 0.5


def measured(side: Side, seed: int, mrr: tuple[float, ...] = (0.2, 0.6), **changes: Any) -> Measured:
    """A run of 10 s per epoch, with val_rollout_mrr `mrr` after its epochs."""
    metrics = {"samples_per_s": 1000.0, "val_mrr_chance": 0.1, "rollout_probe_r2": 0.5}
    curve = [
        {"epoch": i, "seconds": 10.0 * i, "elapsed_seconds": 11.0 * i, "val_rollout_mrr": value, **metrics}
        for i, value in enumerate(mrr, 1)
    ]
    run = Measured(
        side=side,
        seed=seed,
        curve=curve,
        predicted_numbers=64 if side == "jepa" else 3072,
        parameters=Parameters(100, 0, 50) if side == "jepa" else Parameters(100, 300, 0),
        memory=Memory(300.0, 400.0),
        diagnosis="healthy",
        collapsed=False,
        planning=Planning(Rate(6, 10), Rate(250, 1000)),
        planning_skipped=None,
    )
    return dataclasses.replace(run, **changes)


def with_speeds(side: Side, *speeds: float) -> list[Measured]:
    runs = [measured(side, seed) for seed in range(len(speeds))]
    return [
        dataclasses.replace(run, curve=[row | {"samples_per_s": speed} for row in run.curve])
        for run, speed in zip(runs, speeds, strict=True)
    ]


def sentence(aspect: str, jepa: list[Measured], generative: list[Measured]) -> str:
    return table.judge(table.list_claims(TARGET)[aspect], jepa, generative)


# ------------------------------------------------------------------------------------- sentences


def test_a_claim_is_supported_where_all_seeds_are_ahead() -> None:
    text = sentence("speed", with_speeds("jepa", 1500, 1600, 1400), with_speeds("generative", 1000, 900, 1100))
    assert text == (
        'the figures support "JEPA trains faster than generative models":'
        " JEPA is ahead in training samples/s (1,500 against 1,000, 1.50 times)."
    )


def test_a_claim_is_contradicted_where_all_seeds_are_behind() -> None:
    text = sentence("speed", with_speeds("jepa", 1000, 900, 1100), with_speeds("generative", 1500, 1600, 1400))
    assert text == (
        'the figures contradict "JEPA trains faster than generative models":'
        " the generative baseline is ahead in training samples/s (1,500 against 1,000, 1.50 times)."
    )


def test_overlapping_ranges_decide_nothing_for_any_medians() -> None:
    text = sentence("speed", with_speeds("jepa", 1500, 1600, 1050), with_speeds("generative", 1000, 900, 1100))
    assert text == (
        'the figures do not decide whether "JEPA trains faster than generative models":'
        " no clear difference in training samples/s (JEPA 1,050 to 1,600; generative 900 to 1,100)."
    )


def test_ranges_that_touch_overlap() -> None:
    assert "do not decide" in sentence("speed", with_speeds("jepa", 2, 3), with_speeds("generative", 1, 2))


def test_one_seed_decides_nothing() -> None:
    text = sentence("speed", with_speeds("jepa", 2000), with_speeds("generative", 1000))
    assert "do not decide" in text
    assert "one seed per side shows no clear difference in training samples/s (JEPA 2,000; generative 1,000)" in text


def test_quantities_may_disagree() -> None:
    jepa = [measured("jepa", seed, (0.6, 0.7), memory=Memory(300, 500 + seed)) for seed in range(2)]
    generative = [measured("generative", seed, (0.2, 0.6), memory=Memory(300, 400 + seed)) for seed in range(2)]
    text = sentence("efficiency", jepa, generative)
    assert text.startswith('the figures disagree on "JEPA is more efficient')
    assert "JEPA is ahead in seconds to val_rollout_mrr 0.5 (10.0 against 20.0, 0.50 times)" in text
    assert "the generative baseline is ahead in peak MB of memory above idle (100 against 200, 0.50 times)" in text
    assert "no clear difference in planning success of the best model" in text


def test_a_target_that_was_never_reached_is_later_than_any_time() -> None:
    jepa, generative = ([measured(side, seed, (0.1, mrr)) for seed in (0, 1)] for side, mrr in SLOW)
    assert "JEPA is ahead in seconds to val_rollout_mrr 0.5 (20.0 against not reached)" in sentence(
        "efficiency", jepa, generative
    )
    neither = sentence("efficiency", generative, generative)
    assert "no clear difference in seconds to val_rollout_mrr 0.5 (JEPA not reached; generative not reached)" in neither


SLOW: tuple[tuple[Side, float], ...] = (("jepa", 0.9), ("generative", 0.4))


def test_a_late_seed_leaves_the_time_undecided() -> None:
    jepa = [measured("jepa", 0, (0.6,)), measured("jepa", 1, (0.1, 0.2))]
    generative = [measured("generative", seed, (0.1, 0.6)) for seed in (0, 1)]
    assert "(JEPA 10.0 to not reached; generative 20.0)" in sentence("efficiency", jepa, generative)


def test_missing_measurements_are_reported() -> None:
    jepa = [measured("jepa", seed, planning=None, planning_skipped="no environment") for seed in (0, 1)]
    generative = [measured("generative", seed, planning=None, planning_skipped="no environment") for seed in (0, 1)]
    assert "planning success of the best model was not measured" in sentence("efficiency", jepa, generative)
    comparison = table.compare([*jepa, *generative], TARGET)
    assert "No planning: no environment." in comparison.notes
    planned = next(row for row in comparison.rows if row.label.startswith("planning success of the best"))
    assert planned.jepa == table.NOT_MEASURED


def probes(side: Side, *values: float) -> list[Measured]:
    runs = [measured(side, seed) for seed in range(len(values))]
    return [
        dataclasses.replace(run, curve=[row | {"rollout_probe_r2": value} for row in run.curve])
        for run, value in zip(runs, values, strict=True)
    ]


def test_probes_without_skill_count_as_equal() -> None:
    text = sentence("interpretability", probes("jepa", -9, -8), probes("generative", -3, -2))
    assert "do not decide" in text
    assert "contradict" in sentence("interpretability", probes("jepa", 0.4, 0.5), probes("generative", -3, -2))


def test_collapse_counts_where_it_is_all_of_one_side() -> None:
    jepa = [measured("jepa", seed, (0.1, 0.1), collapsed=True) for seed in (0, 1)]
    generative = [measured("generative", seed) for seed in (0, 1)]
    text = sentence("stability", jepa, generative)
    assert text.startswith("the figures contradict")
    assert "the generative baseline is ahead in runs collapsed at the end (0 of 2, against 2 of 2)" in text


def test_the_objective_sentence_counts_parameters() -> None:
    comparison = table.compare([measured("jepa", 0), measured("generative", 0)], TARGET)
    assert comparison.sentences[0] == (
        "Objective: JEPA predicts 64 numbers per step and the generative baseline 3,072; JEPA trains 0.25 times the"
        " parameters (100 against 400), and with the target encoder it holds 0.38 times the parameters."
    )


def test_the_page_has_a_row_and_a_sentence_for_each_aspect() -> None:
    runs = [measured(side, seed) for seed in range(3) for side in ("jepa", "generative")]
    comparison = table.compare(runs, TARGET)
    aspects = ["objective", "efficiency", "speed", "stability", "interpretability"]
    assert [row.aspect for row in comparison.rows if row.aspect] == aspects
    assert [text.split(":")[0].lower() for text in comparison.sentences] == aspects
    page = comparison.markdown("Title")
    assert "| **speed** | training samples/s | 1,000 | 1,000 |" in page
    assert "60% [42%, 75%] of 30, seeds 60% to 60%" in page  # Wilson's interval of 18 of 30
    assert "probability 0.1." in page  # 2 of the 20 orders of 3 and 3 values


# ------------------------------------------------------------------------------------- one run


def test_reached_is_the_first_time() -> None:
    run = measured("jepa", 0, (0.2, 0.5, 0.4, 0.9))
    assert (run.reached(0.5, "epoch"), run.reached(0.5, "seconds")) == (2, 20.0)
    assert run.reached(0.95, "seconds") == math.inf
    assert run.row(0.95)["seconds_to_target"] is None


def test_measurements_are_saved_and_loaded(tmp_path: Path) -> None:
    run = measured("generative", 3)
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run
    (tmp_path / "run.json").write_text('{"side": "jepa"}')
    with pytest.raises(DataError, match="--fresh"):
        load(tmp_path / "run.json")


def test_training_ends_with_the_first_epoch_past_the_time() -> None:
    training = SimpleNamespace(batch_size=10)
    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(training=training), steps_per_epoch=20, state=SimpleNamespace(epoch=0)
    )

    def run_epoch() -> dict[str, float]:
        trainer.state.epoch += 1
        return {"samples_per_s": 50.0}  # 200 samples: 4 s

    trainer.run_epoch = run_epoch
    seen: list[dict[str, float]] = []
    curve = measure.train_for(trainer, 9.0, seen.append)
    assert [row["seconds"] for row in curve] == [4.0, 8.0, 12.0]
    assert seen == curve
    assert len(measure.train_for(trainer, 1e-6, seen.append)) == 1, "at least one epoch"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_starts_at_idle(dataset: TrajectoryDataset) -> None:
    torch.ones(75_000_000)  # 300 MB before the call do not count
    idle = measure.idle_memory(dataset)
    assert idle is not None
    torch.ones(25_000_000)
    peak = measure.peak_memory(dataset.device)
    assert 95 < peak - idle < 150


def test_sides_share_the_world_model(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    jepa, generative = (
        measure.count_parameters(build_learner(config.model, config.training, dataset.spec, Communicator().average))
        for config in (make_run_config(ComparisonRun(side, 0), train_config) for side in ("jepa", "generative"))
    )
    assert jepa.world_model == generative.world_model
    assert jepa.training_only == generative.target == 0
    assert jepa.target > 0
    assert generative.training_only > 0


def test_data_without_environment_is_measured_without_planning(canonical_h5: Callable[..., Path]) -> None:
    overrides = {"data": {"path": str(canonical_h5(lengths=(9,) * 6))}, "training.batch_size": 4}
    config = TINY.with_overrides(overrides)
    run, _ = measure.measure(config, 1e-6, 5, lambda row: None)
    assert run.planning is None
    assert "no environment" in (run.planning_skipped or "")


TINY = TrainConfig.model_validate(
    {
        "model": {"encoder_type": "cnn", "latent_dim_state": 8, "transition_depth": 1, "cnn": {"channels": [4]}},
        "data": {"builtin": "two_rooms"},
    }
)


# ------------------------------------------------------------------------------------- a comparison


def test_sides_alternate_and_each_is_first_in_turn() -> None:
    assert [str(run) for run in order_runs(5, 3)] == [
        "jepa-seed5",
        "generative-seed5",
        "generative-seed6",
        "jepa-seed6",
        "jepa-seed7",
        "generative-seed7",
    ]


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["compare", *args])
    with pytest.raises(SystemExit) as stop:
        cli.run(app, "compare")
    out, err = capsys.readouterr()
    assert out == ""
    return int(stop.value.code or 0), err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--minutes", "0"], "--minutes is 0, but must be above 0"),
        (["--minutes", "nan"], "--minutes is nan, but must be above 0"),
        (["--target-mrr", "1.5"], "--target-mrr is 1.5, but must be above 0, and at most 1"),
        (["--seeds", "0"], "--seeds"),
        (["--plan-episodes", "-1"], "--plan-episodes"),
        (
            ["--set", "training.lr_schedule=cosine"],
            "training.lr_schedule is cosine, but compared runs have a time limit",
        ),
        (["--set", "training.ema_decay_final=1.0"], "training.ema_decay_final is 1.0, but"),
        (["--set", "training.num_workers=2"], "training.num_workers is 2, but a comparison trains in one process"),
        (["--set", "training.cpus_per_worker=5000"], "training.cpus_per_worker is 5000, but this machine has only"),
        (["--set", "training.batch_size=99999"], "the data has only"),
        (["--set", "model.latent_dim_stat=3"], "did you mean model.latent_dim_state?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    train_config: TrainConfig,
    args: list[str],
    says: str,
) -> None:
    path, out = tmp_path / "c.yaml", tmp_path / "out"
    path.write_text(dump_yaml(train_config.to_dict()))
    code, err = said(capsys, monkeypatch, "--config", str(path), "--output", str(out), *args)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert not out.exists()


def test_a_small_comparison(train_config: TrainConfig, tmp_path: Path) -> None:
    settings = Settings(seeds=1, minutes=1e-6, target_mrr=0.01, plan_episodes=2)
    with (tmp_path / "said").open("w") as file:
        runs = run_comparison(train_config, settings, tmp_path, Console(file=file, width=200))
    folder = tmp_path / "compare" / "jepa_training"
    assert [(run.side, run.seed, len(run.curve)) for run in runs] == [("jepa", 0, 1), ("generative", 0, 1)]
    assert all(run.planning and run.planning.success.episodes == 2 for run in runs)
    assert pd.read_csv(folder / "comparison.csv")["seconds_to_target"].notna().all()
    assert list(pd.read_csv(folder / "curves.csv")["objective"]) == ["jepa", "generative"]
    for side in ("jepa", "generative"):
        assert load_model(folder / f"best_{side}.pt")[1].training.objective == side
    with Image.open(folder / "comparison.png") as image:
        assert image.width > 1000
    assert not list(folder.rglob("*.partial"))
    page, text = (folder / "comparison.md").read_text(), (tmp_path / "said").read_text()
    assert "one seed per side shows no clear difference" in page
    assert "jepa-seed0: epoch 1" in text
    _again(train_config, settings, tmp_path, runs)


def _again(config: TrainConfig, settings: Settings, output: Path, runs: list[Measured]) -> None:
    """The same runs are used again, also for another target; other settings are refused."""
    other = dataclasses.replace(settings, target_mrr=1.0)
    with (output / "again").open("w") as file:
        assert run_comparison(config, other, output, Console(file=file)) == runs
    assert (output / "again").read_text().count("already measured, not repeated") == 2
    assert "not reached" in (output / "compare/jepa_training/comparison.md").read_text()
    with pytest.raises(ConfigError, match="--fresh"):
        run_comparison(config, dataclasses.replace(settings, minutes=2.0), output, Console(quiet=True))


def test_an_interruption_leaves_no_process(train_config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_yaml(train_config.to_dict()))
    command = [sys.executable, "-m", "jepa_ray.compare", "--config", "c.yaml", "--output", "out"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    try:
        assert "epoch 1" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to what it started
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "error: interrupted; the same command continues after the last finished run\n"
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert not (tmp_path / "out/compare/jepa_training/finished.json").exists()
