"""What MLflow is told of a sweep's data, of its best model and of the sweep as a whole. Written by `tracking`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from jepa_ray.config import DataConfig, SweepConfig
from jepa_ray.data.cache import ensure_cache, load_trajectories
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.sweep.output import results
from jepa_ray.sweep.output.view import clock
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord
from jepa_ray.tracking import DatasetCard, ModelCard
from jepa_ray.tracking.cards import TensorShape
from jepa_ray.world_model import WorldModel, load

EXAMPLE_STEPS = 3  # of the registered model's input example
TOP = 5  # trials of the description
GAP = "&emsp;"


def dataset_card(config: DataConfig) -> DatasetCard:
    """The dataset that a config names, from its cache; the digest is the cache's fingerprint."""
    digest = ensure_cache(config).name.rpartition("-")[2]
    data = load_trajectories(config)
    rows, shape = len(data.observation), data.observation.shape[1:]
    actions = f"{int(data.action.max()) + 1} discrete" if data.action.ndim == 1 else f"{data.action.shape[1]} numbers"
    columns = {"observation": data.observation, "action": data.action, "state": data.state}
    return DatasetCard(
        name=config.builtin or Path(config.path or "").name,
        digest=digest,
        source=str(config.builtin or config.path),
        builtin=config.builtin is not None,
        profile={
            "trajectories": len(data.lengths),
            "rows": rows,
            "observation": " x ".join(map(str, shape)) + f" {data.observation.dtype}",
            "actions": actions,
        },
        columns=tuple(
            TensorShape(name, str(column.dtype), (-1, *column.shape[1:]))
            for name, column in columns.items()
            if column is not None
        ),
    )


def model_card(study: Study, best: TrialRecord, folder: Path, sweep_id: str, run: str) -> ModelCard:
    """The best model, as the registry gets it. `run`: its trial's MLflow run."""
    spec, name = study.spec, study.spec.registered_model
    assert name is not None, "asked for the card of a model that is not to be registered"
    weights, config = folder / "best_jepa_model.pt", folder / "best_config.yaml"
    model, value = load(weights), study.best_value(best)
    inputs, outputs = _signature(model)
    return ModelCard(
        name=name,
        key=f"{sweep_id}/{best.number}",
        run=run,
        files=(weights, config),
        inputs=inputs,
        outputs=outputs,
        example=_example(model),
        description=f"{best.trial_id} of sweep {spec.name}: {spec.objective.metric} **{_short(value)}**\n\n"
        f"{_settings(best)}\n\n{_how_to_load(name)}",
        tags={
            "sweep": spec.name,
            "sweep_id": sweep_id,
            "trial_id": best.trial_id,
            "objective": str(spec.objective),
            "objective_value": repr(value),
        },
        params={key: str(value) for key, value in best.params.items()},
    )


def _signature(model: WorldModel) -> tuple[tuple[TensorShape, ...], tuple[TensorShape, ...]]:
    """What `jepa_ray.pyfunc` takes and gives."""
    pixels = len(model.observation_shape) == 3
    taken = TensorShape("observations", "uint8" if pixels else "float32", (-1, *model.observation_shape))
    discrete = TensorShape("actions", "int64", (-1, -1))
    actions = discrete if model.num_actions else TensorShape("actions", "float32", (-1, -1, model.action_dim))
    embeddings = TensorShape("embeddings", "float32", (-1, model.latent_dim))
    return (taken, actions), (embeddings, TensorShape("predictions", "float32", (-1, -1, model.latent_dim)))


def _example(model: WorldModel) -> dict[str, object]:
    """The first validation row, and the actions that follow."""
    data = TrajectoryDataset.from_config(model.config.data, torch.device("cpu"))
    first, length = int(data.val_offsets[0]), int(data.val_lengths[0])
    rows = torch.arange(first, first + min(EXAMPLE_STEPS, length - 1))
    seen = data.observations(rows[:1])
    if data.spec.is_pixels:
        seen = seen.movedim(1, -1)
    return {"observations": seen.numpy(), "actions": data.actions(rows)[None].numpy()}


# ------------------------------------------------------------------------------------- in words


def beginning(spec: SweepConfig, trials: int) -> str:
    """The description of a sweep that has begun, in Markdown."""
    space = _table(["swept", "choices"], [[f"`{key}`", str(value)] for key, value in spec.to_dict()["space"].items()])
    return (
        f"A sweep for **{spec.objective}**: {trials} trials of at most {spec.early_stopping.max_epochs} epochs, by"
        f" {spec.search.algorithm} with {spec.early_stopping.rule}. It is running, or was interrupted.\n\n"
        f"{space}\n\n{_reproduce(spec)}"
    )


def ending(study: Study, ranking: list[TrialRecord]) -> str:
    """The description of a finished sweep, in Markdown: what is best, what it took, how to use and repeat it."""
    spec = study.spec
    best = next((record for record in ranking if record.status in results.RANKED), None)
    if best is None:
        return f"Every trial failed: {ranking[0].error if ranking else 'none ran'}\n\n{_reproduce(spec)}"
    objective = f"{spec.objective.metric} **{_short(study.best_value(best))}**"
    loading = f"\n\n{_how_to_load(spec.registered_model)}" if spec.registered_model else ""
    return (
        f"### Best: `{best.trial_id}`, {objective}\n\n{_settings(best)}\n\n"
        f"### The first {min(TOP, len(ranking))} of {len(ranking)}\n\n{_board(study, ranking[:TOP])}\n\n"
        f"### Spent\n\n{_spent(study)}\n\n{_reproduce(spec)}{loading}"
    )


def _settings(record: TrialRecord) -> str:
    return _table(["key", "value"], [[f"`{key}`", _short(value)] for key, value in record.params.items()])


def _board(study: Study, ranking: list[TrialRecord]) -> str:
    keys = list(study.spec.space)
    header = ["trial", "status", "epochs", study.spec.objective.metric, *[key.rpartition(".")[2] for key in keys]]
    return _table(
        header,
        [
            [r.trial_id, str(r.status), str(len(r.history)), _short(study.best_value(r))]
            + [_short(r.params.get(key)) for key in keys]
            for r in ranking
        ],
    )


def _spent(study: Study) -> str:
    """Trials by status, epochs of all that the trials could have had, time of training and validating."""
    records = study.records()
    counts = {status: sum(r.status is status for r in records) for status in (*results.RANKED, Status.FAILED)}
    epochs, full = sum(len(r.history) for r in records), len(records) * study.spec.early_stopping.max_epochs
    trials = ", ".join(f"{count} {str(status).lower()}" for status, count in counts.items() if count)
    return (
        f"{len(records)} trials ({trials}); {epochs} of {full} epochs ({epochs / full:.0%});"
        f" {clock(sum(r.seconds for r in records))} of training and validation, over all groups"
    )


def _reproduce(spec: SweepConfig) -> str:
    return (
        "### Reproduce\n\nWith this run's artifacts (`spec.yaml`, at the end `best_config.yaml`):\n\n"
        "    python -m jepa_ray.sweep spec.yaml\n"
        "    python -m jepa_ray.train --config best_config.yaml\n\n"
        "System metrics are those of the machine that drives the sweep; groups tell `samples_per_s` in their trials."
    )


def _how_to_load(name: str) -> str:
    return (
        "### Load the model\n\n"
        f'    model = mlflow.pyfunc.load_model("models:/{name}@best")\n'
        '    model.predict({"observations": ..., "actions": ...})  # embeddings, predictions\n\n'
        "Observations (B, H, W, C) uint8 or (B, D) float32, actions (B, K, A) float32 or (B, K) int64; K may be 0."
    )


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table. MLflow's UI gives tables no room: neither between columns nor below."""
    top, *below = ("| " + " | ".join(f"{cell}{GAP}" for cell in cells) + " |" for cells in (header, *rows))
    return "\n".join([top, "|" + ":---|" * len(header), *below, "", "&nbsp;"])


def _short(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    return str(value)
