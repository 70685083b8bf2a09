"""Each loss term against its formula, the purpose of a term, and their weighted sum in the learner."""

import math

import pytest
import torch
from torch import Tensor

from jepa_ray.config import ModelConfig, TrainingConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.model.decoders import CnnDecoder, build_decoder
from jepa_ray.model.jepa import JEPA
from jepa_ray.model.learner import Learner, build_learner
from jepa_ray.model.losses import Covariance, InverseDynamics, SigReg, TemporalSimilarity, Unrolled, Variance

PIXELS = DataSpec((3, 32, 32), 2, 0, (10.0, 20.0, 0.0), (30.0, 50.0, 1.0), (0.5, 2.0))
VECTORS = DataSpec((7,), 0, 5, (0.0,) * 7, (1.0,) * 7)
UNUSED = torch.empty(0)


def identity(statistic: Tensor) -> Tensor:
    return statistic


def seeing(states: Tensor, actions: Tensor = UNUSED) -> Unrolled:
    return Unrolled(UNUSED, actions, states, UNUSED)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model() -> JEPA:
    return build_learner(small(), TrainingConfig(), VECTORS, identity).model


def small(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"encoder_type": "mlp", "latent_dim_state": 16, "transition_depth": 1} | changes)


def learner(spec: DataSpec = VECTORS, encoder: str = "mlp", **training: object) -> Learner:
    torch.manual_seed(0)
    config = TrainingConfig.model_validate(training)
    return build_learner(small(encoder_type=encoder), config, spec, identity)


def window(spec: DataSpec, steps: int, batch: int = 4) -> tuple[Tensor, Tensor]:
    shape = (steps + 1, batch, *spec.observation_shape)
    seen = torch.randint(0, 256, shape, dtype=torch.uint8) if spec.is_pixels else torch.randn(shape)
    if spec.num_actions:
        return seen, torch.randint(0, spec.num_actions, (steps, batch))
    return seen, torch.randn(steps, batch, spec.action_dim)


def test_variance_is_the_hinge_on_each_standard_deviation() -> None:
    states = gaussian(2, 50, 3) * torch.tensor([0.1, 0.5, 3.0])
    std = (states.var(1, correction=0) + 1e-4).sqrt()
    expected = (1 - std).clamp_min(0).mean()
    torch.testing.assert_close(Variance(identity)(model(), seeing(states)), expected)
    assert Variance(identity)(model(), seeing(10 * gaussian(1, 50, 3))) == 0


def test_covariance_is_the_sum_of_squares_off_the_diagonal() -> None:
    states = gaussian(1, 50, 4)
    covariance = torch.cov(states[0].T, correction=0)
    expected = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    torch.testing.assert_close(Covariance(identity)(model(), seeing(states)), expected)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])[None]
    assert Covariance(identity)(model(), seeing(axes)) == pytest.approx(0, abs=1e-12)


class TestSigReg:
    def term(self, directions: int = 64, seed: int = 0) -> SigReg:
        term = SigReg(directions, identity)
        term.reseed(seed)
        return term

    def test_equals_the_integral_of_the_definition(self) -> None:
        """In one dimension, the direction is +-1 and the integrand even: numerical integration on the paper's knots."""
        x = gaussian(40, 1) * 1.5 + 0.3
        t = torch.linspace(-5, 5, 17)
        empirical = torch.exp(1j * x * t).mean(0)
        integrand = (empirical - torch.exp(-(t**2) / 2)).abs() ** 2 * torch.exp(-(t**2) / 2)
        torch.testing.assert_close(self.term()(model(), seeing(x[None])), torch.trapezoid(integrand, t))

    def test_is_least_for_an_isotropic_gaussian(self) -> None:
        z = gaussian(1, 2000, 8)
        value = {
            "gaussian": z,
            "scaled": 3 * z,
            "shifted": z + 1,
            "low rank": z @ torch.ones(8, 8) / math.sqrt(8),
            "collapsed": torch.zeros_like(z),
            "two points": z.sign(),
        }
        losses = {name: float(self.term()(model(), seeing(states))) for name, states in value.items()}
        assert min(losses, key=losses.__getitem__) == "gaussian"
        assert losses["gaussian"] < 0.01
        assert losses["collapsed"] > 0.3

    def test_directions_depend_on_the_seed_and_change_at_each_step(self) -> None:
        states, first, again = seeing(gaussian(1, 30, 8)), self.term(4), self.term(4)
        a, b = (float(first(model(), states)) for _ in range(2))
        assert [float(again(model(), states)) for _ in range(2)] == [a, b]
        assert a != b
        assert float(self.term(4, seed=1)(model(), states)) != a

    def test_torch_random_state_is_neither_used_nor_changed(self) -> None:
        """Ranks have different global seeds, for dropout; their directions must still be equal."""
        states, unused = seeing(gaussian(1, 30, 8)), model()
        torch.manual_seed(1)
        before, a = torch.get_rng_state(), float(self.term(4)(unused, states))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert float(self.term(4)(unused, states)) == a


def test_inverse_dynamics_is_in_standard_deviations_of_the_action() -> None:
    term = InverseDynamics(4, (0.5, 2.0), 0)
    states, actions = gaussian(3, 6, 4), gaussian(2, 6, 2, seed=1)
    inferred = term.head(torch.cat([states[:-1], states[1:]], -1))
    expected = ((inferred - actions / torch.tensor([0.5, 2.0])) ** 2).mean()
    torch.testing.assert_close(term(model(), seeing(states, actions)), expected)


def test_inverse_dynamics_of_discrete_actions_starts_at_the_entropy_of_a_guess() -> None:
    term = InverseDynamics(4, (), 5)
    torch.nn.init.zeros_(term.head[-1].weight)
    torch.nn.init.zeros_(term.head[-1].bias)
    loss = term(model(), seeing(gaussian(3, 6, 4), torch.randint(0, 5, (2, 6))))
    assert loss.item() == pytest.approx(math.log(5))


def test_temporal_similarity_is_the_mean_squared_step() -> None:
    states = gaussian(3, 5, 4)
    expected = ((states[1] - states[0]) ** 2 + (states[2] - states[1]) ** 2).mean() / 2
    torch.testing.assert_close(TemporalSimilarity()(model(), seeing(states)), expected)


ALL = {
    "rollout_steps": 2,
    "variance": 1.0,
    "covariance": 1.0,
    "sigreg": 1.0,
    "inverse_dynamics": 1.0,
    "temporal_similarity": 1.0,
}


@pytest.mark.parametrize("objective", ["jepa", "generative"])
@pytest.mark.parametrize("loss", [{}, ALL])
@pytest.mark.parametrize(("spec", "encoder"), [(PIXELS, "cnn"), (PIXELS, "vit"), (PIXELS, "mlp"), (VECTORS, "mlp")])
def test_gradients_reach_every_trained_parameter_and_no_target(
    spec: DataSpec, encoder: str, loss: dict[str, object], objective: str
) -> None:
    """DDP would also fail for a parameter without a gradient."""
    made = learner(spec, encoder, objective=objective, loss=loss)
    made(*window(spec, steps=int(loss.get("rollout_steps", 1)))).backward()
    own_target = made.model.target_encoder is made.model.state_encoder
    assert own_target == (objective == "generative")
    for name, parameter in made.named_parameters():
        is_target = name.startswith("model.target_encoder")
        assert (parameter.grad is None) == is_target, name


def test_the_default_is_the_mean_squared_error_to_the_target_encoder() -> None:
    made = learner()
    (now, following), actions = window(VECTORS, steps=1)
    predicted, target = made.model.predict(made.model.encode(now), actions[0]), made.model.target_encoder(following)
    expected = ((predicted - target) ** 2).sum() / (4 * 16)
    torch.testing.assert_close(made(torch.stack([now, following]), actions), expected)


def test_rollout_steps_average_over_open_loop_predictions() -> None:
    made = learner(loss={"rollout_steps": 3})
    observations, actions = window(VECTORS, steps=3)
    state, errors = made.model.encode(observations[0]), []
    for k in range(3):
        state = made.model.predict(state, actions[k])
        errors.append(((state - made.model.target_encoder(observations[k + 1])) ** 2).mean())
    torch.testing.assert_close(made(observations, actions), sum(errors) / 3)


def test_the_sum_is_weighted() -> None:
    observations, actions = window(VECTORS, steps=1)
    plain, weighted = learner(), learner(loss={"temporal_similarity": 2.5})
    step = TemporalSimilarity()(weighted.model, weighted.unroll(observations, actions))
    torch.testing.assert_close(weighted(observations, actions), plain(observations, actions) + 2.5 * step)


@pytest.mark.parametrize("side", [16, 20, 31, 32, 45, 64])
def test_a_decoded_frame_has_the_size_of_the_frame(side: int) -> None:
    shape = (3, side, side + 5)
    decoder = CnnDecoder(16, shape, (8, 8, 8))
    assert decoder(torch.randn(2, 16)).shape == (2, *shape)


def test_reconstruction_is_measured_in_normalised_pixels() -> None:
    made = learner(PIXELS, "cnn", objective="generative")
    observations, actions = window(PIXELS, steps=1)
    predicted = made.model.predict(made.model.encode(observations[0]), actions[0])
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (PIXELS.mean, PIXELS.std))
    expected = ((made.terms["objective"].decoder(predicted) - (observations[1] - mean) / std) ** 2).mean()
    torch.testing.assert_close(made(observations, actions), expected)


def test_vectors_are_decoded_by_an_mlp() -> None:
    assert build_decoder(small(), (7,))(torch.randn(2, 16)).shape == (2, 7)
