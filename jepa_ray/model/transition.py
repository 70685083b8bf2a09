"""The transition model T: it predicts the embedding of the next state from those of state and action."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ray.model.blocks import Block


class TransformerTransition(nn.Module):
    """A transformer over two tokens, state and action. Its output is the state token of the last block.

    All layers have the width latent_dim_state. The output passes the same kind of LayerNorm as the encoder's output, so
    that a prediction can be fed back in open-loop roll-outs.
    """

    def __init__(
        self, width: int, action_width: int, *, depth: int, heads: int, mlp_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        self.state_token = nn.Linear(width, width)
        self.action_token = nn.Linear(action_width, width)
        self.blocks = nn.Sequential(
            *(PairBlock(width, heads, max(1, round(mlp_ratio * width)), dropout) for _ in range(depth))
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:  # (B, D), (B, A) -> (B, D)
        tokens = torch.stack([self.state_token(state), self.action_token(action)], dim=1)  # (B, 2, D)
        return self.head(self.blocks(tokens)[:, 0])

    @torch.no_grad()
    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """Open-loop predictions (B, K, D) from states (B, D) under action embeddings (B, K, A), without dropout.

        Equal to feeding the output of `forward` back, up to rounding, but in half the time or less if B is large:
        planning spends most of its time here. In training, with gradients and small batches, `forward` is faster.
        """
        predictions = []
        *blocks, last = cast(list[PairBlock], list(self.blocks))
        for action in self.action_token(actions.transpose(0, 1)):
            state = self.state_token(state)
            for block in blocks:
                state, action = block.both(state, action)
            state = self.head(last.first(state, action))
            predictions.append(state)
        return torch.stack(predictions, dim=1)


class PairBlock(Block):
    """A block that can also take its two tokens as separate contiguous tensors (B, D).

    Attention over two tokens needs no softmax: with keys k1, k2 and values v1, v2, a query q gives
    v1 + sigmoid(q (k2 - k1) / sqrt(d)) (v2 - v1), and each difference is one product with the difference of the inputs.
    With general attention kernels, a roll-out spends most of its time on attention.
    """

    def first(self, one: Tensor, two: Tensor) -> Tensor:
        """The first token after the block. The last block computes only this one."""
        one_normed, two_normed = self.norm1(one), self.norm1(two)
        return self._after(one, self._mix(one_normed, *self._values(one_normed, two_normed)))

    def both(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        """Both tokens after the block."""
        one_normed, two_normed = self.norm1(one), self.norm1(two)
        values = self._values(one_normed, two_normed)
        return self._after(one, self._mix(one_normed, *values)), self._after(two, self._mix(two_normed, *values))

    def _values(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """k2 - k1, v1 and v2 - v1, each (B, D)."""
        _, key, value = self.attention.qkv.weight.chunk(3)
        difference = two - one
        return (
            F.linear(difference, key),
            F.linear(one, value, self.attention.qkv.bias.chunk(3)[2]),
            F.linear(difference, value),
        )

    def _mix(self, token: Tensor, key: Tensor, value: Tensor, more: Tensor) -> Tensor:
        """The attention output (B, D) of one token, from the three results of `_values`."""
        by_head = (self.attention.heads, -1)
        query = F.linear(token, self.attention.qkv.weight.chunk(3)[0], self.attention.qkv.bias.chunk(3)[0])
        score = (query * key).unflatten(-1, by_head)  # (B, heads, D / heads)
        share = torch.sigmoid(score.sum(-1, keepdim=True) * score.shape[-1] ** -0.5)
        return torch.addcmul(value.unflatten(-1, by_head), share, more.unflatten(-1, by_head)).flatten(-2)

    def _after(self, token: Tensor, mixed: Tensor) -> Tensor:
        token = token + self.attention.out(mixed)
        return token + self.mlp(self.norm2(token))
