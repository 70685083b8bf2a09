"""Decoders of the generative baseline: from embeddings to normalised observations. JEPA has no decoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from jepa_ray.config import ModelConfig


class CnnDecoder(nn.Module):
    """The mirror image of the CNN encoder: a linear layer, then stride-2 transposed convolutions."""

    def __init__(self, width: int, shape: tuple[int, int, int], channels: Sequence[int]) -> None:
        super().__init__()
        sizes = [shape[1:]]
        for _ in channels:
            height, breadth = sizes[-1]
            sizes.append(((height + 1) // 2, (breadth + 1) // 2))
        self._start = (channels[-1], *sizes[-1])
        self.head = nn.Sequential(nn.Linear(width, math.prod(self._start)), nn.GELU())
        widths = [*reversed(channels), shape[0]]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            small, large = sizes[-1 - i], sizes[-2 - i]
            padding = (1 + large[0] - 2 * small[0], 1 + large[1] - 2 * small[1])  # 1, or 0 if the side is odd
            layers += [nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=padding), nn.GELU()]
        self.convolutions = nn.Sequential(*layers[:-1])

    def forward(self, state: Tensor) -> Tensor:  # (B, D) -> (B, C, H, W)
        return self.convolutions(self.head(state).unflatten(1, self._start))


class MlpDecoder(nn.Module):
    """The mirror image of the MLP encoder, for vectors and for frames that the MLP encoder encodes."""

    def __init__(self, width: int, shape: Sequence[int], *, hidden: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, math.prod(shape)), nn.Unflatten(1, tuple(shape)))

    def forward(self, state: Tensor) -> Tensor:  # (B, D) -> (B, ...)
        return self.layers(state)


def build_decoder(config: ModelConfig, shape: tuple[int, ...]) -> nn.Module:
    """The decoder for a config's encoder; the embeddings of a vit are decoded by the CNN decoder, as is usual."""
    width = config.latent_dim_state
    if config.encoder_type == "mlp" or len(shape) != 3:
        return MlpDecoder(width, shape, hidden=max(config.mlp.width, width), depth=config.mlp.depth)
    return CnnDecoder(width, (shape[0], shape[1], shape[2]), config.cnn.channels)
