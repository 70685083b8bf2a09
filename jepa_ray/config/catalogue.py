"""The catalogue of metrics: everything that is known about each metric, in one entry per metric.

All other lists of metrics are derived from it. The functions that compute the metrics are in `jepa_ray/metrics.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Mode = Literal["min", "max"]
Metric = Literal[
    "train_loss",
    "val_loss",
    "val_cosine",
    "val_skill",
    "persistence_ratio",
    "action_gap",
    "val_rollout_mrr",
    "val_mrr_chance",
    "val_mrr_z",
    "val_mrr_within",
    "val_mrr_within_chance",
    "val_mrr_within_z",
    "val_mrr_copy",
    "val_mrr_ceiling",
    "rollout_probe_r2",
    "embedding_std",
    "effective_rank",
    "temporal_share",
    "ema_gap",
    "ema_param_gap",
    "samples_per_s",
    "epoch_s",
]  # written out, since a type checker does not read the catalogue; a test compares the two


class Place(StrEnum):
    """A place that shows a selection of the metrics. metrics.csv, leaderboard.csv and MLflow have all of them."""

    EPOCH_LINE = "epoch_line"  # the line that a single run prints after each epoch
    TERMINAL_TABLE = "terminal_table"  # the leaderboard that a sweep prints at its end
    REPORT_TABLE = "report_table"  # the columns of the report's leaderboard that are visible at first
    REPORT_SUMMARY = "report_summary"  # the top of the report
    REPORT_PICKS = "report_picks"  # the report's table of the configurations that each metric would have picked


@dataclass(frozen=True)
class MetricInfo:
    """One metric."""

    name: Metric
    direction: Mode  # which values are better
    formula: str  # Markdown
    range: str
    faked_by: str | None = None  # how a model that has learned nothing can get the best value of it
    is_constant: bool = False  # the same for all models, and so not usable as an objective
    needs_labels: bool = False  # measured only where the data has `state` labels
    is_diagnosed: bool = False  # read by `jepa_ray.diagnosis.diagnose`
    shown: Mapping[Place, int] = field(default_factory=dict)  # place -> position of the metric there


_FRACTION = "0 to 1"
_NOT_NEGATIVE = "≥ 0"
_COLLAPSE = "collapse: a constant embedding has loss 0"

# Symbols in the formulas: z is the embedding by the online encoder, z' the one by the target encoder, T the transition
# model, a the action. MSE is the mean over all validation transitions and dimensions.
CATALOGUE: tuple[MetricInfo, ...] = (
    MetricInfo(
        "train_loss",
        "min",
        "The training objective and its weighted terms, averaged over the steps of the epoch.",
        _NOT_NEGATIVE,
        faked_by=_COLLAPSE,
        shown={Place.EPOCH_LINE: 1, Place.REPORT_PICKS: 12},
    ),
    MetricInfo(
        "val_loss",
        "min",
        "`MSE(T(z_t, a_t), z'_{t+1})`, one step ahead.",
        _NOT_NEGATIVE,
        faked_by=_COLLAPSE,
        shown={
            Place.EPOCH_LINE: 2,
            Place.TERMINAL_TABLE: 1,
            Place.REPORT_TABLE: 1,
            Place.REPORT_SUMMARY: 3,
            Place.REPORT_PICKS: 11,
        },
    ),
    MetricInfo(
        "val_cosine",
        "max",
        "Mean cosine similarity of `T(z_t, a_t)` and `z'_{t+1}`.",
        "-1 to 1",
        faked_by="collapse: constant embeddings have cosine 1",
        shown={
            Place.EPOCH_LINE: 3,
            Place.TERMINAL_TABLE: 2,
            Place.REPORT_TABLE: 2,
            Place.REPORT_SUMMARY: 4,
            Place.REPORT_PICKS: 10,
        },
    ),
    MetricInfo(
        "val_skill",
        "max",
        "`1 - val_loss / Var(z')`: the fraction of the target's variance that is explained.",
        "≤ 1",
        faked_by="slow features: knowing the trajectory explains most of the variance",
        shown={Place.REPORT_PICKS: 6},
    ),
    MetricInfo(
        "persistence_ratio",
        "min",
        "`val_loss / MSE(z'_t, z'_{t+1})`: the error divided by the error of copying the present embedding. Below 1,"
        " the model is better than a copy.",
        _NOT_NEGATIVE,
        faked_by="an encoder whose steps are noise: copies of noise are easy to beat",
        is_diagnosed=True,
        shown={Place.REPORT_PICKS: 5},
    ),
    MetricInfo(
        "action_gap",
        "max",
        "`val_loss` with the actions of other transitions, divided by `val_loss`. At 1, the model ignores actions.",
        _NOT_NEGATIVE,
        faked_by="an encoder that keeps nothing but the action's effect",
        is_diagnosed=True,
        shown={Place.REPORT_SUMMARY: 6, Place.REPORT_PICKS: 4},
    ),
    MetricInfo(
        "val_rollout_mrr",
        "max",
        "Mean reciprocal rank of open-loop roll-outs of k = 1 to `training.rollout_horizon` steps. The true future"
        " embedding is ranked by its distance to the prediction, among all time steps of its trajectory and the same"
        " time step of the other validation trajectories (at most 64). The mean of `1 / rank` is taken over starts (at"
        " most 1,024) and k; ties count half.",
        _FRACTION,
        is_diagnosed=True,
        shown={Place.EPOCH_LINE: 4, Place.REPORT_SUMMARY: 1, Place.REPORT_PICKS: 1},
    ),
    MetricInfo(
        "val_mrr_chance",
        "max",
        "The `val_rollout_mrr` of a random order of the same candidates.",
        _FRACTION,
        is_constant=True,
        is_diagnosed=True,
    ),
    MetricInfo(
        "val_mrr_z",
        "max",
        "The number of standard errors by which `val_rollout_mrr` is above chance, with trajectories as the independent"
        " units. Below 3, a model is at chance. Not measured with fewer than 4 validation trajectories.",
        "-1000 to 1000",
        is_diagnosed=True,
    ),
    MetricInfo(
        "val_mrr_within",
        "max",
        "Like `val_rollout_mrr`, but only among the time steps of the same trajectory.",
        _FRACTION,
        is_diagnosed=True,
        shown={Place.REPORT_PICKS: 2},
    ),
    MetricInfo(
        "val_mrr_within_chance",
        "max",
        "The `val_mrr_within` of a random order.",
        _FRACTION,
        is_constant=True,
        is_diagnosed=True,
    ),
    MetricInfo(
        "val_mrr_within_z", "max", "Like `val_mrr_z`, for `val_mrr_within`.", "-1000 to 1000", is_diagnosed=True
    ),
    MetricInfo(
        "val_mrr_copy",
        "max",
        "The `val_rollout_mrr` of predicting the present embedding, as if nothing moved.",
        _FRACTION,
        faked_by="a smooth encoder: the metric does not depend on the predictions",
        is_diagnosed=True,
    ),
    MetricInfo(
        "val_mrr_ceiling",
        "max",
        "The `val_rollout_mrr` of a perfect prediction. It is below 1 where observations repeat, since equal ones tie.",
        _FRACTION,
        is_constant=True,
        is_diagnosed=True,
    ),
    MetricInfo(
        "rollout_probe_r2",
        "max",
        "R² of the data's `state` labels as a ridge probe reads them from predictions `training.rollout_horizon` steps"
        " ahead. The probe is fitted on the embeddings of one half of the validation trajectories and tested on the"
        " other half. Measured only if the data has labels.",
        "≤ 1",
        needs_labels=True,
        shown={Place.EPOCH_LINE: 5, Place.REPORT_SUMMARY: 2, Place.REPORT_PICKS: 3},
    ),
    MetricInfo(
        "embedding_std",
        "max",
        "Standard deviation of z over the validation rows, averaged over dimensions. Collapsed embeddings have 0.",
        _NOT_NEGATIVE,
        faked_by="noise, and the LayerNorm that sets it",
        is_diagnosed=True,
        shown={Place.EPOCH_LINE: 6, Place.REPORT_PICKS: 8},
    ),
    MetricInfo(
        "effective_rank",
        "max",
        "RankMe: `exp(entropy)` of the normalised singular values of at most 1,024 embeddings.",
        "1 to `model.latent_dim_state`",
        faked_by="noise, which has full rank, and the embedding's width",
        is_diagnosed=True,
        shown={Place.REPORT_SUMMARY: 5, Place.REPORT_PICKS: 7},
    ),
    MetricInfo(
        "temporal_share",
        "max",
        "The fraction of the variance of z that is within trajectories and not between them. Near 0, the embedding has"
        " only slow features.",
        _FRACTION,
        faked_by="noise",
        is_diagnosed=True,
        shown={Place.REPORT_PICKS: 9},
    ),
    MetricInfo(
        "ema_gap",
        "max",
        "`‖z - z'‖ / ‖z‖` over all validation rows. At 0, the target encoder equals the online encoder.",
        _NOT_NEGATIVE,
        faked_by="the ema_decay that sets it",
    ),
    MetricInfo(
        "ema_param_gap",
        "max",
        "Like `ema_gap`, for the parameters of the two encoders.",
        _NOT_NEGATIVE,
        faked_by="the ema_decay that sets it",
    ),
    MetricInfo(
        "samples_per_s",
        "max",
        "Training windows per second, over all workers; validation is not counted.",
        "> 0",
        faked_by="the smallest model",
        shown={Place.EPOCH_LINE: 7},
    ),
    MetricInfo(
        "epoch_s",
        "min",
        "Duration of an epoch in seconds, validation included.",
        "> 0",
        faked_by="the smallest model",
    ),
)

METRIC_INFO: dict[str, MetricInfo] = {metric.name: metric for metric in CATALOGUE}
METRICS: tuple[str, ...] = tuple(METRIC_INFO)
SMALLER_IS_BETTER = frozenset(metric.name for metric in CATALOGUE if metric.direction == "min")
FAKED_BY: dict[str, str] = {metric.name: metric.faked_by for metric in CATALOGUE if metric.faked_by}
CONSTANT = frozenset(metric.name for metric in CATALOGUE if metric.is_constant)
DIAGNOSED = frozenset(metric.name for metric in CATALOGUE if metric.is_diagnosed)


def metrics_shown(place: Place) -> tuple[str, ...]:
    """The names of the metrics that a place shows, in the order in which it shows them."""
    selected = [metric for metric in CATALOGUE if place in metric.shown]
    return tuple(metric.name for metric in sorted(selected, key=lambda metric: metric.shown[place]))
