"""The training loop in pure torch, without Ray: one step, one epoch, and the state that they change.

`batch_size` is the global batch: each of W ranks takes batch_size / W rows of the same permutation, so one and two
ranks see the same batches. All randomness of an epoch is derived from (seed, epoch, rank). A run therefore resumes bit
for bit without saved generator state, and a trial's result does not depend on what its group trained before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from jepa_ray.config import TrainConfig, TrainingConfig
from jepa_ray.data.dataset import Batch, TrajectoryDataset
from jepa_ray.diagnosis import diagnose
from jepa_ray.errors import ConfigError, DataError, TrialError, first_line
from jepa_ray.model.jepa import JEPA, EmaUpdate
from jepa_ray.model.learner import Learner, build_learner
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.validation import validate

ShowProgress = Callable[[int, int, float], None]  # step, steps of the epoch, samples per second since its start
PROGRESS_INTERVAL_S = 1.0


class Loss(Protocol):
    """The learner as a step calls it: as it is, compiled, or wrapped for DDP."""

    def __call__(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The loss of a batch, as in `Learner.forward`."""
        ...


@dataclass
class TrainState:
    """Everything that training changes."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    update_target: EmaUpdate
    loss: Loss
    epoch: int = 0  # the number of finished epochs
    metrics: dict[str, float] | None = None  # of the last epoch
    best: dict[str, Any] | None = None  # {"epoch", "metrics", "model"} of the best epoch so far
    collapse: str | None = None  # the diagnosis, if it ended the run

    @property
    def model(self) -> JEPA:
        """The part of the learner that is kept after training."""
        return self.learner.model


@dataclass(frozen=True)
class StepSettings:
    """Hyperparameters of one optimizer step; they do not affect any tensor's shape."""

    learning_rate: float
    ema_decay: float
    grad_clip_norm: float | None
    bf16: bool


def train_step(state: TrainState, batch: Batch, settings: StepSettings) -> Tensor:
    """Run one optimizer step and one EMA update. Returns the detached loss (), without waiting for the device."""
    with torch.autocast(batch.observations.device.type, torch.bfloat16, enabled=settings.bf16):
        loss = state.loss(batch.observations, batch.actions)
    loss.backward()
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate
    if settings.grad_clip_norm is not None:
        nn.utils.clip_grad_norm_(_trained(state.learner), settings.grad_clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update_target(settings.ema_decay)
    return loss.detach()


class Trainer:
    """Trains one run or trial, epoch by epoch.

    Args:
        config: of the run.
        dataset: on the device that is to train.
        comm: of the workers that train together; None: that of torch's process group.

    Raises:
        ConfigError: config and data do not fit together.
    """

    def __init__(self, config: TrainConfig, dataset: TrajectoryDataset, comm: Communicator | None = None) -> None:
        self.config, self.dataset, self.comm = config, dataset, comm or Communicator.current()
        self._windows = windows(config.training, dataset)
        self.steps_per_epoch = len(self._windows) // config.training.batch_size
        self.state = _initial_state(config, dataset, self.comm)

    @property
    def finished(self) -> bool:
        """Whether num_epochs or the patience is used up, or the model has collapsed."""
        training, state = self.config.training, self.state
        stale = state.epoch - (state.best["epoch"] if state.best else 0)
        out_of_patience = training.patience is not None and stale >= training.patience
        return state.epoch >= training.num_epochs or out_of_patience or state.collapse is not None

    def run_epoch(self, progress: ShowProgress | None = None) -> dict[str, float]:
        """Train and validate one epoch. Returns all metrics by name.

        `progress` is called about once a second while training, and after the last step.

        Raises `TrialError` on all ranks together if the loss or the objective is not finite.
        """
        started = time.perf_counter()
        train_loss = self._train(progress)
        trained = time.perf_counter()
        validation = validate(self.state.model, self.dataset, self.comm, self.config.training.rollout_horizon)
        metrics = {
            "train_loss": train_loss,
            **validation,
            "samples_per_s": self.steps_per_epoch * self.config.training.batch_size / (trained - started),
            "epoch_s": time.perf_counter() - started,
        }
        self.state.metrics = metrics
        self._keep_if_best(metrics)
        self._check_collapse(metrics)
        return metrics

    def _train(self, progress: ShowProgress | None) -> float:
        """Train one epoch. Returns the loss, averaged over all steps and ranks."""
        state, training = self.state, self.config.training
        seed_for_epoch(self.config.experiment.seed, state.epoch, self.comm.rank)
        state.learner.reseed(epoch_seed(self.config.experiment.seed, state.epoch, rank=0))  # the same on all ranks
        order = self._permutation()
        share = self.comm.share(training.batch_size)
        losses = torch.zeros((), device=self.dataset.device)
        pace = _Pace(progress, self.steps_per_epoch, training.batch_size) if progress else None
        for step in range(self.steps_per_epoch):
            rows = order[step * training.batch_size : (step + 1) * training.batch_size][share]
            settings = step_settings(training, state.epoch * self.steps_per_epoch + step, self.steps_per_epoch)
            losses += train_step(state, self.dataset.batch(rows, training.loss.rollout_steps), settings)
            if pace:
                pace.step_done(step + 1)
        state.epoch += 1
        loss = float(self.comm.sum(losses)) / (self.steps_per_epoch * self.comm.world)
        if not math.isfinite(loss):
            raise TrialError(f"train_loss is {loss} in epoch {state.epoch}")
        return loss

    def _permutation(self) -> Tensor:
        rng = np.random.default_rng((self.config.experiment.seed, self.state.epoch))
        return self._windows[torch.from_numpy(rng.permutation(len(self._windows)))]

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        objective, best = self.config.experiment.objective, self.state.best
        value = metrics[objective.metric]
        if not math.isfinite(value):
            raise TrialError(f"{objective.metric} is {value} in epoch {self.state.epoch}")
        if objective.better(value, best["metrics"][objective.metric] if best else None):
            weights = {name: tensor.detach().clone() for name, tensor in self.state.model.state_dict().items()}
            self.state.best = {"epoch": self.state.epoch, "metrics": dict(metrics), "model": weights}

    def _check_collapse(self, metrics: dict[str, float]) -> None:
        """Stop a model that is still at chance after `collapse_epochs`, when slow but healthy models are not."""
        after = self.config.training.collapse_epochs
        if after is not None and self.state.epoch >= after:
            diagnosis = diagnose(metrics)
            self.state.collapse = str(diagnosis) if diagnosis.collapsed else None

    def checkpoint(self) -> ckpt.Checkpoint:
        """Everything that is needed to resume bit for bit, as plain values and tensors."""
        state = self.state
        return ckpt.describe(self.config, self.dataset.spec) | {
            "model": state.model.state_dict(),
            "terms": state.learner.terms.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "epoch": state.epoch,
            "metrics": state.metrics,
            "best": state.best,
            "collapse": state.collapse,
        }

    def restore(self, checkpoint: ckpt.Checkpoint) -> None:
        """Continue from a `checkpoint()` of the same config. Raises `DataError` if it does not fit this run."""
        try:
            self.state.model.load_state_dict(checkpoint["model"])
            self.state.learner.terms.load_state_dict(checkpoint["terms"])
            self.state.optimizer.load_state_dict(checkpoint["optimizer"])
            for name in ("epoch", "metrics", "best", "collapse"):
                setattr(self.state, name, checkpoint[name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = first_line(error)
            raise DataError(f"the checkpoint does not fit this run ({type(error).__name__}: {what})") from None


class _Pace:
    """Calls `progress` at most once per `PROGRESS_INTERVAL_S`, and after the epoch's last step.

    Counts the steps that were given to the device. It does not wait for them: that would slow down the loop.
    """

    def __init__(self, progress: ShowProgress, steps: int, batch_size: int) -> None:
        self._progress, self._steps, self._batch_size = progress, steps, batch_size
        self._started = self._shown = time.perf_counter()

    def step_done(self, step: int) -> None:
        now = time.perf_counter()
        if now - self._shown >= PROGRESS_INTERVAL_S or step == self._steps:
            self._shown = now
            self._progress(step, self._steps, step * self._batch_size / (now - self._started))


def windows(training: TrainingConfig, dataset: TrajectoryDataset) -> Tensor:
    """First rows (M,) of all training windows. Raises `ConfigError` if they are fewer than one batch."""
    steps = training.loss.rollout_steps
    rows = dataset.train_windows(steps)
    if len(rows) < training.batch_size:
        samples = "transitions" if steps == 1 else f"windows of training.loss.rollout_steps {steps}"
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but the data has only {len(rows)} training {samples}:"
            f" use at most {len(rows)}"
        )
    return rows


def step_settings(training: TrainingConfig, step: int, steps_per_epoch: int) -> StepSettings:
    """Learning rate and EMA decay at a global step: a linear warm-up, then the schedules of the config."""
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
    """Seed torch's global generators (initialisation, dropout) from (seed, epoch, rank)."""
    torch.manual_seed(epoch_seed(seed, epoch, rank))


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """A 64-bit seed derived from (seed, epoch, rank); similar inputs give unrelated seeds."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0])


def _half_cosine(progress: float) -> float:
    """Falls from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _initial_state(config: TrainConfig, dataset: TrajectoryDataset, comm: Communicator) -> TrainState:
    seed_for_epoch(config.experiment.seed, 0, 0)  # the same on all ranks: DDP must start with equal parameters
    learner = build_learner(config.model, config.training, dataset.spec, comm.average).to(dataset.device)
    optimizer = torch.optim.AdamW(
        _parameter_groups(learner, config.training.weight_decay), lr=config.training.learning_rate, fused=True
    )
    if config.training.compile:
        learner.compile()
    update_target = EmaUpdate(learner.model.state_encoder, learner.model.target_encoder)
    return TrainState(learner, optimizer, update_target, comm.wrap(learner))


def _trained(learner: nn.Module) -> list[nn.Parameter]:
    return [p for p in learner.parameters() if p.requires_grad]


def _parameter_groups(learner: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for parameters with two or more axes (matrices, kernels), none for biases and norms."""
    trained = _trained(learner)
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
