"""The best model as a version in MLflow's Model Registry, which can be loaded without Ray and without this package.

A version consists of the weights, the config, and a copy of the few modules that rebuild the model. The copy is a
package with a name derived from its content (`jepa_ray_1a2b3c4d`), so it does not conflict with an installed jepa-ray
or with the copy of another version. Nothing is pickled.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jepa_ray.tracking.cards import ModelCard, schema

ALIAS = "best"
KEY_TAG = "jepa_ray.key"
LOADER = "adapters.pyfunc"  # the module whose `_load_pyfunc` MLflow calls
PACKAGE = Path(__file__).parent.parent
REQUIREMENTS = ["torch>=2.8", "numpy>=2", "pydantic>=2.11.7", "pyyaml>=6.0.1"]  # as in pyproject.toml
_OWN_IMPORT = re.compile(r"^(\s*(?:from|import) )jepa_ray\b", re.MULTILINE)


def register(client: Any, experiment: str, parent: str, card: ModelCard) -> str:
    """Register the model, and set the alias to its version. A model that is registered already gets no new version.

    Args:
        client: an `MlflowClient`.
        experiment: id of the experiment.
        parent: id of the sweep's MLflow run, which lists the model as its output.
        card: the model.

    Returns:
        A message with the model's URI and version.
    """
    known = _version(client, card)
    version = known if known is not None else _add(client, experiment, parent, card)
    client.set_registered_model_alias(card.name, ALIAS, version)
    return f"the best model is models:/{card.name}@{ALIAS} in MLflow, version {version}"


def _version(client: Any, card: ModelCard) -> str | None:
    """The version of this model, if there is one. Duplicates are deleted: they are created when a reply is lost."""
    found = client.search_model_versions(f"name = '{card.name}' AND tags.`{KEY_TAG}` = '{card.key}'")
    versions = sorted((str(v.version) for v in found), key=int)
    for duplicate in versions[1:]:
        client.delete_model_version(card.name, duplicate)
    return versions[0] if versions else None


def _add(client: Any, experiment: str, parent: str, card: ModelCard) -> str:
    """Log the model and make it a new version of the registered model; returns the version."""
    _make_name(client, card.name)
    logged = _log(client, experiment, parent, card)
    made = client.create_model_version(
        card.name,
        logged.artifact_location,  # not models:/ID, which is resolved against MLflow's global tracking URI
        run_id=card.run,
        tags={KEY_TAG: card.key, **card.tags},
        description=card.description,
        model_id=logged.model_id,
    )
    version = _version(client, card) or str(made.version)
    # MLflow's UI uses this tag to link a logged model with its versions.
    client.set_logged_model_tags(
        logged.model_id, {"mlflow.modelVersions": json.dumps([{"name": card.name, "version": version}])}
    )
    return version


def _make_name(client: Any, name: str) -> None:
    """Create the registered model `name`, which the versions belong to, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="The best JEPA world model of each sweep of this name.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log(client: Any, experiment: str, parent: str, card: ModelCard) -> Any:
    """Create a logged model with the model's files; it is an output of its training run and of the sweep's run."""
    from mlflow.entities import LoggedModelOutput

    tags = {KEY_TAG: card.key, **card.tags}
    for unfinished in client.search_logged_models([experiment], f"tags.`{KEY_TAG}` = '{card.key}'"):
        client.delete_logged_model(unfinished.model_id)  # left by an interrupted attempt
    logged = client.create_logged_model(
        experiment, card.name, source_run_id=card.run, tags=tags, params=dict(card.params), model_type="jepa"
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        save(card, saved, run=card.run, logged=logged)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    for run in (card.run, parent):
        client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def save(card: ModelCard, target: Path, run: str | None = None, logged: Any = None) -> None:
    """Write the model to a new folder in MLflow's format. `run` and `logged` are the MLflow run and logged model."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature

    described = Model(run_id=run, metadata=dict(card.tags))
    if logged is not None:
        described = Model(logged.artifact_location, run, model_uuid=logged.model_id, metadata=dict(card.tags))
        described.model_id = logged.model_id
    with tempfile.TemporaryDirectory() as folder:
        code = ship(Path(folder))
        data = Path(folder) / "world_model"
        data.mkdir()
        for file in card.files:
            shutil.copy(file, data)
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=f"{code.name}.{LOADER}",
            data_path=str(data),
            code_paths=[str(code)],
            mlflow_model=described,
            metadata=dict(card.tags),
            signature=ModelSignature(inputs=schema(card.inputs), outputs=schema(card.outputs)),
            input_example=dict(card.example),
            pip_requirements=REQUIREMENTS,
        )


def shipped_files() -> list[str]:
    """The files that `jepa_ray.adapters.pyfunc` imports directly or indirectly, relative to this package."""
    found, waiting = set(), ["__init__.py", f"{LOADER.replace('.', '/')}.py"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _own_imports(ast.parse((PACKAGE / name).read_text(encoding="utf-8")))
    return sorted(found)


def _own_imports(module: ast.Module) -> Iterator[str]:
    """The files of this package that a module imports, at its top or inside functions."""
    for node in ast.walk(module):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module.partition(".")[0] != PACKAGE.name:
            continue
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            path = PACKAGE.joinpath(*name.split(".")[1:])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file() and file.parent != PACKAGE.parent:
                    yield file.relative_to(PACKAGE).as_posix()


def ship(folder: Path) -> Path:
    """Copy the modules that rebuild a model into `folder`, as a package whose name is derived from its content."""
    texts = {name: (PACKAGE / name).read_text(encoding="utf-8") for name in shipped_files()}
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
    package = folder / f"jepa_ray_{digest}"
    for name, text in texts.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_OWN_IMPORT.sub(rf"\g<1>{package.name}", text), encoding="utf-8")
    return package
