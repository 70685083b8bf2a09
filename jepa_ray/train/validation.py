"""Validation: all metrics of an epoch over the global validation set, which is sharded over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_ray import metrics as measure
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.model.jepa import JEPA
from jepa_ray.train.collectives import Communicator

ENCODE_ROWS = 256  # observations encoded at once
ROLLOUT_STARTS = 128  # roll-outs scored at once
MAX_TRAJECTORIES = 64  # validation trajectories in the ranking metrics; each one's embeddings are candidates for all
MAX_STARTS = 1024  # roll-outs scored in total; if there are more starts, evenly spaced ones are used
MIN_TRAJECTORIES = 4  # needed for the z metrics: with fewer, a model cannot be distinguished from chance
MAX_RANK_ROWS = 1024  # embeddings that the effective rank is computed from


@torch.no_grad()
def validate(model: JEPA, dataset: TrajectoryDataset, comm: Communicator, horizon: int) -> dict[str, float]:
    """All validation metrics by name, the same on every rank.

    `rollout_probe_r2` is present only if the data has state labels, and the `_z` metrics only if there are at least
    `MIN_TRAJECTORIES` trajectories.
    """
    model.eval()
    frames = _ValidationFrames.of(dataset)
    online = _encode(model.encode, dataset, frames.rows, comm)
    own_target = model.target_encoder is model.state_encoder
    target = online if own_target else _encode(model.target_encoder, dataset, frames.rows, comm)
    stride = -(-len(online) // MAX_RANK_ROWS)
    metrics = {
        **_one_step(model, dataset, frames, online, target, comm),
        **_rollouts(model, dataset, frames, online, comm, horizon),
        "embedding_std": measure.embedding_std(online),
        "effective_rank": measure.effective_rank(online[::stride]),
        "temporal_share": measure.temporal_share(online, frames.episode.to(online.device)),
        "ema_gap": measure.ema_gap(online, target),
        "ema_param_gap": measure.ema_gap(_flat(model.state_encoder), _flat(model.target_encoder)),
    }
    model.train()
    names = list(metrics)
    return dict(zip(names, torch.stack([metrics[n].float() for n in names]).tolist(), strict=True))


def _flat(module: torch.nn.Module) -> Tensor:
    """All parameters of a module as one vector."""
    return torch.cat([p.flatten() for p in module.parameters()])


@dataclass(frozen=True)
class _ValidationFrames:
    """All rows of the validation trajectories, one after another."""

    rows: Tensor  # (V,) row in the dataset
    lengths: Tensor  # (E,)
    offsets: Tensor  # (E,) first position of each trajectory in `rows`
    episode: Tensor  # (V,) trajectory of each row

    @classmethod
    def of(cls, dataset: TrajectoryDataset) -> _ValidationFrames:
        lengths = dataset.val_lengths
        offsets = torch.cumsum(lengths, 0) - lengths
        rows = torch.cat(
            [torch.arange(o, o + n) for o, n in zip(dataset.val_offsets.tolist(), lengths.tolist(), strict=True)]
        )
        return cls(rows, lengths, offsets, torch.repeat_interleave(torch.arange(len(lengths)), lengths))

    def padded(self, embeddings: Tensor, trajectories: int) -> Tensor:
        """Flat embeddings (V, D) of the first `trajectories` as (E, L, D), padded with zeros."""
        lengths = self.lengths[:trajectories]
        out = embeddings.new_zeros(len(lengths), int(lengths.max()), embeddings.shape[1])
        for e, (offset, length) in enumerate(zip(self.offsets.tolist(), lengths.tolist(), strict=False)):
            out[e, :length] = embeddings[offset : offset + length]
        return out


def _encode(
    encoder: Callable[[Tensor], Tensor], dataset: TrajectoryDataset, rows: Tensor, comm: Communicator
) -> Tensor:
    """The embeddings of all rows on every rank; each rank encodes its share of them."""
    mine = rows[comm.share(len(rows))]
    part = torch.cat([encoder(dataset.observations(chunk)).float() for chunk in mine.split(ENCODE_ROWS)])
    return comm.gather(part, len(rows))  # (V, D)


def _one_step(
    model: JEPA,
    dataset: TrajectoryDataset,
    frames: _ValidationFrames,
    online: Tensor,
    target: Tensor,
    comm: Communicator,
) -> dict[str, Tensor]:
    """val_loss, val_cosine, val_skill, persistence_ratio and action_gap, over all validation transitions."""
    last = frames.offsets + frames.lengths - 1
    source = torch.ones(len(frames.rows), dtype=torch.bool).index_fill_(0, last, False).nonzero()[:, 0]  # (M,)
    other = source[torch.randperm(len(source), generator=torch.Generator().manual_seed(0))]  # source of wrong actions
    sums = torch.zeros(4, device=online.device)
    share = comm.share(len(source))
    for here, there in zip(source[share].split(ENCODE_ROWS), other[share].split(ENCODE_ROWS), strict=True):
        now, before, after = (z[here.to(z.device)] for z in (online, target, target[1:]))
        predicted = model.predict(now, dataset.actions(frames.rows[here]))
        misled = model.predict(now, dataset.actions(frames.rows[there]))
        errors = [F.mse_loss(z, after, reduction="none").mean(1).sum() for z in (predicted, before, misled)]
        sums += torch.stack([*errors, measure.cosine(predicted, after).sum()])
    error, copied, misled_error, similarity = comm.sum(sums) / len(source)
    return {
        "val_loss": error,
        "val_cosine": similarity,
        "val_skill": measure.skill(error, target),
        "persistence_ratio": measure.persistence_ratio(error, copied),
        "action_gap": measure.action_gap(error, misled_error),
    }


def _rollouts(
    model: JEPA,
    dataset: TrajectoryDataset,
    frames: _ValidationFrames,
    online: Tensor,
    comm: Communicator,
    horizon: int,
) -> dict[str, Tensor]:
    """The metrics of open-loop predictions: the ranking metrics, and the probe if the data has state labels.

    All roll-outs have `horizon` steps. Steps after the end of a trajectory are predicted too, and their ranks are NaN.
    """
    lengths, offsets = frames.lengths[:MAX_TRAJECTORIES], frames.offsets[:MAX_TRAJECTORIES]
    padded, on_device = frames.padded(online, MAX_TRAJECTORIES), lengths.to(online.device)
    observation_ids = frames.padded(dataset.val_observation_ids(len(lengths))[:, None].to(online), MAX_TRAJECTORIES)
    tally = _RankTally(len(lengths), online.device)
    probe = _Probe.fit(dataset, frames, online) if dataset.has_states and len(lengths) > 1 else None
    for episode, start in _starts(lengths, comm):
        steps = (offsets[episode] + start)[:, None] + torch.arange(horizon)  # (S, K)
        actions = dataset.actions(frames.rows[steps.clamp(max=len(frames.rows) - 1)].flatten())
        state = padded[episode, start]
        predicted = model.rollout(state, actions.unflatten(0, steps.shape)).float()
        where = (padded, on_device, episode.to(online.device), start.to(online.device))
        tally.add(measure.rollout_ranks(predicted, *where), where[2])
        copied = measure.rollout_ranks(state[:, None].expand_as(predicted), *where)
        future = (start[:, None] + 1 + torch.arange(horizon)).clamp(max=observation_ids.shape[1] - 1)  # (S, K)
        tally.add_bounds(
            copied, measure.rollout_ranks(observation_ids[episode[:, None], future], observation_ids, *where[1:])
        )
        if probe:
            ends = (start + horizon < lengths[episode]) & (offsets[episode] >= probe.first_row)
            probe.add(predicted[ends.to(predicted.device), -1], frames.rows[steps[ends, -1] + 1])
    return tally.metrics(comm) | (probe.metrics(comm) if probe else {})


class _RankTally:
    """Sums of reciprocal ranks over the roll-outs of this worker, by trajectory."""

    def __init__(self, trajectories: int, device: torch.device) -> None:
        # Rows: count; reciprocal rank and its chance level; both again with candidates of the same trajectory only.
        self._by_trajectory = torch.zeros(5, trajectories, device=device)
        # Reciprocal ranks of the copied last state, and of the true embedding.
        self._bounds = torch.zeros(2, device=device)

    def add(self, ranked: measure.RolloutRanks, episode: Tensor) -> None:
        """Add the ranks of S roll-outs; `episode` (S,) is the trajectory of each."""
        overall, within = ranked.overall, ranked.within
        values = [overall.reciprocal(), overall.chance(), within.reciprocal(), within.chance()]
        sums = torch.stack([(~overall.lost.isnan()).sum(1).float(), *(v.nansum(1) for v in values)])  # (5, S)
        self._by_trajectory.index_add_(1, episode, sums)

    def add_bounds(self, copied: measure.RolloutRanks, true: measure.RolloutRanks) -> None:
        """Add the bounds: copies of the last state, and the truth, which ties with equal observations."""
        self._bounds += torch.stack([ranked.overall.reciprocal().nansum() for ranked in (copied, true)])

    def metrics(self, comm: Communicator) -> dict[str, Tensor]:
        """The ranking metrics by name, over the roll-outs of all workers."""
        count, *sums = comm.sum(self._by_trajectory)
        mrr, chance, within, within_chance = (value.sum() / count.sum() for value in sums)
        copied, ceiling = comm.sum(self._bounds) / count.sum()
        known = {
            "val_rollout_mrr": mrr,
            "val_mrr_chance": chance,
            "val_mrr_within": within,
            "val_mrr_within_chance": within_chance,
            "val_mrr_copy": copied,
            "val_mrr_ceiling": ceiling,
        }
        ranked = count > 0
        if int(ranked.sum()) < MIN_TRAJECTORIES:
            return known
        by_trajectory = [(value / count)[ranked] for value in sums]
        return known | {
            "val_mrr_z": measure.above_chance(by_trajectory[0] - by_trajectory[1]),
            "val_mrr_within_z": measure.above_chance(by_trajectory[2] - by_trajectory[3]),
        }


class _Probe:
    """rollout_probe_r2: a ridge probe, fitted on half of the trajectories and scored on the other half."""

    def __init__(self, probe: measure.RidgeProbe, dataset: TrajectoryDataset, first_row: int, labels: Tensor) -> None:
        self.first_row = first_row  # first row of the scored half, counted in the validation frames
        self._probe, self._dataset = probe, dataset
        self._centre = labels.double().mean(0)
        self._sums = torch.zeros(2, labels.shape[1], dtype=torch.float64, device=labels.device)

    @classmethod
    def fit(cls, dataset: TrajectoryDataset, frames: _ValidationFrames, online: Tensor) -> _Probe:
        """Fit the probe on the true embeddings of the first half."""
        first = int(frames.offsets[min(len(frames.offsets), MAX_TRAJECTORIES) // 2])
        labels = dataset.states(frames.rows)
        return cls(measure.RidgeProbe.fit(online[:first], labels[:first]), dataset, first, labels[first:])

    def add(self, predicted: Tensor, rows: Tensor) -> None:
        """Score predictions (S, D) against the state labels of `rows` (S,) of the dataset."""
        labels = self._dataset.states(rows).double()
        residual = (self._probe(predicted) - labels).square().sum(0)
        self._sums += torch.stack([residual, (labels - self._centre).square().sum(0)])

    def metrics(self, comm: Communicator) -> dict[str, Tensor]:
        """The metric by name, over the predictions of all workers."""
        residual, total = comm.sum(self._sums)
        return {"rollout_probe_r2": measure.r2(residual, total)}


def _starts(lengths: Tensor, comm: Communicator) -> Iterator[tuple[Tensor, Tensor]]:
    """(episode, row) of the roll-out starts of this worker, in chunks."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths - 1)
    start = torch.cat([torch.arange(n - 1) for n in lengths.tolist()])
    stride = -(-len(start) // MAX_STARTS)
    picked = torch.stack([episode, start])[:, ::stride]
    for chunk in picked[:, comm.share(picked.shape[1])].split(ROLLOUT_STARTS, dim=1):
        if chunk.shape[1]:
            yield chunk[0], chunk[1]
