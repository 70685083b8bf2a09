"""Progress within an epoch: reported by the loop, shown for a single run."""

import io

import pytest
from rich.console import Console

from jepa_ray.config import TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.train import loop
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer
from jepa_ray.train.mailbox import Progress
from jepa_ray.train.progress import ProgressLine, ProgressPolling


class TestLoop:
    @pytest.fixture
    def trainer(self, train_config: TrainConfig, dataset: TrajectoryDataset) -> Trainer:
        return Trainer(train_config, dataset, Communicator())

    def test_the_steps_rise_to_the_last_one(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", 0.0)
        reported: list[tuple[int, int, float]] = []
        trainer.run_epoch(lambda *progress: reported.append(progress))
        steps = trainer.steps_per_epoch
        assert [(step, whole) for step, whole, _ in reported] == [(step, steps) for step in range(1, steps + 1)]
        assert all(speed > 0 for _, _, speed in reported)

    def test_only_the_end_is_reported_of_a_short_epoch(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", 3600.0)
        reported: list[int] = []
        trainer.run_epoch(lambda step, steps, speed: reported.append(step))
        assert reported == [trainer.steps_per_epoch]

    def test_the_result_does_not_depend_on_it(
        self, trainer: Trainer, train_config: TrainConfig, dataset: TrajectoryDataset
    ) -> None:
        other = Trainer(train_config, dataset, Communicator())
        with_progress, without = trainer.run_epoch(lambda *progress: None), other.run_epoch()
        times = {"samples_per_s", "epoch_s"}
        assert {k: v for k, v in with_progress.items() if k not in times} == {
            k: v for k, v in without.items() if k not in times
        }


class TestProgressLine:
    def test_without_a_terminal_there_is_a_line_every_half_minute(self) -> None:
        seconds, printed = 0.0, io.StringIO()
        with ProgressLine(Console(file=printed), epochs=5, now=lambda: seconds) as line:
            for seconds, step in ((29.0, 10), (30.5, 20), (59.0, 1130), (61.0, 1156)):  # noqa: B007 (read by `now`)
                line.show(Progress(0, 2, step, 1156, 3200.4))
        assert printed.getvalue().splitlines() == [
            "epoch 2/5  step 20/1,156  3,200 samples/s",
            "epoch 2/5  step 1,156/1,156  3,200 samples/s",
        ]

    def test_a_terminal_shows_the_latest_step(self) -> None:
        printed = io.StringIO()
        with ProgressLine(Console(file=printed, force_terminal=True, width=80), epochs=5) as line:
            line.show(Progress(0, 2, 130, 156, 3200.0))
            assert "epoch 2/5  step 130/156  3,200 samples/s" in printed.getvalue()


def test_polling_without_ray_shows_nothing_and_raises_nothing() -> None:
    """As when the cluster is gone."""
    shown: list[Progress] = []

    def fail() -> list[object]:
        raise ConnectionError("the cluster is gone")

    polling = ProgressPolling(fail, shown.append)
    assert polling._poll() == []
    with polling:
        pass
    assert not polling._thread.is_alive()
