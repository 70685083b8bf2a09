"""A trained model for `mlflow.pyfunc`. `tracking.registry` stores this module, and those it imports, with the model.

It needs torch, numpy, pydantic and PyYAML, but neither Ray, Optuna nor an installed jepa-ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_ray.world_model import WorldModel, load

WEIGHTS = "best_jepa_model.pt"


class PyfuncModel:
    """The object behind `mlflow.pyfunc.load_model`: `predict`, and the `WorldModel` itself by `get_raw_model()`."""

    def __init__(self, model: WorldModel) -> None:
        self._model = model

    def get_raw_model(self) -> WorldModel:
        """The model as `jepa_ray.load` returns it: encode, predict, rollout."""
        return self._model

    @torch.no_grad()
    def predict(self, model_input: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Embed observations, and predict the embeddings that follow under actions.

        Args:
            model_input: `observations` (B, H, W, C) uint8 pixels or (B, D_obs) float32 vectors; `actions` (B, K, A)
                float32 or (B, K) int64, in the data's units, K steps from each observation. With K = 0, only
                embeddings are computed; `actions` can also be missing, if MLflow does not check the signature.
            params: not used; part of pyfunc's interface.

        Returns:
            `embeddings` (B, D) and `predictions` (B, K, D), float32: `predictions[:, k]` is k + 1 steps ahead.

        Raises:
            DataError: shapes or dtypes differ from those that the model was trained with.
        """
        state = self._model.encode(model_input["observations"])
        actions = model_input.get("actions")
        steps = 0 if actions is None else np.shape(actions)[1]
        if actions is not None and steps:
            ahead = self._model.rollout(state, actions)
        else:
            ahead = state.new_zeros(len(state), 0, self._model.latent_dim)
        return {"embeddings": state.cpu().numpy(), "predictions": ahead.cpu().numpy()}


def _load_pyfunc(folder: str) -> PyfuncModel:
    """MLflow's entry point: `folder` contains the saved weights."""
    return PyfuncModel(load(Path(folder) / WEIGHTS))
