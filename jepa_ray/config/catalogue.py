"""The metrics: their names, which direction is better, and what can fake them."""

from __future__ import annotations

from typing import Literal, get_args

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
]
METRICS: tuple[str, ...] = get_args(Metric)
SMALLER_IS_BETTER = {"train_loss", "val_loss", "persistence_ratio", "epoch_s"}

# What is wrong with a metric as an objective: a model that knows nothing can have the best value of it.
FAKED_BY: dict[str, str] = {
    "train_loss": "collapse: a constant embedding has loss 0",
    "val_loss": "collapse: a constant embedding has loss 0",
    "val_cosine": "collapse: constant embeddings have cosine 1",
    "val_skill": "slow features: knowing the trajectory explains most of the variance",
    "persistence_ratio": "an encoder whose steps are noise: copies of noise are easy to beat",
    "action_gap": "an encoder that keeps nothing but the action's effect",
    "val_mrr_copy": "a smooth encoder: it does not look at the predictions",
    "embedding_std": "noise, and the LayerNorm that sets it",
    "effective_rank": "noise, which has full rank, and the embedding's width",
    "temporal_share": "noise",
    "ema_gap": "the ema_decay that sets it",
    "ema_param_gap": "the ema_decay that sets it",
    "samples_per_s": "the smallest model",
    "epoch_s": "the smallest model",
}

# The same for all models: no objective at all.
CONSTANT = {"val_mrr_chance", "val_mrr_within_chance", "val_mrr_ceiling"}
