"""The training loop: reproducible, resumable, and stopped for the right reasons."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from jepa_ray.config import METRICS, TrainConfig, TrainingConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, TrialError
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train import loop
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer, step_settings, train_step

TIMES = ("samples_per_s", "epoch_s")


def trainer(config: TrainConfig, dataset: TrajectoryDataset, **overrides: object) -> Trainer:
    return Trainer(
        config.with_overrides({key.replace("__", "."): v for key, v in overrides.items()}), dataset, Communicator()
    )


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


def test_an_epoch_reports_every_metric_and_only_those(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    metrics = trainer(train_config, dataset).run_epoch()
    assert set(metrics) == set(METRICS)
    assert all(math.isfinite(value) for value in metrics.values())


def test_training_lowers_the_loss_against_a_fixed_target(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    run = trainer(train_config, dataset, training__ema_decay=0.999)
    losses = [run.run_epoch()["train_loss"] for _ in range(4)]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_curve_after_other_runs(
    train_config: TrainConfig, dataset: TrajectoryDataset
) -> None:
    first = trainer(train_config, dataset)
    curve = [timeless(first.run_epoch()) for _ in range(2)]
    torch.manual_seed(999)
    trainer(train_config, dataset, experiment__seed=5).run_epoch()
    second = trainer(train_config, dataset)
    assert [timeless(second.run_epoch()) for _ in range(2)] == curve
    assert timeless(trainer(train_config, dataset, experiment__seed=5).run_epoch()) != curve[0]


@pytest.mark.parametrize("overrides", [{}, {"model__transition_dropout": 0.2, "training__lr_schedule": "cosine"}])
def test_resumes_bit_for_bit(
    train_config: TrainConfig, dataset: TrajectoryDataset, overrides: dict[str, object]
) -> None:
    """Losing any of model, target, optimiser, schedules, dropout's randomness or position would change epoch 3."""
    config = {"training__ema_decay_final": 1.0, "training__num_epochs": 4, **overrides}
    whole = trainer(train_config, dataset, **config)
    whole.run_epoch(), whole.run_epoch()
    saved = ckpt.to_bytes(whole.checkpoint())
    rest = [timeless(whole.run_epoch()) for _ in range(2)]
    resumed = trainer(train_config, dataset, **config)
    resumed.restore(ckpt.from_bytes(saved))
    assert [timeless(resumed.run_epoch()) for _ in range(2)] == rest
    for name, tensor in whole.state.model.state_dict().items():
        assert torch.equal(tensor, resumed.state.model.state_dict()[name]), name
    assert resumed.state.best is not None
    assert resumed.state.best["epoch"] == whole.state.best["epoch"]  # type: ignore[index]


def test_target_follows_every_step(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    run = trainer(train_config, dataset, training__ema_decay=0.5)
    before = [p.clone() for p in run.state.model.target_encoder.parameters()]
    settings = step_settings(run.config.training, 0, run.steps_per_epoch)
    train_step(run.state, dataset.batch(dataset.train_index[:16]), settings)
    model = run.state.model
    for old, online, target in zip(
        before, model.state_encoder.parameters(), model.target_encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.5 * old + 0.5 * online)


def test_gradient_clipping_bounds_the_step(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    """With plain SGD and learning rate 1, the step is the gradient, so its norm is the limit."""
    run = trainer(train_config, dataset)
    run.state.optimizer = torch.optim.SGD([p for p in run.state.model.parameters() if p.requires_grad], lr=1.0)
    before = torch.cat([p.detach().flatten().clone() for p in run.state.model.parameters() if p.requires_grad])
    settings = dataclasses.replace(step_settings(run.config.training, 0, 1), learning_rate=1.0, grad_clip_norm=0.01)
    train_step(run.state, dataset.batch(dataset.train_index[:16]), settings)
    after = torch.cat([p.detach().flatten() for p in run.state.model.parameters() if p.requires_grad])
    assert (after - before).norm() == pytest.approx(0.01, rel=1e-3)


class TestSchedules:
    def test_constant_by_default(self) -> None:
        settings = [step_settings(TrainingConfig(num_epochs=3), step, 10) for step in (0, 15, 29)]
        assert {(s.learning_rate, s.ema_decay) for s in settings} == {(1e-4, 0.995)}

    def test_warm_up_is_linear_and_cosine_ends_at_zero(self) -> None:
        training = TrainingConfig(learning_rate=1.0, warmup_epochs=1, lr_schedule="cosine", num_epochs=3)
        rates = [step_settings(training, step, 10).learning_rate for step in range(31)]
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert rates[20] == pytest.approx(0.5)  # half-way between step 10 and step 30
        assert rates[30] == pytest.approx(0.0)

    def test_ema_decay_moves_to_its_final_value(self) -> None:
        training = TrainingConfig(ema_decay=0.9, ema_decay_final=1.0, num_epochs=2)
        decays = [step_settings(training, step, 10).ema_decay for step in (0, 10, 20)]
        assert decays == pytest.approx([0.9, 0.95, 1.0])


class TestStopping:
    def test_after_num_epochs(self, train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
        run = trainer(train_config, dataset, training__num_epochs=1, training__patience=None)
        assert not run.finished
        run.run_epoch()
        assert run.finished

    def test_patience_counts_epochs_without_a_better_objective(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = iter([0.1, 0.3, 0.2, 0.3, 0.25])
        monkeypatch.setattr("jepa_ray.train.loop.validate", lambda *_: {"val_rollout_mrr": next(values)})
        run = trainer(train_config, dataset, training__num_epochs=50, training__patience=3)
        seen = []
        while not run.finished:
            run.run_epoch()
            seen.append(run.finished)
        assert seen == [False, False, False, False, True]  # best in epoch 2; an equal value is not better
        assert run.state.best is not None
        assert run.state.best["epoch"] == 2

    def test_a_smaller_loss_is_better_if_the_objective_is_minimized(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = iter([0.3, 0.2, 0.4])
        monkeypatch.setattr("jepa_ray.train.loop.validate", lambda *_: {"val_loss": next(values)})
        objective = {"metric": "val_loss", "mode": "min"}
        run = trainer(train_config, dataset, experiment__objective=objective)
        for _ in range(3):
            run.run_epoch()
        assert run.state.best is not None
        assert run.state.best["epoch"] == 2


def test_a_loss_that_is_not_finite_is_a_trial_error(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    run = trainer(train_config, dataset)
    with torch.no_grad():
        next(run.state.model.transition.parameters()).fill_(math.nan)
    with pytest.raises(TrialError, match="train_loss is nan in epoch 1"):
        run.run_epoch()


def test_a_too_large_batch_is_a_config_error(train_config: TrainConfig, dataset: TrajectoryDataset) -> None:
    with pytest.raises(
        ConfigError, match=r"batch_size is 100000, but the data has only (\d+) training transitions: use at most \1$"
    ):
        trainer(train_config, dataset, training__batch_size=100000)


@pytest.mark.parametrize("overrides", [{"training__precision": "bf16"}, {"training__warmup_epochs": 0.5}])
def test_runs_train_with_these_options(
    train_config: TrainConfig, dataset: TrajectoryDataset, overrides: dict[str, object]
) -> None:
    assert math.isfinite(trainer(train_config, dataset, **overrides).run_epoch()["train_loss"])


@pytest.mark.parametrize("observation", ["pixels", "vector"])
@pytest.mark.parametrize("actions", ["continuous", "discrete"])
def test_every_kind_of_data_trains(
    train_config: TrainConfig, canonical_h5, cache_dir, observation: str, actions: str
) -> None:
    """Episodes of different lengths from a file, with pixels or vectors, and continuous or discrete actions."""
    path = canonical_h5(lengths=(9, 2, 12, 7, 8), observation=observation, actions=actions)
    config = train_config.with_overrides(
        {"data.builtin": None, "data.path": path, "model.encoder_type": "mlp", "training.batch_size": 8}
    )
    data = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    metrics = Trainer(config, data, Communicator()).run_epoch()
    assert all(math.isfinite(value) for value in metrics.values())
    assert 0 < metrics["val_rollout_mrr"] <= 1


def test_the_best_model_has_the_weights_of_the_best_epoch(
    train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path
) -> None:
    run = trainer(train_config, dataset)
    for _ in range(3):
        metrics = run.run_epoch()
        if run.state.best and run.state.best["epoch"] == run.state.epoch:
            expected, weights = metrics, {k: v.clone() for k, v in run.state.model.state_dict().items()}
    path = tmp_path / "best.pt"
    path.write_bytes(ckpt.to_bytes(ckpt.best_model(run.checkpoint())))
    model, config = ckpt.load_model(path)
    assert config == run.config
    assert ckpt.read_checkpoint(path)["metrics"] == expected
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_loop_runs_where_ray_and_mlflow_are_not_installed() -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "import jepa_ray.train.loop, jepa_ray.train.checkpoint\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class TestCollapse:
    """A run that is still at chance after `collapse_epochs` is stopped; one that improves before then is not."""

    def run_with(
        self,
        train_config: TrainConfig,
        dataset: TrajectoryDataset,
        monkeypatch: pytest.MonkeyPatch,
        z: list[float],
        **kw: object,
    ) -> Trainer:
        """Train up to len(z) epochs, whose validation reports these numbers of standard errors above chance."""
        run = trainer(train_config, dataset, training__patience=None, **kw)
        curve = iter(z)

        def measured(*_: object) -> dict[str, float]:
            value = next(curve)
            return real(*_) | {"val_mrr_z": value, "val_mrr_within_z": value}  # type: ignore[arg-type]

        real = loop.validate
        monkeypatch.setattr(loop, "validate", measured)
        while not run.finished and run.state.epoch < len(z):
            run.run_epoch()
        return run

    def test_a_run_at_chance_is_stopped_with_the_reason(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.run_with(train_config, dataset, monkeypatch, [0.5] * 6, training__collapse_epochs=3)
        assert (run.state.epoch, run.finished) == (3, True)
        assert run.state.collapse is not None
        assert "val_rollout_mrr" in run.state.collapse

    def test_a_slow_start_is_not_stopped(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The curve of a healthy run that looks collapsed up to its fourth epoch (EXPERIMENTS.md)."""
        late = [0.1, -1.0, 0.4, 1.2, 5.0, 9.0, 12.0]
        run = self.run_with(train_config, dataset, monkeypatch, late, training__collapse_epochs=5)
        assert (run.state.epoch, run.state.collapse) == (7, None)

    def test_null_never_stops_a_run(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.run_with(train_config, dataset, monkeypatch, [0.0] * 4, training__collapse_epochs=None)
        assert (run.state.epoch, run.finished) == (4, False)

    def test_the_checkpoint_stores_the_collapse(
        self, train_config: TrainConfig, dataset: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.run_with(train_config, dataset, monkeypatch, [0.0], training__collapse_epochs=1)
        resumed = trainer(train_config, dataset, training__collapse_epochs=1)
        resumed.restore(ckpt.from_bytes(ckpt.to_bytes(run.checkpoint())))
        assert resumed.finished
        assert resumed.state.collapse == run.state.collapse
