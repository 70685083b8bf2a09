"""What a model knows, as functions of tensors; DESIGN in one line: loss and cosine can be faked, ranking can't.

Latent-space loss scales with the variance of the target, which the hyperparameters set themselves, and a collapsed
model has loss 0 and cosine 1. `rollout_reciprocal_ranks` depends on neither scale, width nor collapse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rollout_reciprocal_ranks(
    predicted: Tensor, embeddings: Tensor, lengths: Tensor, episode: Tensor, start: Tensor
) -> Tensor:
    """Reciprocal rank of the true future embedding for each open-loop prediction, NaN past an episode's end.

    The Hits/MRR protocol of contrastive structured world models (Kipf et al. 2020) with harder negatives: the
    candidates for a prediction k steps ahead are every time step of the same trajectory, so that "nothing
    moved" is a wrong answer, and the same time step of every other trajectory. They are ranked by Euclidean
    distance to the prediction; ties count half, so a collapsed encoder scores chance and not 1.

    Args:
        predicted: (S, K, D), predictions k = 1..K steps after each of S starts.
        embeddings: (E, L, D), online embeddings of E whole trajectories, padded to L rows.
        lengths: (E,), rows of each trajectory.
        episode: (S,), trajectory of each start.
        start: (S,), row of each start within its trajectory.

    Returns:
        (S, K) in (0, 1], or NaN where start + k lies past the end. 1 for a perfect model; with C candidates, a
        collapsed one gives 2 / (C + 1) and a random one H_C / C.
    """
    steps = torch.arange(1, predicted.shape[1] + 1, device=start.device)
    rows = torch.arange(embeddings.shape[1], device=start.device)
    time = start[:, None] + steps  # (S, K), the true row
    exists = time < lengths[episode, None]
    time = time.clamp(max=embeddings.shape[1] - 1)

    own = _distances(predicted, embeddings[episode][:, None])  # (S, K, L)
    own_is_candidate = (rows < lengths[episode, None])[:, None]  # (S, 1, L)
    true = own.gather(2, time[..., None])  # (S, K, 1)
    others = _distances(predicted, embeddings.transpose(0, 1)[time])  # (S, K, E)
    other_is_candidate = time[..., None] < lengths  # (S, K, E)
    other_is_candidate &= (torch.arange(len(lengths), device=start.device) != episode[:, None])[:, None]

    # The true candidate ties with itself: half a rank, made whole by starting at a half.
    rank = 0.5 + _places_lost(own, true, own_is_candidate) + _places_lost(others, true, other_is_candidate)
    return torch.where(exists, 1 / rank, torch.nan)


def _distances(predicted: Tensor, candidates: Tensor) -> Tensor:
    """Squared distances (S, K, C) of (S, K, D) to (S, K or 1, C, D); exact differences, so that equals tie."""
    return (predicted[:, :, None] - candidates).square_().sum(-1)


def _places_lost(distance: Tensor, true: Tensor, is_candidate: Tensor) -> Tensor:
    closer = (distance < true).float() + 0.5 * (distance == true).float()
    return (closer * is_candidate).sum(-1)


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity (B,) of embeddings (B, D), in [-1, 1]. Fooled by collapse: constants have cosine 1."""
    return F.cosine_similarity(predicted, target, dim=-1)


def embedding_std(embeddings: Tensor) -> Tensor:
    """Standard deviation over N embeddings (N, D), averaged over dimensions; 0 means scale collapse."""
    return embeddings.std(dim=0, correction=0).mean()


def effective_rank(embeddings: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023): exp(entropy of the normalised singular values of (N, D)), in [1, min(N, D)]."""
    singular = torch.linalg.svdvals(embeddings.float())
    p = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy: Tensor = -torch.xlogy(p, p).sum()
    return entropy.exp()


def ema_gap(online: Tensor, target: Tensor) -> Tensor:
    """Distance of target from online embeddings (N, D) over the online ones' norm; 0 when the target caught up."""
    return (online - target).norm() / online.norm().clamp_min(torch.finfo(online.dtype).tiny)
