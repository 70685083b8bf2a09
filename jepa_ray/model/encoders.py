"""State and action encoders. Every encoder maps a batch of observations or actions to (B, width) embeddings.

No hidden layer of the vit and mlp encoders is narrower than the output, so `latent_dim_state` is the bottleneck. The
map that the cnn encoder flattens can be narrower, if it has many layers and few channels. State encoders end in a
LayerNorm: with it, a model learns Two Rooms in one epoch; without it, it stays at chance (EXPERIMENTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa_ray.data.spec import DataSpec
from jepa_ray.model.blocks import Block


class Normalise(nn.Module):
    """Shifts and scales raw observations or actions to zero mean and unit variance, per channel or dimension.

    It is needed: on Two Rooms the dot is a small part of the frame, and without normalisation an encoder stays
    collapsed for its first epochs (EXPERIMENTS.md).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], axes: int) -> None:
        super().__init__()
        broadcast = (-1,) + (1,) * (axes - 1)
        self.register_buffer("mean", torch.tensor(mean).view(broadcast))
        self.register_buffer("scale", 1 / torch.tensor(std).view(broadcast))

    def forward(self, observation: Tensor) -> Tensor:  # (B, C, H, W) uint8 or (B, D_obs) -> same shape, float
        return (observation - self.mean) * self.scale


class CnnEncoder(nn.Module):
    """Stride-2 convolutions, then a linear layer on the flattened map: pooling would lose positions."""

    def __init__(self, shape: tuple[int, int, int], width: int, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        depth, height, breadth = shape
        for out in channels:
            layers += [nn.Conv2d(depth, out, 3, stride=2, padding=1), nn.GELU()]
            depth, height, breadth = out, (height + 1) // 2, (breadth + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(depth * height * breadth, width), nn.LayerNorm(width))

    def forward(self, observation: Tensor) -> Tensor:  # (B, C, H, W) -> (B, D)
        return self.head(self.convolutions(observation).flatten(1))


class VitEncoder(nn.Module):
    """A plain vision transformer (Dosovitskiy et al. 2021) that averages its tokens."""

    def __init__(
        self, shape: tuple[int, int, int], width: int, *, patch_size: int, token_width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        tokens = (height // patch_size) * (breadth // patch_size)
        self.patches = nn.Conv2d(channels, token_width, patch_size, stride=patch_size)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, token_width))
        self.blocks = nn.Sequential(*(Block(token_width, heads, 4 * token_width) for _ in range(depth)))
        self.norm = nn.LayerNorm(token_width)
        self.head = nn.Sequential(nn.Linear(token_width, width), nn.LayerNorm(width))

    def forward(self, observation: Tensor) -> Tensor:  # (B, C, H, W) -> (B, D)
        tokens = self.patches(observation).flatten(2).transpose(1, 2) + self.position  # (B, T, token_width)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class MlpEncoder(nn.Module):
    """Hidden GELU layers on the flattened observation, for vectors and small frames."""

    def __init__(self, shape: Sequence[int], width: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = int(torch.Size(shape).numel())
        for _ in range(depth):
            layers += [nn.Linear(inputs, hidden), nn.GELU()]
            inputs = hidden
        self.layers = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width))

    def forward(self, observation: Tensor) -> Tensor:  # (B, ...) -> (B, D)
        return self.head(self.layers(observation))


def action_encoder(spec: DataSpec, width: int) -> nn.Module:
    """An encoder of raw actions into embeddings (B, width).

    Continuous actions (B, action_dim) pass through an MLP, after normalisation if `spec` has an action scale. Discrete
    actions (B,) have one learned embedding each.
    """
    if spec.num_actions:
        return nn.Embedding(spec.num_actions, width)
    layers = nn.Sequential(nn.Linear(spec.action_dim, width), nn.GELU(), nn.Linear(width, width))
    return nn.Sequential(Normalise(spec.action_shift, spec.action_scale, 1), *layers) if spec.action_scale else layers
