"""How per-channel normalisation of the pixels affects the time that a JEPA needs to escape collapse.

Trains the model of configs/two_rooms.yaml twice with the same seed, once with the encoder's `Normalise` layer and once
with pixels only scaled to [0, 1], and prints val_rollout_mrr and embedding_std after each epoch.

    python benchmarks/normalisation.py [--epochs 4] [--set training.batch_size=32 ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from jepa_ray.config import TrainConfig, load_train_config
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.model.encoders import Normalise
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer

CONFIG = Path(__file__).parents[1] / "configs" / "two_rooms.yaml"


def only_scale(model: nn.Module) -> None:
    """Turn every `Normalise` into a division by 255."""
    for layer in model.modules():
        if isinstance(layer, Normalise):
            layer.mean.zero_()
            layer.scale.fill_(1 / 255)


def curve(
    config: TrainConfig, dataset: TrajectoryDataset, epochs: int, *, normalise: bool
) -> list[tuple[float, float]]:
    """(val_rollout_mrr, embedding_std) after each epoch."""
    trainer = Trainer(config, dataset, Communicator())
    if not normalise:
        only_scale(trainer.state.model)
    results = [trainer.run_epoch() for _ in range(epochs)]
    return [(metrics["val_rollout_mrr"], metrics["embedding_std"]) for metrics in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_train_config(CONFIG, options.set)
    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    print("epoch  scaled to [0, 1]: MRR  std   normalised: MRR  std")
    scaled = curve(config, dataset, options.epochs, normalise=False)
    normalised = curve(config, dataset, options.epochs, normalise=True)
    for epoch, (plain, scaled_too) in enumerate(zip(scaled, normalised, strict=True), start=1):
        print(f"{epoch:5}  {plain[0]:21.3f}  {plain[1]:.3f}  {scaled_too[0]:15.3f}  {scaled_too[1]:.3f}")


if __name__ == "__main__":
    main()
