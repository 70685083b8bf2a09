"""Validation: every metric of an epoch, computed over the global validation set, sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.metrics import cosine, effective_rank, ema_gap, embedding_std, rollout_reciprocal_ranks
from jepa_ray.model.jepa import JEPA
from jepa_ray.train.ranks import Ranks

ENCODE_ROWS = 256  # observations encoded at once
ROLLOUT_STARTS = 128  # roll-outs ranked at once
MAX_TRAJECTORIES = 64  # validation trajectories that are ranked, and candidates for each other
MAX_STARTS = 4096  # roll-outs ranked in all, evenly spaced where there are more
MAX_RANK_ROWS = 4096  # embeddings whose singular values are taken


@torch.no_grad()
def evaluate(model: JEPA, dataset: TrajectoryDataset, ranks: Ranks, horizon: int) -> dict[str, float]:
    """val_loss, val_cosine, val_rollout_mrr, embedding_std, effective_rank, ema_gap; the same on every rank."""
    model.eval()
    frames = _ValidationFrames.of(dataset)
    online = _encode(model.encode, dataset, frames.rows, ranks)
    target = _encode(model.target_encoder, dataset, frames.rows, ranks)
    stride = -(-len(online) // MAX_RANK_ROWS)
    metrics = {
        **_one_step(model, dataset, frames, online, target, ranks),
        "val_rollout_mrr": _rollout_mrr(model, dataset, frames, online, ranks, horizon),
        "embedding_std": embedding_std(online),
        "effective_rank": effective_rank(online[::stride]),
        "ema_gap": ema_gap(online, target),
    }
    model.train()
    names = list(metrics)
    return dict(zip(names, torch.stack([metrics[n].float() for n in names]).tolist(), strict=True))


@dataclass(frozen=True)
class _ValidationFrames:
    """All rows of the validation trajectories, one after another."""

    rows: Tensor  # (V,) row in the dataset
    lengths: Tensor  # (E,)
    offsets: Tensor  # (E,) first position of each trajectory in `rows`

    @classmethod
    def of(cls, dataset: TrajectoryDataset) -> _ValidationFrames:
        lengths = dataset.val_lengths
        offsets = torch.cumsum(lengths, 0) - lengths
        rows = torch.cat(
            [torch.arange(o, o + n) for o, n in zip(dataset.val_offsets.tolist(), lengths.tolist(), strict=True)]
        )
        return cls(rows, lengths, offsets)


def _encode(encoder: Callable[[Tensor], Tensor], dataset: TrajectoryDataset, rows: Tensor, ranks: Ranks) -> Tensor:
    mine = rows[ranks.share(len(rows))]
    part = torch.cat([encoder(dataset.observations(chunk)).float() for chunk in mine.split(ENCODE_ROWS)])
    return ranks.gather(part, len(rows))  # (V, D)


def _one_step(
    model: JEPA, dataset: TrajectoryDataset, frames: _ValidationFrames, online: Tensor, target: Tensor, ranks: Ranks
) -> dict[str, Tensor]:
    last = frames.offsets + frames.lengths - 1
    source = torch.ones(len(frames.rows), dtype=torch.bool).index_fill_(0, last, False).nonzero()[:, 0]  # (M,)
    mine = source[ranks.share(len(source))]
    sums = torch.zeros(2, device=online.device)
    for chunk in mine.split(ENCODE_ROWS):
        here = chunk.to(online.device)
        predicted = model.predict(online[here], dataset.actions(frames.rows[chunk]))
        squared = F.mse_loss(predicted, target[here + 1], reduction="none").mean(1)
        sums += torch.stack([squared.sum(), cosine(predicted, target[here + 1]).sum()])
    loss, similarity = ranks.sum(sums) / len(source)
    return {"val_loss": loss, "val_cosine": similarity}


def _rollout_mrr(
    model: JEPA, dataset: TrajectoryDataset, frames: _ValidationFrames, online: Tensor, ranks: Ranks, horizon: int
) -> Tensor:
    lengths, offsets = frames.lengths[:MAX_TRAJECTORIES], frames.offsets[:MAX_TRAJECTORIES]
    device = online.device
    padded = online.new_zeros(len(lengths), int(lengths.max()), online.shape[1])  # (E, L, D)
    for e, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        padded[e, :length] = online[offset : offset + length]
    sums = torch.zeros(2, device=device)
    for episode, start in _starts(lengths, ranks):
        steps = (offsets[episode] + start)[:, None] + torch.arange(horizon)  # (S, K)
        actions = dataset.actions(frames.rows[steps.clamp(max=len(frames.rows) - 1)].flatten())
        predicted = model.rollout(padded[episode, start], actions.unflatten(0, steps.shape))
        ranked = rollout_reciprocal_ranks(
            predicted.float(), padded, lengths.to(device), episode.to(device), start.to(device)
        )
        sums += torch.stack([ranked.nansum(), (~ranked.isnan()).sum()])
    total, count = ranks.sum(sums)
    return total / count


def _starts(lengths: Tensor, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """(episode, row) of this rank's roll-out starts, in chunks."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths - 1)
    start = torch.cat([torch.arange(n - 1) for n in lengths.tolist()])
    stride = -(-len(start) // MAX_STARTS)
    picked = torch.stack([episode, start])[:, ::stride]
    for chunk in picked[:, ranks.share(picked.shape[1])].split(ROLLOUT_STARTS, dim=1):
        if chunk.shape[1]:
            yield chunk[0], chunk[1]
