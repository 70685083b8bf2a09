"""The training loop, in pure torch: a step, an epoch, and the state they move. Knows nothing of Ray.

`batch_size` is the global batch: each of W ranks takes batch_size / W of the same permutation, so W = 1 and W = 2
see the same batches. All randomness of an epoch follows from (seed, epoch, rank): nothing else has to be
saved to resume bit for bit, and a trial's result does not depend on what its group trained before.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from jepa_ray.config import TrainConfig, TrainingConfig
from jepa_ray.data.dataset import Batch, TrajectoryDataset
from jepa_ray.errors import ConfigError, TrialError
from jepa_ray.model.jepa import JEPA, EmaUpdate, Prediction, build_jepa, jepa_loss
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.evaluation import evaluate
from jepa_ray.train.ranks import Ranks


class Forward(Protocol):
    """The model as the step calls it: bare, compiled, or wrapped for DDP."""

    def __call__(self, observation: Tensor, action: Tensor, next_observation: Tensor) -> Prediction:
        """As `JEPA.forward`."""
        ...


@dataclass
class TrainState:
    """Everything that training changes."""

    model: JEPA
    optimizer: torch.optim.Optimizer
    update_target: EmaUpdate
    forward: Forward
    epoch: int = 0  # epochs finished
    best: dict[str, Any] | None = None  # {"epoch", "metrics", "model"} of the best epoch so far


@dataclass(frozen=True)
class StepSettings:
    """Hyperparameters of one optimiser step; none of them changes a shape."""

    learning_rate: float
    ema_decay: float
    grad_clip_norm: float | None
    bf16: bool


def train_step(state: TrainState, batch: Batch, settings: StepSettings) -> Tensor:
    """One optimiser step and one EMA update; returns the detached loss, without waiting for it."""
    with torch.autocast(batch.observation.device.type, torch.bfloat16, enabled=settings.bf16):
        loss = jepa_loss(state.forward(batch.observation, batch.action, batch.next_observation))
    loss.backward()
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate
    if settings.grad_clip_norm is not None:
        nn.utils.clip_grad_norm_(_trained(state.model), settings.grad_clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update_target(settings.ema_decay)
    return loss.detach()


class Trainer:
    """One trial: its state, and what moves it by an epoch.

    Raises `ConfigError` where config and data do not fit together.
    """

    def __init__(self, config: TrainConfig, dataset: TrajectoryDataset, ranks: Ranks | None = None) -> None:
        self.config, self.dataset, self.ranks = config, dataset, ranks or Ranks.current()
        self.steps_per_epoch = steps_per_epoch(config.training, dataset)
        self.state = _initial_state(config, dataset, self.ranks)

    @property
    def finished(self) -> bool:
        """Whether num_epochs are over, or patience is."""
        training, state = self.config.training, self.state
        stale = state.epoch - (state.best["epoch"] if state.best else 0)
        return state.epoch >= training.num_epochs or (training.patience is not None and stale >= training.patience)

    def run_epoch(self) -> dict[str, float]:
        """Train and validate one epoch; returns every metric by name.

        Raises `TrialError` on all ranks together if the loss is not finite.
        """
        started = time.perf_counter()
        train_loss = self._train()
        trained = time.perf_counter()
        validation = evaluate(self.state.model, self.dataset, self.ranks, self.config.training.rollout_horizon)
        metrics = {
            "train_loss": train_loss,
            **validation,
            "samples_per_s": self.steps_per_epoch * self.config.training.batch_size / (trained - started),
            "epoch_s": time.perf_counter() - started,
        }
        self._keep_if_best(metrics)
        return metrics

    def _train(self) -> float:
        state, training = self.state, self.config.training
        seed_for_epoch(self.config.experiment.seed, state.epoch, self.ranks.rank)
        order = self._permutation()
        share = self.ranks.share(training.batch_size)
        losses = torch.zeros((), device=self.dataset.device)
        for step in range(self.steps_per_epoch):
            rows = order[step * training.batch_size : (step + 1) * training.batch_size][share]
            settings = step_settings(training, state.epoch * self.steps_per_epoch + step, self.steps_per_epoch)
            losses += train_step(state, self.dataset.batch(rows), settings)
        state.epoch += 1
        loss = float(self.ranks.sum(losses)) / (self.steps_per_epoch * self.ranks.world)
        if not math.isfinite(loss):
            raise TrialError(f"train_loss is {loss} in epoch {state.epoch}")
        return loss

    def _permutation(self) -> Tensor:
        rng = np.random.default_rng((self.config.experiment.seed, self.state.epoch))
        return self.dataset.train_index[torch.from_numpy(rng.permutation(len(self.dataset.train_index)))]

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        objective, best = self.config.experiment.objective, self.state.best
        value = metrics[objective.metric]
        if not math.isfinite(value):
            raise TrialError(f"{objective.metric} is {value} in epoch {self.state.epoch}")
        if objective.better(value, best["metrics"][objective.metric] if best else None):
            weights = {name: tensor.detach().clone() for name, tensor in self.state.model.state_dict().items()}
            self.state.best = {"epoch": self.state.epoch, "metrics": dict(metrics), "model": weights}

    def checkpoint(self) -> ckpt.Checkpoint:
        """Everything it takes to resume bit for bit; plain values and tensors."""
        state = self.state
        return ckpt.describe(self.config, self.dataset.spec) | {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "epoch": state.epoch,
            "best": state.best,
        }

    def restore(self, checkpoint: ckpt.Checkpoint) -> None:
        """Continue from a `checkpoint()` of the same config."""
        self.state.model.load_state_dict(checkpoint["model"])
        self.state.optimizer.load_state_dict(checkpoint["optimizer"])
        self.state.epoch, self.state.best = checkpoint["epoch"], checkpoint["best"]


def steps_per_epoch(training: TrainingConfig, dataset: TrajectoryDataset) -> int:
    """Full batches in one pass over the training transitions. Raises `ConfigError` if there is none."""
    steps = len(dataset.train_index) // training.batch_size
    if not steps:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but the data has only"
            f" {len(dataset.train_index)} training transitions"
        )
    return steps


def step_settings(training: TrainingConfig, step: int, steps_per_epoch: int) -> StepSettings:
    """Learning rate and EMA decay at a global step: linear warm-up, then the schedules of the config."""
    total, warmup = training.num_epochs * steps_per_epoch, training.warmup_epochs * steps_per_epoch
    rate, decay = training.learning_rate, training.ema_decay
    if step < warmup:
        rate *= (step + 1) / warmup
    elif training.lr_schedule == "cosine":
        rate *= _half_cosine((step - warmup) / max(1, total - warmup))
    if training.ema_decay_final is not None:
        decay = training.ema_decay_final - (training.ema_decay_final - decay) * _half_cosine(step / total)
    return StepSettings(rate, decay, training.grad_clip_norm, training.precision == "bf16")


def seed_for_epoch(seed: int, epoch: int, rank: int) -> None:
    """Set torch's global generators (initialisation, dropout) from (seed, epoch, rank)."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0]))


def _half_cosine(progress: float) -> float:
    """1 at 0, 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _initial_state(config: TrainConfig, dataset: TrajectoryDataset, ranks: Ranks) -> TrainState:
    seed_for_epoch(config.experiment.seed, 0, 0)  # the same on every rank: DDP starts from equal parameters
    model = build_jepa(config.model, dataset.spec).to(dataset.device)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.training.weight_decay), lr=config.training.learning_rate, fused=True
    )
    if config.training.compile:
        model.compile()
    update_target = EmaUpdate(model.state_encoder, model.target_encoder)
    return TrainState(model, optimizer, update_target, ranks.wrap(model))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels, not on biases, norms and positions of one axis."""
    trained = _trained(model)
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
