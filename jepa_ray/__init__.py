"""jepa-ray: hyperparameter sweeps for JEPA world models, on a laptop or a Ray cluster.

As a library, `jepa_ray.load("best_jepa_model.pt")` returns a trained model that encodes, predicts and rolls out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jepa_ray.world_model import WorldModel

__version__ = "0.1.0"


def load(checkpoint: str | Path, device: str = "cpu") -> WorldModel:
    """Load the trained model of a checkpoint file, frozen and in eval mode, onto `device`.

    This needs torch, but neither Ray, MLflow nor Optuna. Raises `DataError` if the file is not a valid checkpoint.

        model = jepa_ray.load("outputs/sweeps/grid/best_jepa_model.pt")
        embeddings = model.encode(pixels)                 # (B, H, W, C) uint8 -> (B, D)
        futures = model.rollout(embeddings, actions)      # (B, K, A) -> (B, K, D)
    """
    from jepa_ray.world_model import load as load_world_model  # not at the top: `import jepa_ray` must not import torch

    return load_world_model(Path(checkpoint), device)
