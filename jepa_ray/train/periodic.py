"""Periodic checkpoints: the model of every N-th epoch, in files named by epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jepa_ray.config import ExperimentConfig
from jepa_ray.storage import Storage

FOLDER = "checkpoints"  # of a single run; a sweep has one folder per trial


def epoch_name(epoch: int) -> str:
    """The file name of an epoch's model checkpoint."""
    return f"epoch_{epoch:05d}.pt"


@dataclass(frozen=True)
class PeriodicCheckpoints:
    """The models of every `checkpoint_every`-th epoch of one run or trial; the newest `keep_checkpoints` are kept.

    Args:
        store: the folder of the files.
        experiment: the section of the config with both settings.
    """

    store: Storage
    experiment: ExperimentConfig

    def save(self, epoch: int, training_checkpoint: bytes) -> None:
        """Write the model of an epoch that is due, and delete the files beyond the limit. Raises `StorageError`.

        Call this before the training checkpoint is written: an epoch that is trained again after a crash then replaces
        its own file, and no file is missing.
        """
        every = self.experiment.checkpoint_every
        if every is None or epoch % every:
            return
        from jepa_ray.train.checkpoint import epoch_model, from_bytes, to_bytes  # imports torch

        self.store.write(epoch_name(epoch), to_bytes(epoch_model(from_bytes(training_checkpoint))))
        if limit := self.experiment.keep_checkpoints:
            for old in self._names()[:-limit]:
                self.store.delete(old)

    def _names(self) -> list[str]:
        """The files, oldest epoch first."""
        matches = [re.fullmatch(r"epoch_(\d+)\.pt", name) for name in self.store.names()]
        return [match[0] for match in sorted(filter(None, matches), key=lambda match: int(match[1]))]
