"""The only MLflow writer: runs, metrics, datasets, the Model Registry. One process writes, off the hot path.

tracker.py    one experiment: runs, parameters, per-epoch metrics, tags, artifacts
writing.py    what is gathered into batches, and the thread that writes them
patience.py   what a server that is away is, and how long it is waited for
registry.py   the best model as a version in the Model Registry, with the code that loads it
cards.py      what is said of a dataset and of a model
machine.py    system metrics of the machine that drives
"""

from jepa_ray.tracking.cards import DatasetCard, ModelCard
from jepa_ray.tracking.tracker import KnownRun, Run, Tracker, default_uri

__all__ = ["DatasetCard", "KnownRun", "ModelCard", "Run", "Tracker", "default_uri"]
