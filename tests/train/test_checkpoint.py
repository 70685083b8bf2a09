"""Checkpoint files: they rebuild their model, and a damaged or hostile one is refused."""

import pickle
from pathlib import Path

import pytest
import torch

from jepa_ray.config import TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import DataError
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_a_checkpoint_rebuilds_its_model(train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path: Path) -> None:
    run = Trainer(train_config, dataset, Communicator())
    run.run_epoch()
    path = tmp_path / "model.pt"
    path.write_bytes(ckpt.to_bytes(run.checkpoint()))
    model, config = ckpt.load_model(path)
    rows = dataset.val_index[:4]
    with torch.no_grad():
        run.state.model.eval()
        assert torch.equal(model.encode(dataset.observations(rows)), run.state.model.encode(dataset.observations(rows)))
    assert config == train_config
    assert not model.training


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"rubbish", "loads without unpickling"),
        (pickle.dumps(Hostile()), "loads without unpickling"),
        (ckpt.to_bytes({"format": 99}), "format 1"),
        (ckpt.to_bytes({"format": 1}), "its model cannot be rebuilt"),
    ],
)
def test_an_invalid_checkpoint_is_a_data_error(tmp_path: Path, content: bytes, rule: str, capsys) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rule):
        ckpt.load_model(path)
    assert "unpickled" not in capsys.readouterr().out


def test_torch_pickles_of_code_are_not_run(tmp_path: Path, capsys) -> None:
    path = tmp_path / "hostile.pt"
    torch.save({"format": 1, "config": Hostile()}, path)
    with pytest.raises(DataError, match="without unpickling"):
        ckpt.load_model(path)
    assert "unpickled" not in capsys.readouterr().out


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.pt: cannot be read"):
        ckpt.load_model(tmp_path / "gone.pt")
