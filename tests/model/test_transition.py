"""The faster roll-out of the transition model equals its forward pass."""

from __future__ import annotations

import pytest
import torch

from jepa_ray.model.transition import TransformerTransition


def transition(depth: int, heads: int = 2, dropout: float = 0.0) -> TransformerTransition:
    torch.manual_seed(depth)
    made = TransformerTransition(8, 6, depth=depth, heads=heads, mlp_ratio=1.5, dropout=dropout)
    with torch.no_grad():
        for parameter in made.parameters():  # new biases are 0 and norms 1: a missing one would not be noticed
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize(("depth", "heads"), [(1, 1), (2, 2), (3, 4)])
def test_rollout_feeds_the_output_of_forward_back(depth: int, heads: int) -> None:
    model = transition(depth, heads)
    state, actions = torch.randn(5, 8), torch.randn(5, 3, 6)
    predicted = model.rollout(state, actions)
    for k in range(3):
        state = model(state, actions[:, k])
        torch.testing.assert_close(predicted[:, k], state, rtol=1e-4, atol=1e-5)


def test_rollout_has_no_gradients_and_no_dropout() -> None:
    model = transition(2, dropout=0.5).train()
    state, actions = torch.randn(5, 8), torch.randn(5, 3, 6)
    predicted = model.rollout(state, actions)
    assert not predicted.requires_grad
    assert torch.equal(predicted, model.rollout(state, actions))


def test_weights_keep_the_names_of_older_checkpoints() -> None:
    block = {"norm1", "norm2", "attention.qkv", "attention.out", "mlp.0", "mlp.2"}
    layers = {"state_token", "action_token", "head.0", "head.1", "head.2"} | {f"blocks.0.{name}" for name in block}
    assert set(transition(1).state_dict()) == {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
