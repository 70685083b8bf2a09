"""Markdown for these pages that is generated from the code. `<!-- from code: NAME -->` in a page inserts a part."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

from jepa_ray import errors
from jepa_ray.config import (
    CATALOGUE,
    METRICS,
    PLANNING_PRESETS,
    DataConfig,
    TrainConfig,
    dump_yaml,
    reference,
)
from jepa_ray.diagnosis import Condition, diagnose, remedies


def filled(page: str) -> str:
    """The text of a page with its generated parts inserted, and with links from config keys to their explanations."""
    page = re.sub(r"<!-- from code: (\w+) -->", lambda match: PARTS[match[1]](), page)
    places = {key.name: "config.md" for key in reference.train_keys() if not key.is_section}
    places |= {key.name: "sweep.md" for key in reference.sweep_keys() if "." in key.name and not key.is_section}

    def link(match: re.Match[str]) -> str:
        key = match[1]
        return f"[`{key}`]({places[key]}#{_anchor(key)})" if key in places else match[0]

    parts = re.split(
        r"(^```.*?^```$|^#[^\n]*)", page, flags=re.MULTILINE | re.DOTALL
    )  # code blocks and headings stay as they are
    parts[::2] = [re.sub(r"(?<![\[`])`([a-z_.]+)`(?![\]`])", link, part) for part in parts[::2]]
    return "".join(parts)


def train_keys() -> str:
    """All keys of a train config."""
    return _key_list(reference.train_keys())


def sweep_keys() -> str:
    """All keys of a sweep spec."""
    return _key_list(reference.sweep_keys())


def _key_list(keys: list[reference.Key]) -> str:
    """A definition list for each section: first its own keys, then the sections inside it."""
    parents = {_parent(key) for key in keys}
    sections: dict[str, list[str]] = {"": []}
    for key in keys:
        text = re.sub(r"^Section `[\w.]+`: ", "", key.description)
        text = text[:1].upper() + text[1:]
        constraints = f"*{_escape(key.constraints)}*"
        if key.name in parents:
            level = "##" if "." not in key.name else "###"
            sections[key.name] = [f"{level} `{key.name}`", "", text, "", *([] if key.is_section else [constraints, ""])]
        else:
            sections[_parent(key)] += [f"[`{key.name}`]{{#{_anchor(key.name)}}}", f": {text}  ", f"  {constraints}", ""]
    return "\n".join(line for lines in sections.values() for line in lines)


def _parent(key: reference.Key) -> str:
    return key.name.rpartition(".")[0].removesuffix(".KEY")


def _anchor(key: str) -> str:
    """The ID of a key in its page: `training.ema_decay` -> `training-ema-decay`."""
    return key.replace(".", "-").replace("_", "-")


def _escape(text: str) -> str:
    """Escape the characters that are markup in Markdown, and replace the list of all metrics by a link."""
    escaped = re.sub(r"([\\\[\]_*`])", r"\\\1", text.replace(", ".join(METRICS), "METRICS"))
    return escaped.replace("METRICS", "the [metrics](metrics.md)")


def presets() -> str:
    """The keys that each value of `evaluation.planning.preset` sets."""
    return "\n".join(f"```yaml\n# preset: {name}\n{dump_yaml(keys)}```" for name, keys in PLANNING_PRESETS.items())


def metrics() -> str:
    """The formula and range of each metric, and what can fake it."""
    lines = []
    for metric in CATALOGUE:
        better = "smaller is better" if metric.direction == "min" else "larger is better"
        properties = [metric.range, "cannot be an objective" if metric.is_constant else better]
        lines += [f"[`{metric.name}`]{{#{_anchor(metric.name)}}}", f": {metric.formula}  "]
        lines.append(f"  *Range {', '.join(properties)}.*")
        if metric.faked_by:
            lines[-1] += "  "
            lines.append(f"  Faked by {metric.faked_by}.")
        lines.append("")
    return "\n".join(lines)


# Each condition with its meaning, and with the metrics of a model in that condition.
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
        "The embedding identifies the trajectory by its scenery, but not the position in it.",
        _HEALTHY | {"val_rollout_mrr": 0.3, "val_mrr_within": 0.1, "val_mrr_within_z": 1.1, "temporal_share": 0.01},
    ),
    Condition.AT_CHANCE: (
        "Embeddings vary in many directions, but predictions do not follow them. This is normal early in training.",
        _HEALTHY | _LOST,
    ),
    Condition.COPIES_LAST_STATE: (
        "Predictions are above chance, but no better than the present embedding itself.",
        _HEALTHY | {"val_rollout_mrr": 0.11, "persistence_ratio": 1.04},
    ),
    Condition.ACTION_BLIND: (
        "Predictions are equally good with any action: the model predicts only motion that needs no action.",
        _HEALTHY | {"action_gap": 1.01},
    ),
    Condition.UNTESTED: (
        "There are fewer than four validation trajectories: raise `data.val_fraction`, or collect more.",
        {},
    ),
}


def conditions() -> str:
    """All conditions that `diagnose` can find, its messages, and the remedies for the default config."""
    config = TrainConfig(data=DataConfig(builtin="two_rooms"))
    lines = []
    for condition, (meaning, example) in CONDITIONS.items():
        diagnosis = diagnose(example)
        assert diagnosis.condition is condition, (condition, diagnosis)
        tries = [f"- `--set {remedy.key}={remedy.value}`: {remedy.why}" for remedy in remedies(condition, config)]
        lines += [f"### {condition.capitalize()}", "", meaning, "", f"> diagnosis: {diagnosis}", "", *tries, ""]
    return "\n".join(lines)


def exit_codes() -> str:
    """All errors that can end a command, with their exit codes."""
    lines = ["| error | exit code | meaning |", "| --- | --- | --- |"]
    for name, error in _errors():
        meaning = (inspect.getdoc(error) or "").replace("\n", " ")
        lines.append(f"| `{name}` | {error.exit_code} | {meaning} |")
    return "\n".join(lines)


def _errors() -> Iterator[tuple[str, type[errors.JepaRayError]]]:
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.JepaRayError) and error is not errors.JepaRayError:
            yield name, error


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (train_keys, sweep_keys, presets, metrics, conditions, exit_codes)
}
