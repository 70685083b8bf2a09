"""Metrics in planted cases with known values, and against an unvectorised reference of the ranking protocol."""

import math

import pytest
import torch
from torch import Tensor

from jepa_ray import metrics


def overall(predicted: Tensor, *where: Tensor) -> Tensor:
    return metrics.rollout_ranks(predicted, *where).overall.reciprocal()


LENGTHS = torch.tensor([9, 6, 8])


def world(seed: int = 0, dim: int = 4) -> Tensor:
    """Embeddings (3, 9, dim) of three trajectories, padded with values that must not become candidates."""
    z = torch.randn(3, 9, dim, generator=torch.Generator().manual_seed(seed))
    for e, length in enumerate(LENGTHS):
        z[e, length:] = 1e3
    return z


def all_starts() -> tuple[Tensor, Tensor]:
    pairs = [(e, t) for e, n in enumerate(LENGTHS.tolist()) for t in range(n - 1)]
    return torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])


def futures(z: Tensor, episode: Tensor, start: Tensor, horizon: int) -> Tensor:
    """The true embeddings k steps ahead: what a perfect model predicts."""
    return torch.stack([z[episode, (start + k).clamp(max=z.shape[1] - 1)] for k in range(1, horizon + 1)], 1)


def reference(predicted: Tensor, z: Tensor, e: int, t: int, k: int) -> float:
    """Directly from the definition: compare with every candidate, count ties half."""
    same = [z[e, i] for i in range(LENGTHS[e]) if i != t + k]
    others = [z[j, t + k] for j in range(len(z)) if j != e and LENGTHS[j] > t + k]
    true = float((predicted - z[e, t + k]).pow(2).sum())
    distances = [float((predicted - c).pow(2).sum()) for c in same + others]
    return 1 / (1 + sum(d < true for d in distances) + 0.5 * sum(d == true for d in distances))


def test_perfect_model_scores_one() -> None:
    z, (episode, start) = world(), all_starts()
    ranks = overall(futures(z, episode, start, 3), z, LENGTHS, episode, start)
    assert ranks.nanmean() == 1.0


def test_random_predictions_equal_the_reference_and_end_at_the_episode() -> None:
    z, (episode, start), horizon = world(), all_starts(), 4
    predicted = torch.randn(len(start), horizon, 4, generator=torch.Generator().manual_seed(1))
    ranks = overall(predicted, z, LENGTHS, episode, start)
    for s, (e, t) in enumerate(zip(episode.tolist(), start.tolist(), strict=True)):
        for k in range(1, horizon + 1):
            if t + k < LENGTHS[e]:
                assert ranks[s, k - 1] == pytest.approx(reference(predicted[s, k - 1], z, e, t, k))
            else:
                assert math.isnan(ranks[s, k - 1])


def test_collapsed_encoder_scores_at_most_chance() -> None:
    z, (episode, start) = torch.ones(3, 9, 4), all_starts()
    ranks = overall(futures(z, episode, start, 1), z, LENGTHS, episode, start)
    for s, (e, t) in enumerate(zip(episode.tolist(), start.tolist(), strict=True)):
        candidates = int(LENGTHS[e]) + sum(int(LENGTHS[j] > t + 1) for j in range(3) if j != e)
        assert ranks[s, 0] == pytest.approx(2 / (candidates + 1))


def test_copying_the_last_state_scores_low() -> None:
    """The prediction "nothing moved" must be wrong, even if the steps are small."""
    t = torch.arange(50.0)
    z = torch.stack([torch.stack([t * 0.01, torch.full_like(t, e)], 1) for e in range(4)])
    lengths, episode, start = torch.full((4,), 50), torch.arange(4).repeat_interleave(45), torch.arange(45).repeat(4)
    copied = z[episode, start][:, None].expand(-1, 5, -1)
    assert overall(copied, z, lengths, episode, start).nanmean() < 0.6


def test_ranking_ignores_scale_and_width() -> None:
    z, (episode, start) = world(), all_starts()
    predicted = torch.randn(len(start), 3, 4, generator=torch.Generator().manual_seed(2))
    base = overall(predicted, z, LENGTHS, episode, start)
    scaled = overall(predicted * 128, z * 128, LENGTHS, episode, start)
    wide = overall(predicted.repeat(1, 1, 2), z.repeat(1, 1, 2), LENGTHS, episode, start)
    assert torch.equal(base.nan_to_num(), scaled.nan_to_num())
    assert torch.equal(base.nan_to_num(), wide.nan_to_num())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values_is_their_number(rank: int) -> None:
    q, _ = torch.linalg.qr(torch.randn(50, 8, dtype=torch.float64))
    assert metrics.effective_rank(q[:, :rank] @ torch.eye(rank, 8, dtype=torch.float64)) == pytest.approx(
        rank, rel=1e-4
    )


def test_embedding_std_is_zero_for_constants_and_the_std_otherwise() -> None:
    assert metrics.embedding_std(torch.full((10, 3), 2.0)) == 0
    z = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    assert metrics.embedding_std(z) == pytest.approx((1 + 2) / 2)


def test_ema_gap_is_relative() -> None:
    z = torch.randn(20, 4)
    assert metrics.ema_gap(z, z) == 0
    assert metrics.ema_gap(z, 0.75 * z) == pytest.approx(0.25)


def test_cosine_calls_a_collapsed_model_perfect() -> None:
    """The common rule of thumb is therefore misleading."""
    assert metrics.cosine(torch.ones(5, 3), torch.ones(5, 3)).mean() == pytest.approx(1.0)


class TestRanksByRival:
    """A model that knows only the trajectory, one that knows only the time step, and the chance levels of both."""

    def ranks(self, z: Tensor) -> metrics.RolloutRanks:
        episode, start = all_starts()
        return metrics.rollout_ranks(futures(z, episode, start, 2), z, LENGTHS, episode, start)

    def test_knowing_the_trajectory_is_chance_within_it(self) -> None:
        z = torch.arange(3.0)[:, None, None].expand(3, 9, 4).contiguous()
        ranks = self.ranks(z)
        assert ranks.across.reciprocal().nanmean() == 1.0
        rivals = ranks.within.rivals
        torch.testing.assert_close(ranks.within.reciprocal(), 2 / (rivals + 2), equal_nan=True)

    def test_knowing_the_time_is_chance_across_trajectories(self) -> None:
        z = torch.arange(9.0)[None, :, None].expand(3, 9, 4).contiguous()
        ranks = self.ranks(z)
        assert ranks.within.reciprocal().nanmean() == 1.0
        rivals = ranks.across.rivals
        torch.testing.assert_close(ranks.across.reciprocal(), 2 / (rivals + 2), equal_nan=True)

    def test_rivals_are_counted(self) -> None:
        episode, start = all_starts()
        ranks = self.ranks(world())
        for s, (e, t) in enumerate(zip(episode.tolist(), start.tolist(), strict=True)):
            assert ranks.within.rivals[s, 0] == LENGTHS[e] - 1
            assert ranks.across.rivals[s, 0] == sum(int(LENGTHS[j] > t + 1) for j in range(3) if j != e)

    def test_chance_is_the_mean_over_random_orders(self) -> None:
        for rivals in (0, 1, 7, 89):
            expected = sum(1 / rank for rank in range(1, rivals + 2)) / (rivals + 1)
            ranks = metrics.CandidateRanks(torch.zeros(1, 1), torch.tensor([[float(rivals)]]))
            assert ranks.chance().item() == pytest.approx(expected, rel=1e-5)


def test_above_chance_counts_standard_errors() -> None:
    excess = torch.tensor([0.1, 0.3, 0.2, 0.4])
    error = (sum((x - 0.25) ** 2 for x in excess.tolist()) / 3) ** 0.5 / 2
    assert metrics.above_chance(excess).item() == pytest.approx(0.25 / error, rel=1e-5)
    assert metrics.above_chance(torch.full((5,), -0.02)) == -1e3


def test_skill_persistence_and_action_gap_of_planted_errors() -> None:
    target = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4, mean 2.5
    assert metrics.skill(torch.tensor(0.5), target).item() == pytest.approx(1 - 0.5 / 2.5)
    assert metrics.skill(target.var(0, correction=0).mean(), target) == 0
    assert metrics.persistence_ratio(torch.tensor(0.3), torch.tensor(0.6)).item() == pytest.approx(0.5)
    assert metrics.action_gap(torch.tensor(0.3), torch.tensor(0.6)).item() == pytest.approx(2.0)
    for ratio in (metrics.persistence_ratio, metrics.action_gap):
        assert torch.isfinite(ratio(torch.zeros(()), torch.zeros(())))


def test_temporal_share_is_the_share_of_variance_within_trajectories() -> None:
    episode = torch.tensor([0, 0, 1, 1, 1, 1])
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    within = sum(((z[episode == e] - z[episode == e].mean(0)) ** 2).sum() for e in (0, 1))
    expected = within / ((z - z.mean(0)) ** 2).sum()
    assert metrics.temporal_share(z, episode).item() == pytest.approx(float(expected), rel=1e-5)
    assert metrics.temporal_share(episode[:, None].float(), episode) == 0


class TestProbe:
    def test_finds_a_linear_map_and_scores_it(self) -> None:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(400, 6, generator=generator) * 5 + 2
        labels = z @ torch.randn(6, 2, generator=generator) + 3
        probe = metrics.RidgeProbe.fit(z[:200], labels[:200])
        residual = (probe(z[200:]) - labels[200:]).square().sum(0)
        total = (labels[200:].double() - labels[200:].double().mean(0)).square().sum(0)
        assert metrics.r2(residual, total).item() > 0.999

    def test_noise_explains_nothing(self) -> None:
        generator = torch.Generator().manual_seed(1)
        z, labels = torch.randn(400, 6, generator=generator), torch.randn(400, 2, generator=generator)
        probe = metrics.RidgeProbe.fit(z[:200], labels[:200])
        residual = (probe(z[200:]) - labels[200:]).square().sum(0)
        total = (labels[200:].double() - labels[200:].double().mean(0)).square().sum(0)
        assert metrics.r2(residual, total).item() < 0.05

    def test_labels_that_never_vary_are_left_out(self) -> None:
        score = metrics.r2(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 0.0]))
        assert score == pytest.approx(0.75)
        assert metrics.r2(torch.ones(2), torch.zeros(2)) == 0
