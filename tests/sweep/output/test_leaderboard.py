"""The leaderboard: its columns in the file, and its layout in terminals of different widths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.studies import make_spec, make_study, train_study
from rich.console import Console

from jepa_ray.config import METRICS, SweepConfig
from jepa_ray.files import RunFolder
from jepa_ray.report import panels
from jepa_ray.report.report_data import SweepState
from jepa_ray.sweep.output import results
from jepa_ray.sweep.output.leaderboard import list_columns, write_leaderboard
from jepa_ray.sweep.output.reporting import collect_report_data
from jepa_ray.sweep.output.terminal_table import print_leaderboard

# Swept keys with choices, in the order in which the tests take them: long and short names, numbers and texts.
KEYS: dict[str, list[Any]] = {
    "training.learning_rate": [0.00012345, 0.001],
    "training.ema_decay": [0.99, 0.99996],
    "model.latent_dim_state": [64, 128],
    "model.transition_depth": [2, 4],
    "model.encoder_type": ["cnn", "vit"],
    "training.batch_size": [256, 65536],
    "training.weight_decay": [1e-05, 0.05],
    "training.rollout_horizon": [1, 5],
    "model.transition_heads": [4, 8],
    "training.warmup_fraction": [0.05, 0.1],
    "training.grad_clip_norm": [0.5, 1.0],
    "model.vit.patch_size": [8, 16],
}
STATUSES = ["COMPLETE", "COMPLETE", "PRUNED", "FAILED"]
OBJECTIVES = [0.8125, 0.5, 0.25, None]


def make_wide_spec(keys: int, **sections: Any) -> SweepConfig:
    """A spec with the first `keys` of `KEYS`. They are not validated, since no test trains with them."""
    return make_spec(**sections).model_copy(update={"space": dict(list(KEYS.items())[:keys])})


def make_frame(spec: SweepConfig) -> pd.DataFrame:
    """A leaderboard of four trials, with the values of all columns that the terminal can show."""
    rows = []
    for i, (status, objective) in enumerate(zip(STATUSES, OBJECTIVES, strict=True)):
        row: dict[str, Any] = {column.name: None for column in list_columns(spec)}
        row |= {"rank": i + 1, "trial_id": f"trial_{12 * i:05d}", "status": status, "epochs": 5, "objective": objective}
        row |= {key: values[i % 2] for key, values in spec.space.items() if isinstance(values, list)}
        rows.append(row | {"val_loss": 0.0321, "val_cosine": 0.987, "seconds": 1234.567, "plan_success": 0.5})
    return pd.DataFrame(rows)


def render(spec: SweepConfig, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_leaderboard(make_frame(spec), spec, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


class TestColumnsOfTheFile:
    """The names and the order in `leaderboard.csv` are read by users' scripts, and must not change."""

    FIRST = ("rank", "trial_id", "status", "epochs", "objective")
    SWEPT = ("training.ema_decay", "training.learning_rate", "model.transition_depth")
    METRICS = (
        "train_loss", "val_loss", "val_cosine", "val_skill", "persistence_ratio", "action_gap", "val_rollout_mrr",
        "val_mrr_chance", "val_mrr_z", "val_mrr_within", "val_mrr_within_chance", "val_mrr_within_z", "val_mrr_copy",
        "val_mrr_ceiling", "rollout_probe_r2", "embedding_std", "effective_rank", "temporal_share", "ema_gap",
        "ema_param_gap", "samples_per_s", "epoch_s",
    )  # fmt: skip
    LAST = ("seconds", "mlflow_run_id", "collapse", "stop", "plan_success")
    REPEATS = ("objective_runs", "objective_mean", "objective_low", "objective_high")

    def header(self, folder: Path, **sections: Any) -> list[str]:
        study = make_study(make_spec(**sections))
        return write_leaderboard(study, {}, folder).read_text().splitlines()[0].split(",")

    def test_with_one_objective(self, tmp_path: Path) -> None:
        assert self.header(tmp_path) == [*self.FIRST, *self.SWEPT, *self.METRICS, *self.LAST]

    def test_with_several_objectives_pareto_follows_the_objective(self, tmp_path: Path) -> None:
        header = self.header(tmp_path, objective=[{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}])
        assert header == [*self.FIRST, "pareto", *self.SWEPT, *self.METRICS, *self.LAST]

    def test_with_repeats_their_mean_comes_last(self, tmp_path: Path) -> None:
        header = self.header(tmp_path, search={"repeats": 3})
        assert header == [*self.FIRST, *self.SWEPT, *self.METRICS, *self.LAST, *self.REPEATS]

    def test_every_metric_has_a_column(self) -> None:
        assert set(METRICS) == set(self.METRICS)


@pytest.mark.parametrize("width", [80, 110, 160])
@pytest.mark.parametrize("keys", [1, 4, 8, 12])
class TestEveryWidth:
    """Nothing is cut: at any width from 80 columns, with any number of swept keys."""

    @pytest.fixture
    def lines(self, width: int, keys: int) -> list[str]:
        return render(make_wide_spec(keys), width)

    def test_nothing_is_cut_and_no_line_is_too_long(self, lines: list[str], width: int) -> None:
        assert not [line for line in lines if "…" in line or "..." in line]
        assert max(map(len, lines)) <= width

    def test_rank_number_status_and_objective_of_every_trial_are_there(self, lines: list[str]) -> None:
        for i, (status, objective) in enumerate(zip(STATUSES, OBJECTIVES, strict=True)):
            row = next(row for row in map(str.split, lines) if status in row and str(12 * i) in row)
            assert str(i + 1) in row
            assert objective is None or f"{objective:g}" in row

    def test_all_keys_and_their_values_are_there(self, lines: list[str], keys: int) -> None:
        head, *_ = "\n".join(lines).partition("─")  # the line below a table's header
        for key, values in list(KEYS.items())[:keys]:
            name = key.rpartition(".")[2]
            shown = any(f"{name}=" in line for line in lines)
            assert shown or name in head or all(part in head for part in name.replace("_", "_ ").split())
            for value in values:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                assert sum(text in line.replace("=", " ").split() for line in lines) >= 2


class TestLayout:
    def test_columns_are_dropped_in_a_fixed_order(self) -> None:
        """With four keys: all columns at 160, some at 110, only the essential ones at 80."""
        spec = make_wide_spec(4, evaluation={"plan_top_k": 1})
        essential = ["rank", "trial", "status", "objective", "learning_rate", "ema_decay", "latent_dim_state"]
        essential.append("transition_depth")
        optional = ["val_cosine", "val_loss", "seconds", "epochs", "plan_success"]  # in the order of being dropped
        for width, dropped in ((160, 0), (110, 3), (96, 5)):
            header = render(spec, width)[1].split()
            assert sorted(header) == sorted([*essential, *optional[dropped:]]), width

    def test_long_headings_are_wrapped_at_underscores_where_one_line_is_too_short(self) -> None:
        lines = render(make_wide_spec(4), 80)
        assert [line.split() for line in lines[1:4]] == [
            ["latent_"],
            ["learning_", "ema_", "dim_", "transition_"],
            ["rank", "trial", "status", "epochs", "objective", "rate", "decay", "state", "depth"],
        ]

    def test_configurations_are_printed_below_their_trials_where_no_table_fits(self) -> None:
        assert render(make_wide_spec(8), 80)[1:5] == [
            "rank 1  trial 0  status COMPLETE  epochs 5  objective 0.8125  seconds 1235",
            "    learning_rate=0.00012345  ema_decay=0.99  latent_dim_state=64",
            "    transition_depth=2  encoder_type=cnn  batch_size=256  weight_decay=1e-05",
            "    rollout_horizon=1",
        ]
        assert "rank 4  trial 36  status FAILED  epochs 5  objective -  seconds 1235" in render(make_wide_spec(8), 80)

    def test_further_objectives_and_the_pareto_front_are_shown_before_the_usual_metrics(self) -> None:
        spec = make_wide_spec(1, objective=[{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}])
        assert render(spec, 160)[1].split()[5:] == [
            "pareto",
            "learning_rate",
            "val_loss",
            "val_cosine",
            "epoch_s",
            "seconds",
        ]
        assert {"pareto", "epoch_s"} <= set(render(spec, 80)[1].split())

    def test_the_objective_has_no_second_column(self) -> None:
        header = render(make_wide_spec(1, objective={"metric": "val_loss"}), 160)[1].split()
        assert "val_loss" not in header
        assert "val_cosine" in header

    def test_keys_with_the_same_last_part_are_named_in_full(self) -> None:
        spec = make_wide_spec(1).model_copy(update={"space": {"model.vit.depth": [1, 2], "model.mlp.depth": [3, 4]}})
        assert {"model.vit.depth", "model.mlp.depth"} <= set(render(spec, 160)[1].split())

    def test_text_in_brackets_is_not_taken_for_markup(self) -> None:
        spec = make_wide_spec(1).model_copy(update={"space": {"data.observation": ["[red]", "[/]"]}})
        shown = "\n".join(render(spec, 80))
        assert "[red]" in shown
        assert "[/]" in shown


def test_the_report_names_the_columns_as_the_terminal_does(tmp_path: Path) -> None:
    """Only the objective has its own name there: that of the metric."""
    study = make_study(make_spec(objective=[{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]))
    train_study(study)
    report = panels.build_leaderboard(collect_report_data(study, tmp_path, SweepState.FINISHED))
    headings = {column.heading for column in list_columns(study.spec) if column.heading} - {"objective"}
    assert headings <= {column.label for column in report.columns}


def test_the_final_printout_reads_the_file_and_names_the_location(tmp_path: Path) -> None:
    spec = make_spec()
    folder = RunFolder(tmp_path / "sweeps" / "unit", "spec.yaml")
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with folder.begin("name: unit", fresh=False):
        make_frame(spec).to_csv(folder.path / "leaderboard.csv", index=False)
        folder.mark_finished(65.0)
    frame = results.show_results(spec, folder, console, "s3://bucket/sweeps/unit")
    assert len(frame) == 4
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "unit: best 4 of 4 trials by val_rollout_mrr" in shown
    assert "done in 1:05; all results are in s3://bucket/sweeps/unit" in shown
    assert "  leaderboard.csv      all trials\n" in shown
    assert "report.html" not in shown  # it was not written
