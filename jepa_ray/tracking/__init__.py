"""All writing to MLflow: runs, metrics, datasets, the Model Registry. Only the driver writes, in a thread of its own.

tracker.py          one experiment: runs, parameters, per-epoch metrics, tags, artifacts
writing.py          the batches of updates, and the thread that writes them
retry.py            detection of an unavailable server, and the retries
registry.py         the best model as a version in the Model Registry, with the code that loads it
cards.py            descriptions of a dataset and of a model
system_metrics.py   system metrics of the driver's machine
wandb_mirror.py     a copy of runs and metrics for Weights & Biases
"""

from jepa_ray.tracking.cards import DatasetCard, ModelCard
from jepa_ray.tracking.tracker import KnownRun, Run, Tracker, default_uri

__all__ = ["DatasetCard", "KnownRun", "ModelCard", "Run", "Tracker", "default_uri"]
