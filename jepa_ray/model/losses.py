"""Loss terms. The training loss is their weighted sum.

Every term gets one unrolled batch and returns a scalar. A term that is a mean over samples is exact under DDP without
further work: workers hold equal shares, so the average of their gradients is the gradient of the whole batch. A term
that is a *function of* batch statistics (variance, covariance, SIGReg) first averages the statistics over workers,
through autograd. W workers then have the same loss and gradient as one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ray.model.jepa import JEPA

Average = Callable[[Tensor], Tensor]  # mean of a statistic over workers, with gradients; in one process the identity


@dataclass(frozen=True)
class Unrolled:
    """A batch of windows, encoded and predicted by the model; time first."""

    observations: Tensor  # (K + 1, B, ...) raw
    actions: Tensor  # (K, B, A) float or (K, B) int64
    states: Tensor  # (F, B, D) online embeddings of the first F frames; F = 1, or K + 1 if a term needs all
    predicted: Tensor  # (K, B, D) open-loop predictions from states[0]


class LossTerm(nn.Module):
    """One term of the training loss: `term(model, unrolled)` is a scalar."""

    sees_all_frames = False  # whether it needs the online embeddings of all frames, and not only of the first


class Prediction(LossTerm):
    """Mean squared error of predicted and target-encoder embeddings over all K steps, >= 0; the JEPA objective.

    With K > 1 this is the multi-step roll-out loss. A collapsed model has loss 0; the EMA target usually, but not
    always, prevents collapse (Grill et al. 2020).
    """

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        following = unrolled.observations[1:].flatten(0, 1)
        with torch.no_grad():
            target = model.target_encoder(following).unflatten(0, unrolled.predicted.shape[:2])
        return F.mse_loss(unrolled.predicted, target)


class Reconstruction(LossTerm):
    """Mean squared error of decoded predictions and the next observations, normalised; the generative objective.

    Args:
        decoder: (B, D) -> (B, ...) observations.
        normalise: raw observations -> the normalised ones that the decoder must reproduce.
    """

    def __init__(self, decoder: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.decoder, self.normalise = decoder, normalise

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        decoded = self.decoder(unrolled.predicted.flatten(0, 1))
        return F.mse_loss(decoded, self.normalise(unrolled.observations[1:].flatten(0, 1)))


class Variance(LossTerm):
    """Mean over dimensions of max(0, 1 - std over the batch), in [0, 1]: it keeps every dimension from being constant.

    VICReg (Bardes et al. 2022), eq. 1; per frame.
    """

    EPSILON = 1e-4  # under the root, as in the paper: the gradient stays finite at collapse

    def __init__(self, average: Average) -> None:
        super().__init__()
        self._average = average

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        variance = _centred(unrolled.states, self._average).square().mean(1)  # (F, D), of this worker's share
        return F.relu(1 - (self._average(variance) + self.EPSILON).sqrt()).mean()


class Covariance(LossTerm):
    """Sum of squared off-diagonal covariances over D, >= 0: it keeps dimensions from being redundant.

    VICReg (Bardes et al. 2022), eq. 3; per frame.
    """

    def __init__(self, average: Average) -> None:
        super().__init__()
        self._average = average

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        centred = _centred(unrolled.states, self._average)
        covariance = self._average(centred.transpose(1, 2) @ centred / centred.shape[1])  # (F, D, D)
        off_diagonal = covariance.square().sum((1, 2)) - covariance.diagonal(dim1=1, dim2=2).square().sum(1)
        return off_diagonal.mean() / centred.shape[2]


class SigReg(LossTerm):
    """Sketched isotropic Gaussian regularisation, >= 0 and 0 for embeddings distributed as N(0, I); per frame.

    Along random unit directions, the Epps-Pulley distance of the embeddings' characteristic function to that of
    N(0, 1): the integral over t in [-5, 5] of |mean exp(itx) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), averaged over directions
    (LeJEPA, Balestriero & LeCun 2025). The paper multiplies by the batch size; here the weight does not depend on it.

    The directions are new at each step and the same on all workers: they depend only on the last `reseed` and on the
    number of steps since then.
    """

    knots: Tensor
    weights: Tensor

    def __init__(self, directions: int, average: Average) -> None:
        super().__init__()
        self._directions, self._average = directions, average
        knots = torch.linspace(0, 5, 9)  # the integrand is even: half of the paper's 17 knots, twice the weight
        trapezoid = torch.full((9,), 2 * 5 / 8)
        trapezoid[[0, -1]] /= 2
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("weights", trapezoid * torch.exp(-knots.square() / 2), persistent=False)
        self._generator: torch.Generator | None = None

    def reseed(self, seed: int) -> None:
        """Start a new sequence of directions. All workers must pass the same seed."""
        self._generator = torch.Generator(self.knots.device).manual_seed(seed)

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        states = unrolled.states.float()
        directions = torch.randn(
            states.shape[-1], self._directions, generator=self._generator, device=states.device
        )  # (D, P)
        angles = (states @ F.normalize(directions, dim=0))[..., None] * self.knots  # (F, B, P, 9)
        empirical = self._average(torch.stack([angles.cos().mean(1), angles.sin().mean(1)]))  # (2, F, P, 9)
        real, imaginary = empirical.unbind()
        distance = (real - torch.exp(-self.knots.square() / 2)).square() + imaginary.square()
        return (distance @ self.weights).mean()


class InverseDynamics(LossTerm):
    """Error of the action predicted from the embeddings before and after it, >= 0.

    The embeddings must then represent what actions change. Continuous actions: squared error in units of their standard
    deviation. Discrete actions: cross-entropy in nats. On Two Rooms with random walls this term decides whether a model
    learns, in PLDM's ablation (Sobal et al. 2025) and here (EXPERIMENTS.md).
    """

    sees_all_frames = True
    scale: Tensor

    def __init__(self, width: int, action_std: tuple[float, ...], num_actions: int) -> None:
        super().__init__()
        outputs = num_actions or len(action_std)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, outputs))
        self.discrete = num_actions > 0
        self.register_buffer("scale", 1 / torch.tensor(action_std or (1.0,)), persistent=False)

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        pairs = torch.cat([unrolled.states[:-1], unrolled.states[1:]], dim=-1)  # (K, B, 2 D)
        inferred = self.head(pairs).flatten(0, 1)
        actions = unrolled.actions.flatten(0, 1)
        if self.discrete:
            return F.cross_entropy(inferred, actions)
        return F.mse_loss(inferred, actions * self.scale)


class TemporalSimilarity(LossTerm):
    """Mean squared change of the online embeddings from frame to frame, >= 0: it keeps successive states close.

    PLDM (Sobal et al. 2025). Alone it causes collapse: use it together with variance or inverse dynamics.
    """

    sees_all_frames = True

    def forward(self, model: JEPA, unrolled: Unrolled) -> Tensor:
        return F.mse_loss(unrolled.states[1:], unrolled.states[:-1])


def _centred(states: Tensor, average: Average) -> Tensor:
    """States (F, B, D) minus their mean over the global batch, in float32."""
    states = states.float()
    return states - average(states.mean(1))[:, None]
