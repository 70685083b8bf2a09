"""Metrics of a model as functions of tensors: the formula, range and source of each, and what can fake it.

A loss in latent space scales with the variance of the target, which depends on the hyperparameters, and a collapsed
model has loss 0 and cosine similarity 1. The ranking metrics depend neither on scale nor on width, and collapse does
not improve them.

Letters in shape comments: S roll-out starts, K steps, E trajectories, L rows of the longest, N embeddings, D width,
Y label dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CandidateRanks(NamedTuple):
    """The position of the true embedding among its candidates; NaN where the trajectory has ended."""

    lost: Tensor  # (S, K) number of candidates closer to the prediction than the truth; ties count half
    rivals: Tensor  # (S, K) number of candidates besides the truth

    def reciprocal(self) -> Tensor:
        """1 / rank, (S, K) in (0, 1]: 1 for a perfect model, 2 / (C + 2) if all C rivals tie with the truth."""
        return 1 / (1 + self.lost)

    def chance(self) -> Tensor:
        """Expected reciprocal rank (S, K) of a random order: the mean of 1/1 .. 1/(C + 1) for C rivals."""
        candidates = self.rivals + 1
        return (torch.digamma(candidates + 1) - torch.digamma(torch.ones_like(candidates))) / candidates

    def __add__(self, other: object) -> CandidateRanks:
        """The ranks among the candidates of both."""
        assert isinstance(other, CandidateRanks), other
        return CandidateRanks(self.lost + other.lost, self.rivals + other.rivals)


class RolloutRanks(NamedTuple):
    """Ranks of the true future embedding for each open-loop prediction, by the kind of its rivals."""

    within: CandidateRanks  # the other time steps of the same trajectory
    across: CandidateRanks  # the same time step of the other trajectories

    @property
    def overall(self) -> CandidateRanks:
        """Ranks among both kinds of rivals; the mean of `overall.reciprocal()` is val_rollout_mrr."""
        return self.within + self.across


def rollout_ranks(
    predicted: Tensor, embeddings: Tensor, lengths: Tensor, episode: Tensor, start: Tensor
) -> RolloutRanks:
    """Rank the true future embedding among candidates by Euclidean distance to each open-loop prediction.

    This is the Hits/MRR protocol of contrastive structured world models (Kipf et al. 2020) with harder negatives. The
    candidates for a prediction k steps ahead are every time step of the same trajectory, so that "nothing moved" is a
    wrong answer, and the same time step of every other trajectory. Ties count half, so a collapsed encoder scores below
    chance and not 1. Neither the scale nor the width of embeddings fakes it. A model that knows only the trajectory
    scores well across trajectories, and at chance within them.

    Args:
        predicted: (S, K, D), predictions k = 1..K steps after each of S starts.
        embeddings: (E, L, D), online embeddings of E whole trajectories, padded to L rows.
        lengths: (E,), rows of each trajectory.
        episode: (S,), trajectory of each start.
        start: (S,), row of each start within its trajectory.
    """
    steps = torch.arange(1, predicted.shape[1] + 1, device=start.device)
    rows = torch.arange(embeddings.shape[1], device=start.device)
    time = start[:, None] + steps  # (S, K), the true row
    exists = time < lengths[episode, None]
    time = time.clamp(max=embeddings.shape[1] - 1)

    own = _distances(predicted, embeddings[episode][:, None])  # (S, K, L)
    true = own.gather(2, time[..., None])  # (S, K, 1)
    own_is_rival = (rows < lengths[episode, None])[:, None] & (rows != time[..., None])  # (S, K, L)
    others = _distances(predicted, embeddings.transpose(0, 1)[time])  # (S, K, E)
    other_is_rival = time[..., None] < lengths  # (S, K, E)
    other_is_rival &= (torch.arange(len(lengths), device=start.device) != episode[:, None])[:, None]
    return RolloutRanks(_ranks(own, true, own_is_rival, exists), _ranks(others, true, other_is_rival, exists))


def _distances(predicted: Tensor, candidates: Tensor) -> Tensor:
    """Squared distances (S, K, C) of (S, K, D) to (S, K or 1, C, D), from differences, so that equal vectors tie."""
    return (predicted[:, :, None] - candidates).square_().sum(-1)


def _ranks(distance: Tensor, true: Tensor, is_rival: Tensor, exists: Tensor) -> CandidateRanks:
    closer = (distance < true).float() + 0.5 * (distance == true).float()
    lost, rivals = (closer * is_rival).sum(-1), is_rival.sum(-1).float()
    return CandidateRanks(*(torch.where(exists, value, torch.nan) for value in (lost, rivals)))


def above_chance(excess: Tensor) -> Tensor:
    """How many standard errors the mean excess over chance is above 0, from one value per trajectory (E,), E >= 2.

    Trajectories are independent of each other, the ranks within one are not. Below about 3, a model is at chance.
    """
    error = excess.std() / len(excess) ** 0.5
    return (excess.mean() / error.clamp_min(1e-6)).clamp(-1e3, 1e3)


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity (B,) of embeddings (B, D), in [-1, 1]. Faked by collapse: constants have cosine 1."""
    return F.cosine_similarity(predicted, target, dim=-1)


def skill(error: Tensor, target: Tensor) -> Tensor:
    """1 - MSE / Var(target) over embeddings (N, D), <= 1: the share of the target's variance that is explained.

    0 for a model that predicts the mean. Faked by slow features: if trajectories differ more than their time steps do,
    knowing the trajectory explains most of the variance. Meaningless at collapse, where Var goes to 0.
    """
    return 1 - error / _positive(target.var(0, correction=0).mean())


def persistence_ratio(error: Tensor, copied: Tensor) -> Tensor:
    """MSE over the MSE of copying the target embedding z'_t, >= 0; above 1, a model is worse than "nothing moved".

    Independent of scale. A smooth encoder raises it, since copies of its embeddings are hard to beat.
    """
    return error / _positive(copied)


def action_gap(error: Tensor, shuffled: Tensor) -> Tensor:
    """MSE with the actions of other transitions over MSE, >= 0; 1 for a model that ignores actions.

    Faked by an encoder that represents only the effect of the action. Uninformative if actions have little effect.
    """
    return shuffled / _positive(error)


def embedding_std(embeddings: Tensor) -> Tensor:
    """Standard deviation over N embeddings (N, D), averaged over dimensions; 0 means scale collapse.

    Faked by slow features and by scale: an encoder that ends in a LayerNorm has about 1, whether it has learned or not.
    """
    return embeddings.std(dim=0, correction=0).mean()


def effective_rank(embeddings: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023): exp(entropy of the normalised singular values of (N, D)), in [1, min(N, D)].

    Faked by noise, which has full rank, and by the width of the embedding, which is its upper bound.
    """
    singular = torch.linalg.svdvals(embeddings.float())
    p = singular / _positive(singular.sum())
    entropy: Tensor = -torch.xlogy(p, p).sum()
    return entropy.exp()


def temporal_share(embeddings: Tensor, episode: Tensor) -> Tensor:
    """Share of the variance of (N, D) embeddings within trajectories (N,), as opposed to between them, in [0, 1].

    Near 0 for slow-feature collapse: the embedding shows the trajectory, but not the position in it.
    """
    count = int(episode.max()) + 1
    sizes = torch.zeros(count, device=embeddings.device).index_add_(
        0, episode, torch.ones_like(episode, dtype=torch.float)
    )
    means = embeddings.new_zeros(count, embeddings.shape[1]).index_add_(0, episode, embeddings)
    within = (embeddings - (means / sizes.clamp_min(1)[:, None])[episode]).square().sum()
    total = (embeddings - embeddings.mean(0)).square().sum()
    return within / _positive(total)


def ema_gap(online: Tensor, target: Tensor) -> Tensor:
    """Distance between target and online values over the norm of the online ones; 0 if they are equal.

    Takes embeddings (N, D), or parameters flattened to one vector.
    """
    return (online - target).norm() / _positive(online.norm())


class RidgeProbe(NamedTuple):
    """A linear map from embeddings to labels."""

    centre: Tensor  # (D,)
    scale: Tensor  # (D,)
    weights: Tensor  # (D, Y)
    bias: Tensor  # (Y,)

    @classmethod
    def fit(cls, embeddings: Tensor, labels: Tensor, penalty: float = 1.0) -> RidgeProbe:
        """Closed-form ridge regression of labels (N, Y) on standardised embeddings (N, D), in float64."""
        z, y = embeddings.double(), labels.double()
        centre, scale, bias = z.mean(0), z.std(0, correction=0).clamp_min(1e-6), y.mean(0)
        z = (z - centre) / scale
        gram = z.T @ z + penalty * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        return cls(centre, scale, torch.linalg.solve(gram, z.T @ (y - bias)), bias)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Predicted labels (N, Y) of embeddings (N, D)."""
        return ((embeddings.double() - self.centre) / self.scale) @ self.weights + self.bias


def r2(residual: Tensor, total: Tensor) -> Tensor:
    """Mean over label dimensions of 1 - SSE / SST, each (Y,), <= 1; dimensions that never vary are left out."""
    varies = total > 1e-9
    return (1 - residual[varies] / total[varies]).mean() if varies.any() else residual.new_zeros(())


def _positive(value: Tensor) -> Tensor:
    """A denominator that is neither 0 nor so small that ratios overflow."""
    return value.clamp_min(1e-12)
