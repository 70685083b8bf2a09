"""The model: shapes of every encoder, roll-outs, and the EMA target against its closed form."""

import pytest
import torch
from torch import nn

from jepa_ray.config import ModelConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.errors import ConfigError
from jepa_ray.model.jepa import JEPA, EmaUpdate, build_jepa

PIXELS = DataSpec((3, 32, 32), 2, 0, (10.0, 20.0, 0.0), (30.0, 50.0, 1.0))
VECTORS = DataSpec((7,), 0, 5, (0.0,) * 7, (1.0,) * 7)


def observations(spec: DataSpec, batch: int = 4) -> torch.Tensor:
    if spec.is_pixels:
        return torch.randint(0, 256, (batch, *spec.observation_shape), dtype=torch.uint8)
    return torch.randn(batch, *spec.observation_shape)


def actions(spec: DataSpec, *shape: int) -> torch.Tensor:
    return torch.randint(0, spec.num_actions, shape) if spec.num_actions else torch.randn(*shape, spec.action_dim)


CASES = [("cnn", PIXELS), ("vit", PIXELS), ("mlp", PIXELS), ("mlp", VECTORS)]


@pytest.mark.parametrize(("encoder", "spec"), CASES)
@pytest.mark.parametrize("dim", [16, 256])
class TestEveryEncoder:
    def build(self, encoder: str, spec: DataSpec, dim: int) -> JEPA:
        torch.manual_seed(0)
        return build_jepa(ModelConfig.model_validate({"encoder_type": encoder, "latent_dim_state": dim}), spec)

    def test_shapes(self, encoder: str, spec: DataSpec, dim: int) -> None:
        model = self.build(encoder, spec, dim)
        state = model.encode(observations(spec))
        assert state.shape == model.target_encoder(observations(spec)).shape == (4, dim)
        assert model.predict(state, actions(spec, 4)).shape == (4, dim)
        assert model.unroll(state, actions(spec, 3, 4)).shape == (3, 4, dim)
        assert model.rollout(state, actions(spec, 4, 3)).shape == (4, 3, dim)

    def test_no_layer_is_narrower_than_the_embedding(self, encoder: str, spec: DataSpec, dim: int) -> None:
        """A narrower layer would be the real bottleneck."""
        model = self.build(encoder, spec, dim)
        for part in (model.state_encoder, model.transition):
            widths = [m.out_features for m in part.modules() if isinstance(m, nn.Linear)]
            assert min(widths) >= dim
        flattened = [m.in_features for m in model.state_encoder.modules() if isinstance(m, nn.Linear)][-1]
        assert flattened >= dim


def test_rollout_feeds_predictions_back() -> None:
    model = build_jepa(ModelConfig(encoder_type="mlp", latent_dim_state=16), VECTORS)
    state, taken = model.encode(observations(VECTORS)), actions(VECTORS, 4, 3)
    by_hand = state
    for k in range(3):
        by_hand = model.predict(by_hand, taken[:, k])
        torch.testing.assert_close(model.rollout(state, taken)[:, k], by_hand, rtol=1e-4, atol=1e-5)


def test_target_starts_as_a_copy() -> None:
    model = build_jepa(ModelConfig(encoder_type="cnn"), PIXELS)
    for online, target in zip(model.state_encoder.parameters(), model.target_encoder.parameters(), strict=True):
        assert torch.equal(online, target)
        assert online.data_ptr() != target.data_ptr()


@pytest.mark.parametrize("encoder", ["cnn", "vit"])
def test_pixel_encoders_refuse_vectors(encoder: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder_type.*use mlp"):
        build_jepa(ModelConfig.model_validate({"encoder_type": encoder}), VECTORS)


def test_patches_must_divide_the_frame() -> None:
    with pytest.raises(ConfigError, match=r"patch_size is 5.*32x32"):
        build_jepa(ModelConfig.model_validate({"vit": {"patch_size": 5}}), PIXELS)


class TestEma:
    def test_equals_the_closed_form(self) -> None:
        """After n updates towards a fixed online network: target = d^n * start + (1 - d^n) * online."""
        online, target = nn.Linear(3, 2), nn.Linear(3, 2)
        start, decay, steps = target.weight.detach().clone(), 0.9, 25
        update = EmaUpdate(online, target)
        for _ in range(steps):
            update(decay)
        expected = decay**steps * start + (1 - decay**steps) * online.weight
        torch.testing.assert_close(target.weight, expected)

    def test_moves_buffers_and_copies_counters(self) -> None:
        online, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        online.running_mean.fill_(1.0)
        online.num_batches_tracked.fill_(7)
        EmaUpdate(online, target)(0.75)
        assert target.running_mean.tolist() == [0.25, 0.25]
        assert target.num_batches_tracked == 7

    def test_decay_zero_copies(self) -> None:
        online, target = nn.Linear(2, 2), nn.Linear(2, 2)
        EmaUpdate(online, target)(0.0)
        torch.testing.assert_close(target.weight, online.weight)
