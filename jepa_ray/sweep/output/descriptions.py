"""The descriptions of a sweep, its dataset and its best model in MLflow. `jepa_ray.tracking` writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from jepa_ray.config import DataConfig, SweepConfig
from jepa_ray.data.cache import ensure_cache, load_trajectories
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.formatting import format_cell, format_duration
from jepa_ray.sweep.output.leaderboard import list_columns, list_entries
from jepa_ray.sweep.output.results import BEST_CONFIG, BEST_MODEL
from jepa_ray.sweep.ranking import RANKED, find_best
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import StudyView
from jepa_ray.tracking import DatasetCard, ModelCard
from jepa_ray.tracking.cards import TensorShape
from jepa_ray.world_model import WorldModel, load

EXAMPLE_STEPS = 3  # actions in the input example of the registered model
TOP = 5  # trials in the description of a finished sweep
GAP = "&emsp;"  # after every cell: MLflow's UI leaves no space between columns


def make_dataset_card(config: DataConfig) -> DatasetCard:
    """The dataset of a config, read from its cache. The digest is the fingerprint of the cache."""
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


def make_model_card(study: StudyView, best: TrialRecord, folder: Path, sweep_id: str, run: str) -> ModelCard:
    """The best model for the Model Registry.

    Args:
        study: the sweep's study.
        best: the trial on rank 1.
        folder: the sweep's folder, with the best model and the best config.
        sweep_id: the ID of the sweep.
        run: the ID of the trial's MLflow run.
    """
    spec, name = study.spec, study.spec.registered_model
    assert name is not None, "the spec registers a model"
    weights, config = folder / BEST_MODEL, folder / BEST_CONFIG
    model, value = load(weights), study.best_value(best)
    inputs, outputs = _make_signature(model)
    return ModelCard(
        name=name,
        key=f"{sweep_id}/{best.number}",
        run=run,
        files=(weights, config),
        inputs=inputs,
        outputs=outputs,
        example=_make_example(model),
        description=(
            f"{best.trial_id} of sweep {spec.name}: {_format_objective(study, best)}\n\n"
            f"{_make_params_table(best)}\n\n{_explain_loading(name)}"
        ),
        tags={
            "sweep": spec.name,
            "sweep_id": sweep_id,
            "trial_id": best.trial_id,
            "objective": str(spec.objective),
            "objective_value": repr(value),
        },
        params={key: str(value) for key, value in best.params.items()},
    )


def _make_signature(model: WorldModel) -> tuple[tuple[TensorShape, ...], tuple[TensorShape, ...]]:
    """The inputs and outputs of `jepa_ray.adapters.pyfunc`."""
    pixels = len(model.observation_shape) == 3
    observations = TensorShape("observations", "uint8" if pixels else "float32", (-1, *model.observation_shape))
    discrete = TensorShape("actions", "int64", (-1, -1))
    actions = discrete if model.num_actions else TensorShape("actions", "float32", (-1, -1, model.action_dim))
    embeddings = TensorShape("embeddings", "float32", (-1, model.latent_dim))
    return (observations, actions), (embeddings, TensorShape("predictions", "float32", (-1, -1, model.latent_dim)))


def _make_example(model: WorldModel) -> dict[str, object]:
    """An input example: the first validation observation (1, ...) and the actions that follow it (1, K, ...)."""
    data = TrajectoryDataset.from_config(model.config.data, torch.device("cpu"))
    first, length = int(data.val_offsets[0]), int(data.val_lengths[0])
    rows = torch.arange(first, first + min(EXAMPLE_STEPS, length - 1))
    observation = data.observations(rows[:1])
    if data.spec.is_pixels:
        observation = observation.movedim(1, -1)
    return {"observations": observation.numpy(), "actions": data.actions(rows)[None].numpy()}


# ------------------------------------------------------------------------------------- Markdown


def describe_started_sweep(spec: SweepConfig, trials: int) -> str:
    """The description of a sweep from its start to its end, in Markdown."""
    rows = [[f"`{key}`", str(dimension)] for key, dimension in spec.to_dict()["space"].items()]
    return (
        f"A sweep for **{spec.objective}**: {trials} trials of at most {spec.early_stopping.max_epochs} epochs, with"
        f" the search algorithm {spec.search.algorithm} and the stopping rule {spec.early_stopping.rule}. It is running"
        f" or was interrupted.\n\n{_make_table(['swept key', 'values'], rows)}\n\n{_explain_reproduction()}"
    )


def describe_finished_sweep(study: StudyView, ranking: list[TrialRecord]) -> str:
    """The description of a finished sweep, in Markdown: the best trials, the time spent, and how to use the result."""
    spec = study.spec
    best = find_best(ranking)
    if best is None:
        error = ranking[0].error if ranking else "no trial was started"
        return f"Every trial failed: {error}\n\n{_explain_reproduction()}"
    loading = f"\n\n{_explain_loading(spec.registered_model)}" if spec.registered_model else ""
    return (
        f"### Best trial: `{best.trial_id}`, {_format_objective(study, best)}\n\n{_make_params_table(best)}\n\n"
        f"### Best {min(TOP, len(ranking))} of {len(ranking)} trials\n\n{_make_leaderboard_table(study)}\n\n"
        f"### Cost\n\n{_summarize_cost(study)}\n\n{_explain_reproduction()}{loading}"
    )


def _format_objective(study: StudyView, record: TrialRecord) -> str:
    return f"{study.spec.objective.metric} **{format_cell(study.best_value(record), nan='NaN')}**"


def _make_params_table(record: TrialRecord) -> str:
    return _make_table(["key", "value"], [[f"`{key}`", format_cell(value)] for key, value in record.params.items()])


def _make_leaderboard_table(study: StudyView) -> str:
    """The first columns of the leaderboard and the swept keys, for the best trials."""
    shown = {"rank", "trial_id", "status", "epochs", "objective", *study.spec.space}
    columns = [column for column in list_columns(study.spec) if column.name in shown]
    entries = list_entries(study, {})[:TOP]
    return _make_table(
        [column.heading or column.name for column in columns],
        [[column.text(column.value(entry)) for column in columns] for entry in entries],
    )


def _summarize_cost(study: StudyView) -> str:
    """The number of trials by status, the share of epochs that were trained, and the time of all epochs."""
    records = study.records()
    counts = {status: sum(r.status is status for r in records) for status in (*RANKED, Status.FAILED)}
    epochs, full = sum(len(r.history) for r in records), len(records) * study.spec.early_stopping.max_epochs
    trials = ", ".join(f"{count} {str(status).lower()}" for status, count in counts.items() if count)
    return (
        f"{len(records)} trials ({trials}); {epochs} of {full} epochs ({epochs / full:.0%});"
        f" {format_duration(sum(r.seconds for r in records))} of training and validation, summed over all worker groups"
    )


def _explain_reproduction() -> str:
    return (
        "### Reproduce\n\nWith the artifacts of this run (`spec.yaml`, and `best_config.yaml` once the sweep has"
        " ended):\n\n"
        "    python -m jepa_ray.sweep spec.yaml\n"
        "    python -m jepa_ray.train --config best_config.yaml\n\n"
        "The system metrics are those of the machine that runs the sweep command. The speed of each worker group is the"
        " metric `samples_per_s` of its trials."
    )


def _explain_loading(name: str) -> str:
    return (
        "### Load the model\n\n"
        f'    model = mlflow.pyfunc.load_model("models:/{name}@best")\n'
        '    model.predict({"observations": ..., "actions": ...})  # embeddings, predictions\n\n'
        "Observations (B, H, W, C) uint8 or (B, D) float32, actions (B, K, A) float32 or (B, K) int64; K may be 0."
    )


def _make_table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table, with an empty line below it, since MLflow's UI leaves no space there."""
    top, *below = ("| " + " | ".join(f"{cell}{GAP}" for cell in cells) + " |" for cells in (header, *rows))
    return "\n".join([top, "|" + ":---|" * len(header), *below, "", "&nbsp;"])
