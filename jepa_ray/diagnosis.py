"""The condition of a model, detected from its metrics, and what to change: a troubleshooting guide in code.

Scale, effective rank and loss alone are misleading: judged by them, healthy runs look collapsed in their first epochs,
and slow-feature collapse looks healthy. The first question is therefore whether predictions rank the truth above
chance. The other metrics only name the way in which a model fails.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepa_ray.config import TrainConfig

AT_CHANCE_Z = 3.0  # a model that is fewer standard errors above chance is considered at chance
SMALL_STD = 0.15  # below it: scale collapse; the encoder's LayerNorm gives embeddings an RMS of about 1
LOW_RANK = 3.0  # below it: dimensional collapse; RankMe counts the mean as one direction
BLIND = 1.05  # action_gap (error with wrong actions over error) below it: action-blind


class Condition(enum.StrEnum):
    """The way in which a model fails, or `HEALTHY`, or `UNTESTED` if the data does not allow a diagnosis."""

    HEALTHY = "healthy"
    SCALE_COLLAPSE = "scale collapse"
    DIMENSIONAL_COLLAPSE = "dimensional collapse"
    SLOW_FEATURE_COLLAPSE = "slow-feature collapse"
    AT_CHANCE = "at chance"
    COPIES_LAST_STATE = "no better than copying"
    ACTION_BLIND = "action-blind"
    UNTESTED = "untested"


@dataclass(frozen=True)
class Remedy:
    """One change of the config that is worth trying."""

    key: str  # a dotted key of a train config
    value: Any
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """A condition and the metrics that show it."""

    condition: Condition
    evidence: str
    collapsed: bool = False  # predictions are at chance: planning with the model is pointless

    def __str__(self) -> str:
        return f"{self.condition}: {self.evidence}"


def diagnose(metrics: Mapping[str, float]) -> Diagnosis:
    """Name the condition of a model from the metrics of one validation.

    A model is at chance if it cannot rank the truth above the other time steps of its trajectory. It is useless if a
    copy of the last state ranks the truth at least as well.
    """
    m = metrics
    if "val_mrr_z" not in m:
        return Diagnosis(Condition.UNTESTED, "too few validation trajectories to distinguish a model from chance")
    ranks = f"val_rollout_mrr {m['val_rollout_mrr']:.3f} (chance {m['val_mrr_chance']:.3f}"
    ranks += f", copying the last state {m['val_mrr_copy']:.3f}"
    ranks += f", at best {m['val_mrr_ceiling']:.3f}: observations repeat)" if m["val_mrr_ceiling"] < 0.99 else ")"
    at_chance = min(m["val_mrr_z"], m["val_mrr_within_z"]) < AT_CHANCE_Z
    if at_chance or m["val_rollout_mrr"] <= m["val_mrr_copy"]:
        condition, signature = _failure(m, at_chance)
        return Diagnosis(condition, f"{ranks}; {signature}", at_chance)
    if m["action_gap"] < BLIND:
        signature = f"with wrong actions the error is the same (action_gap {m['action_gap']:.2f})"
        return Diagnosis(Condition.ACTION_BLIND, f"{ranks}, but {signature}")
    return Diagnosis(Condition.HEALTHY, f"{ranks}, {m['val_mrr_z']:.0f} standard errors above chance")


def _failure(m: Mapping[str, float], at_chance: bool) -> tuple[Condition, str]:
    """The way in which a model fails, and the metric that shows it."""
    if m["embedding_std"] < SMALL_STD:
        return Condition.SCALE_COLLAPSE, f"all embeddings are nearly the same (embedding_std {m['embedding_std']:.3g})"
    if at_chance and m["val_mrr_z"] >= AT_CHANCE_Z:
        within = f"val_mrr_within {m['val_mrr_within']:.3f} (chance {m['val_mrr_within_chance']:.3f})"
        return Condition.SLOW_FEATURE_COLLAPSE, (
            f"it distinguishes trajectories, but not the time steps of one: {within},"
            f" {m['temporal_share']:.0%} of the variance within trajectories"
        )
    if at_chance and m["effective_rank"] < LOW_RANK:
        return Condition.DIMENSIONAL_COLLAPSE, (
            f"embeddings span only a line or a plane (effective_rank {m['effective_rank']:.1f})"
        )
    if at_chance:
        return Condition.AT_CHANCE, "embeddings vary, but predictions do not match them"
    return Condition.COPIES_LAST_STATE, f"persistence_ratio {m['persistence_ratio']:.2f}"


def remedies(condition: Condition, config: TrainConfig) -> list[Remedy]:
    """Changes to try, the most promising first, without those that the config already has.

    The order was measured (EXPERIMENTS.md). It differs from the usual advice, which starts with a larger ema_decay.
    """
    training, loss = config.training, config.training.loss
    faster = Remedy(
        "training.learning_rate", min(1e-3, 10 * training.learning_rate), "a slow start looks like collapse"
    )
    inverse = Remedy("training.loss.inverse_dynamics", 1.0, "embeddings must then represent what actions change")
    rollout = Remedy("training.loss.rollout_steps", 3, "several steps cannot be predicted by copying")
    variance = Remedy("training.loss.variance", 1.0, "VICReg: keeps every dimension from being constant")
    covariance = Remedy("training.loss.covariance", 0.1, "VICReg: keeps dimensions from being redundant")
    wider = Remedy("model.latent_dim_state", 2 * config.model.latent_dim_state, "room for more than one feature")
    by_condition = {
        Condition.SCALE_COLLAPSE: [faster, inverse, variance],
        Condition.DIMENSIONAL_COLLAPSE: [inverse, variance, covariance, wider],
        Condition.SLOW_FEATURE_COLLAPSE: [inverse, rollout],
        Condition.AT_CHANCE: [faster, inverse],
        Condition.COPIES_LAST_STATE: [inverse, rollout, faster],
        Condition.ACTION_BLIND: [inverse, rollout],
    }
    done = {
        "training.learning_rate": training.learning_rate >= 1e-3,
        "training.loss.inverse_dynamics": loss.inverse_dynamics > 0,
        "training.loss.rollout_steps": loss.rollout_steps > 1,
        "training.loss.variance": loss.variance > 0,
        "training.loss.covariance": loss.covariance > 0,
    }
    return [remedy for remedy in by_condition.get(condition, []) if not done.get(remedy.key)]
