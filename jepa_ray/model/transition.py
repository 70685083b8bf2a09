"""The transition model T: the embedding of the next state from those of state and action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_ray.model.blocks import Block


class TransformerTransition(nn.Module):
    """A transformer over two tokens, state and action, read out at the state's.

    Its width is latent_dim_state throughout. The output passes the same kind of LayerNorm as the encoder's, so
    a prediction can be fed back for open-loop roll-outs.
    """

    def __init__(
        self, width: int, action_width: int, *, depth: int, heads: int, mlp_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        self.state_token = nn.Linear(width, width)
        self.action_token = nn.Linear(action_width, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, max(1, round(mlp_ratio * width)), dropout) for _ in range(depth))
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:  # (B, D), (B, A) -> (B, D)
        tokens = torch.stack([self.state_token(state), self.action_token(action)], dim=1)  # (B, 2, D)
        return self.head(self.blocks(tokens)[:, 0])
