"""The learner: a JEPA together with the loss terms that it is trained with.

Only the JEPA is kept after training. Heads and decoders that only training needs are parts of the terms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jepa_ray.config import ModelConfig, TrainingConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.model.decoders import build_decoder
from jepa_ray.model.encoders import Normalise
from jepa_ray.model.jepa import JEPA, build_jepa
from jepa_ray.model.losses import (
    Average,
    Covariance,
    InverseDynamics,
    LossTerm,
    Prediction,
    Reconstruction,
    SigReg,
    TemporalSimilarity,
    Unrolled,
    Variance,
)


class Learner(nn.Module):
    """The loss of a batch as one module, so that DDP can wrap it and `torch.compile` can compile it.

    Args:
        model: the model to train.
        terms: loss terms by name.
        weights: the weight of each term, by the same names.
    """

    def __init__(self, model: JEPA, terms: Mapping[str, LossTerm], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = dict(weights)
        self._sees_all_frames = any(term.sees_all_frames for term in terms.values())

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The weighted sum of all terms, a scalar, over windows (K + 1, B, ...) and actions (K, B, ...)."""
        unrolled = self.unroll(observations, actions)
        losses = [self.weights[name] * term(self.model, unrolled) for name, term in self.terms.items()]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def unroll(self, observations: Tensor, actions: Tensor) -> Unrolled:
        """Encode the frames that the terms need, and predict K steps open-loop from the first frame."""
        frames = len(observations) if self._sees_all_frames else 1
        states = self.model.encode(observations[:frames].flatten(0, 1)).unflatten(0, (frames, -1))
        return Unrolled(observations, actions, states, self.model.unroll(states[0], actions))

    def reseed(self, seed: int) -> None:
        """Start an epoch. Random numbers that must be the same on all workers are then derived from `seed`."""
        for term in self.terms.values():
            if isinstance(term, SigReg):
                term.reseed(seed)


def build_learner(model: ModelConfig, training: TrainingConfig, spec: DataSpec, average: Average) -> Learner:
    """Build the learner that a config describes. Raises `ConfigError` if model and data do not fit.

    `average` is the mean of a statistic over all workers, as `Communicator.average` computes it.
    """
    generative = training.objective == "generative"
    jepa = build_jepa(model, spec, ema_target=not generative)
    loss, width = training.loss, model.latent_dim_state
    terms: dict[str, LossTerm] = {"objective": _reconstruction(model, spec) if generative else Prediction()}
    weights = {"objective": 1.0}
    for name, weight, make in (
        ("variance", loss.variance, lambda: Variance(average)),
        ("covariance", loss.covariance, lambda: Covariance(average)),
        ("sigreg", loss.sigreg, lambda: SigReg(loss.sigreg_directions, average)),
        ("inverse_dynamics", loss.inverse_dynamics, lambda: InverseDynamics(width, spec.action_std, spec.num_actions)),
        ("temporal_similarity", loss.temporal_similarity, TemporalSimilarity),
    ):
        if weight:
            terms[name], weights[name] = make(), weight
    return Learner(jepa, terms, weights)


def _reconstruction(model: ModelConfig, spec: DataSpec) -> Reconstruction:
    normalise = Normalise(spec.mean, spec.std, len(spec.observation_shape))
    return Reconstruction(build_decoder(model, spec.observation_shape), normalise)
