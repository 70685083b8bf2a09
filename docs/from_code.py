"""The parts of these pages that come from the code, as Markdown. A page asks for one by `<!-- from code: NAME -->`."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from jepa_ray import errors
from jepa_ray.config import (
    CONSTANT,
    FAKED_BY,
    METRICS,
    PLANNING_PRESETS,
    SMALLER_IS_BETTER,
    DataConfig,
    TrainConfig,
    dump_yaml,
    reference,
)
from jepa_ray.diagnosis import Condition, diagnose, remedies


def filled(page: str) -> str:
    """A page with its parts from the code, its config keys leading to where they are explained."""
    page = re.sub(r"<!-- from code: (\w+) -->", lambda found: PARTS[found[1]](), page)
    places = {key.name: "config.md" for key in reference.train_keys() if not key.is_section}
    places |= {key.name: "sweep.md" for key in reference.sweep_keys() if "." in key.name and not key.is_section}

    def link(found: re.Match[str]) -> str:
        key = found[1]
        return f"[`{key}`]({places[key]}#{_anchor(key)})" if key in places else found[0]

    parts = re.split(r"(^```.*?^```$|^#[^\n]*)", page, flags=re.MULTILINE | re.DOTALL)  # fences and headings stay
    parts[::2] = [re.sub(r"(?<![\[`])`([a-z_.]+)`(?![\]`])", link, part) for part in parts[::2]]
    return "".join(parts)


def train_keys() -> str:
    """Every key of a train config."""
    return _key_list(reference.train_keys())


def sweep_keys() -> str:
    """Every key of a sweep spec."""
    return _key_list(reference.sweep_keys())


def _key_list(keys: list[reference.Key]) -> str:
    """Definitions by section: its own keys, then those of the sections in it."""
    parents = {_parent(key) for key in keys}
    sections: dict[str, list[str]] = {"": []}
    for key in keys:
        about = re.sub(r"^Section `[\w.]+`: ", "", key.description)
        about = about[:1].upper() + about[1:]
        facts = f"*{_emphasised(key.constraints)}*"
        if key.name in parents:
            level = "##" if "." not in key.name else "###"
            sections[key.name] = [f"{level} `{key.name}`", "", about, "", *([] if key.is_section else [facts, ""])]
        else:
            sections[_parent(key)] += [f"[`{key.name}`]{{#{_anchor(key.name)}}}", f": {about}  ", f"  {facts}", ""]
    return "\n".join(line for lines in sections.values() for line in lines)


def _parent(key: reference.Key) -> str:
    return key.name.rpartition(".")[0].removesuffix(".KEY")


def _anchor(key: str) -> str:
    """An id in the page: `training.ema_decay` -> `training-ema-decay`."""
    return key.replace(".", "-").replace("_", "-")


def _emphasised(facts: str) -> str:
    """Without what Markdown would take for markup."""
    escaped = re.sub(r"([\\\[\]_*`])", r"\\\1", facts.replace(", ".join(METRICS), "METRICS"))
    return escaped.replace("METRICS", "the [metrics](metrics.md)")


def formats() -> str:
    """What datasets are read: the README's table."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    lines = readme[readme.index("| what it is | how it is told |") :].splitlines()
    return "\n".join(itertools.takewhile(lambda line: line.startswith("|"), lines))


def presets() -> str:
    """What `evaluation.planning.preset` stands for."""
    return "\n".join(f"```yaml\n# preset: {name}\n{dump_yaml(keys)}```" for name, keys in PLANNING_PRESETS.items())


def metrics() -> str:
    """What every metric is, its range, and what fakes it."""
    lines = []
    for name in METRICS:
        measure = reference.MEASURES[name]
        better = "smaller is better" if name in SMALLER_IS_BETTER else "larger is better"
        facts = [measure.range, "no objective" if name in CONSTANT else better]
        lines += [f"[`{name}`]{{#{_anchor(name)}}}", f": {measure.formula}  ", f"  *Range {', '.join(facts)}.*"]
        if name in FAKED_BY:
            lines[-1] += "  "
            lines.append(f"  Faked by {FAKED_BY[name]}.")
        lines.append("")
    return "\n".join(lines)


# What each condition means, and metrics of a model that is in it.
_HEALTHY = {
    "val_rollout_mrr": 0.62,
    "val_mrr_chance": 0.05,
    "val_mrr_copy": 0.12,
    "val_mrr_ceiling": 1.0,
    "val_mrr_z": 24.0,
    "val_mrr_within": 0.66,
    "val_mrr_within_chance": 0.09,
    "val_mrr_within_z": 22.0,
    "action_gap": 9.0,
    "embedding_std": 0.95,
    "effective_rank": 11.0,
    "temporal_share": 0.9,
    "persistence_ratio": 0.1,
}
_LOST = {"val_rollout_mrr": 0.051, "val_mrr_z": 0.4, "val_mrr_within": 0.09, "val_mrr_within_z": 0.2}
CONDITIONS: dict[Condition, tuple[str, dict[str, float]]] = {
    Condition.HEALTHY: ("Predictions rank the truth well above chance and depend on the actions.", _HEALTHY),
    Condition.SCALE_COLLAPSE: (
        "All embeddings are nearly the same. Loss and cosine look perfect, since the target is a constant too.",
        _HEALTHY | _LOST | {"embedding_std": 0.004},
    ),
    Condition.DIMENSIONAL_COLLAPSE: (
        "Embeddings differ, but along one or two directions only.",
        _HEALTHY | _LOST | {"effective_rank": 1.6},
    ),
    Condition.SLOW_FEATURE_COLLAPSE: (
        "The embedding says which trajectory it is, by its scenery, and not where in it.",
        _HEALTHY | {"val_rollout_mrr": 0.3, "val_mrr_within": 0.1, "val_mrr_within_z": 1.1, "temporal_share": 0.01},
    ),
    Condition.AT_CHANCE: (
        "Embeddings vary in many directions, and predictions do not follow them. Early in training this is usual.",
        _HEALTHY | _LOST,
    ),
    Condition.COPIES_LAST_STATE: (
        "Predictions are above chance, but no better than the present embedding itself.",
        _HEALTHY | {"val_rollout_mrr": 0.11, "persistence_ratio": 1.04},
    ),
    Condition.ACTION_BLIND: (
        "Predictions are good whatever the action: the model knows where things go by themselves.",
        _HEALTHY | {"action_gap": 1.01},
    ),
    Condition.UNTESTED: (
        "Fewer than four validation trajectories: raise `data.val_fraction`, or collect more.",
        {},
    ),
}


def conditions() -> str:
    """What `diagnose` can find, how it says so, and what to try; remedies as they are for the default config."""
    config = TrainConfig(data=DataConfig(builtin="two_rooms"))
    lines = []
    for condition, (meaning, example) in CONDITIONS.items():
        found = diagnose(example)
        assert found.condition is condition, (condition, found)
        tries = [f"- `--set {remedy.key}={remedy.value}`: {remedy.why}" for remedy in remedies(condition, config)]
        lines += [f"### {condition.capitalize()}", "", meaning, "", f"> diagnosis: {found}", "", *tries, ""]
    return "\n".join(lines)


def exit_codes() -> str:
    """Every error that a command can end with, and its exit code."""
    lines = ["| error | exit code | what it says |", "| --- | --- | --- |"]
    for name, error in _errors():
        about = (inspect.getdoc(error) or "").replace("\n", " ")
        lines.append(f"| `{name}` | {error.exit_code} | {about} |")
    return "\n".join(lines)


def _errors() -> Iterator[tuple[str, type[errors.JepaRayError]]]:
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, errors.JepaRayError) and found is not errors.JepaRayError:
            yield name, found


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (train_keys, sweep_keys, formats, presets, metrics, conditions, exit_codes)
}
