"""JEPA: the composition of encoders, transition and target encoder, and the EMA update of the target encoder.

The losses that it is trained with are in `losses.py` and `learner.py`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from jepa_ray.config import ModelConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.errors import ConfigError
from jepa_ray.model.encoders import CnnEncoder, MlpEncoder, Normalise, VitEncoder, action_encoder
from jepa_ray.model.transition import TransformerTransition


class JEPA(nn.Module):
    """Joint-embedding predictive world model (LeCun 2022) with an EMA target encoder (as in I-JEPA, BYOL)."""

    def __init__(
        self,
        state_encoder: nn.Module,
        action_encoder: nn.Module,
        transition: TransformerTransition,
        target_encoder: nn.Module,
    ) -> None:
        super().__init__()
        self.state_encoder = state_encoder
        self.action_encoder = action_encoder
        self.transition = transition
        self.target_encoder = target_encoder

    def encode(self, observation: Tensor) -> Tensor:
        """Online embeddings (B, D) of raw observations: (B, C, H, W) uint8 pixels or (B, D_obs) float vectors."""
        return self.state_encoder(observation)

    def predict(self, state: Tensor, action: Tensor) -> Tensor:
        """Embeddings (B, D) one step after embeddings (B, D) under raw actions (B, A) or (B,)."""
        return self.transition(state, self.action_encoder(action))

    def unroll(self, state: Tensor, actions: Tensor) -> Tensor:
        """Open-loop predictions (K, B, D) from embeddings (B, D) under actions (K, B, A) or (K, B); time first.

        For training: gradients flow through it.
        """
        predictions = []
        for action in actions:
            state = self.predict(state, action)
            predictions.append(state)
        return torch.stack(predictions)

    @torch.no_grad()
    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """Open-loop predictions (B, K, D) from embeddings (B, D) under actions (B, K, A) or (B, K), without gradients.

        For validation and planning: equal to `unroll` up to rounding, but computed by the transition's faster method.
        """
        return self.transition.rollout(state, self.action_encoder(actions))


class EmaUpdate:
    """target <- decay * target + (1 - decay) * online, for parameters and floating-point buffers, in one fused call.

    Integer buffers (counters) are copied. If online and target encoder are the same module, nothing changes. (Polyak
    averaging; Lillicrap et al. 2016, Grill et al. 2020.)
    """

    def __init__(self, online: nn.Module, target: nn.Module) -> None:
        pairs = list(zip(_tensors(online), _tensors(target), strict=True)) if target is not online else []
        self._floats = [(o, t) for o, t in pairs if t.is_floating_point()]
        self._counters = [(o, t) for o, t in pairs if not t.is_floating_point()]

    @torch.no_grad()
    def __call__(self, decay: float) -> None:
        """Update the target once."""
        if self._floats:
            online, target = [o for o, _ in self._floats], [t for _, t in self._floats]
            torch._foreach_lerp_(target, online, 1 - decay)
        for source, counter in self._counters:
            counter.copy_(source)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def build_jepa(config: ModelConfig, spec: DataSpec, *, ema_target: bool = True) -> JEPA:
    """Build the model that a config describes, for data of the given shapes. Raises `ConfigError` if they do not fit.

    Without an EMA target, as in the generative baseline, the online encoder is also the target encoder.
    """
    encoder = nn.Sequential(Normalise(spec.mean, spec.std, len(spec.observation_shape)), _state_encoder(config, spec))
    return JEPA(
        state_encoder=encoder,
        action_encoder=action_encoder(spec, config.latent_dim_action),
        transition=TransformerTransition(
            config.latent_dim_state,
            config.latent_dim_action,
            depth=config.transition_depth,
            heads=config.transition_heads,
            mlp_ratio=config.transition_mlp_ratio,
            dropout=config.transition_dropout,
        ),
        target_encoder=copy.deepcopy(encoder).requires_grad_(False) if ema_target else encoder,
    )


def _state_encoder(config: ModelConfig, spec: DataSpec) -> nn.Module:
    shape, width = spec.observation_shape, config.latent_dim_state
    if config.encoder_type == "mlp":
        return MlpEncoder(shape, width, hidden=max(config.mlp.width, width), depth=config.mlp.depth)
    if len(shape) != 3:
        raise ConfigError(
            f"model.encoder_type is {config.encoder_type}, but the data's observations are vectors {shape}: use mlp"
        )
    if config.encoder_type == "cnn":
        return CnnEncoder(shape, width, config.cnn.channels)
    vit = config.vit
    if shape[1] % vit.patch_size or shape[2] % vit.patch_size:
        raise ConfigError(
            f"model.vit.patch_size is {vit.patch_size}, but must divide both sides of a frame ({shape[1]}x{shape[2]})"
        )
    token_width = max(vit.width, width)
    return VitEncoder(
        shape, width, patch_size=vit.patch_size, token_width=token_width, depth=vit.depth, heads=vit.heads
    )
