"""What every config key and every metric is: `python -m jepa_ray config KEY`, and the reference pages of the docs.

Keys are told from the models, whose fields carry the words; only what the metrics measure is said here, since a
column of a table has no field.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from jepa_ray.config import SET_BY_SPEC, SweepConfig, TrainConfig
from jepa_ray.errors import ConfigError

Schema = Mapping[str, Any]

PATTERNS = {  # in words
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$": "letters, digits and _ . - (the last two not first)",
    r"^[^/:'\"`]+$": "none of / : ' \" `",
}
LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


@dataclass(frozen=True)
class Key:
    """A config key, or a section of them."""

    name: str  # dotted, as `--set` takes it
    kind: str  # what its value is
    limits: str  # "≥ 0 and < 1", empty where there are none
    default: str | None  # as YAML writes it; None: it must be given
    description: str
    is_section: bool = False

    @property
    def constraints(self) -> str:
        """Kind, range and default, in one line."""
        default = "must be given" if self.default is None else f"default {self.default}"
        return ", ".join(filter(None, [self.kind, self.limits, "" if self.is_section else default]))


def train_keys() -> list[Key]:
    """Every key of a train config, sections before their keys."""
    return list(_keys(TrainConfig))


def sweep_keys() -> list[Key]:
    """Every key of a sweep spec but those of `base`, which is a train config. KEY stands for a swept key."""
    return list(_keys(SweepConfig, skip=("base",)))


def _keys(model: type[BaseModel], skip: tuple[str, ...] = ()) -> Iterator[Key]:
    schema = model.model_json_schema(by_alias=True)
    seen = set()
    for key in _properties(schema, "", schema["$defs"], skip):
        if key.name not in seen:  # a key of two kinds of mappings, told once
            seen.add(key.name)
            yield key


def _properties(schema: Schema, prefix: str, defs: Schema, skip: tuple[str, ...]) -> Iterator[Key]:
    for part, field in schema["properties"].items():
        name = prefix + part
        inner = [] if name in skip else list(_sections(field, name, defs))
        about = field.get("description") or "".join(section["description"] for _, section in inner[:1])
        if name in SET_BY_SPEC:
            about += f" A sweep sets it by `{SET_BY_SPEC[name]}`."
        default = json.dumps(field["default"], ensure_ascii=False).replace('"', "") if "default" in field else None
        is_section = "$ref" in field and name not in skip
        yield Key(name, _kind(field), _limits(field), default, " ".join(about.split()), is_section)
        for inside, section in inner:
            yield from _properties(section, f"{inside}.", defs, skip)


def _sections(field: Schema, name: str, defs: Schema) -> Iterator[tuple[str, Schema]]:
    """The models that a field's value may be, or hold, each with the key that leads there."""
    if "$ref" in field:
        yield name, defs[field["$ref"].rpartition("/")[2]]
    for option in (*field.get("oneOf", ()), *field.get("anyOf", ())):
        yield from _sections(option, name, defs)
    for holder, part in (("items", ""), ("additionalProperties", ".KEY")):
        if isinstance(field.get(holder), Mapping):
            yield from _sections(field[holder], name + part, defs)


NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "object": "mapping", "null": "null"}


def _kind(field: Schema) -> str:
    if options := field.get("oneOf") or field.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(option) for option in options))
    if "$ref" in field:
        return "mapping"
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return "one of " + ", ".join(field["enum"])
    if field.get("type") == "string":
        return "path" if field.get("format") == "path" else "text"
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} {_kind(field['prefixItems'][0])}s"
    if field.get("type") == "array":
        items = _kind(field["items"])
        return f"list of {items}s" if items else "list"
    return NAMES.get(field.get("type", ""), "")


def _limits(field: Schema) -> str:
    found = [rule.format(f"{field[limit]:g}") for limit, rule in LIMITS.items() if limit in field]
    if "pattern" in field:
        found.append(PATTERNS.get(field["pattern"], f"matches {field['pattern']}"))
    within = [*field.get("oneOf", ()), *field.get("anyOf", ()), *field.get("prefixItems", ())[:1]]
    found += [_limits(option) for option in within]
    if isinstance(field.get("items"), Mapping) and (each := _limits(field["items"])):
        found.append(f"each {each}")
    return " and ".join(dict.fromkeys(filter(None, found)))


def find(name: str | None) -> list[Key]:
    """The key called `name`, or the keys of that section; all of them for None. Raises `ConfigError` if unknown."""
    keys = [*train_keys(), *sweep_keys()]
    if name is None:
        return keys
    wanted = name.removeprefix("base.")
    found = [key for key in keys if key.name == wanted or key.name.startswith(f"{wanted}.")]
    if not found:
        near = difflib.get_close_matches(wanted, [key.name for key in keys], n=1, cutoff=0.0)
        raise ConfigError(f"{name} is no key of a config or spec: did you mean {near[0]}?")
    return found


def config(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A dotted key or a section; left out: every key.")
    ] = None,
) -> None:
    """What a config key means: its kind, range and default."""
    for found in find(key):
        print(f"{found.name}\n    {found.description}\n    {found.constraints}")


# --------------------------------------------------------------------------------------- metrics


@dataclass(frozen=True)
class Measure:
    """What a metric is."""

    formula: str  # Markdown
    range: str


_SHARE = "0 to 1"
_RATIO = "≥ 0"

# Symbols: z embedding of the online encoder, z' of the target encoder, T transition model, a action, MSE over all
# validation transitions and dimensions.
MEASURES: dict[str, Measure] = {
    "train_loss": Measure("The training objective and its weighted terms, mean over the epoch's steps.", "≥ 0"),
    "val_loss": Measure("`MSE(T(z_t, a_t), z'_{t+1})`, one step ahead.", "≥ 0"),
    "val_cosine": Measure("Cosine similarity of `T(z_t, a_t)` and `z'_{t+1}`, mean.", "-1 to 1"),
    "val_skill": Measure("`1 - val_loss / Var(z')`: the share of the target's variance that is explained.", "≤ 1"),
    "persistence_ratio": Measure(
        "`val_loss / MSE(z'_t, z'_{t+1})`: the error over that of copying the present state; below 1 beats a copy.",
        _RATIO,
    ),
    "action_gap": Measure(
        "`val_loss` with the actions of other transitions over `val_loss`; 1: the model ignores actions.", _RATIO
    ),
    "val_rollout_mrr": Measure(
        "Open-loop roll-outs of k = 1 to `training.rollout_horizon` steps; the rank of the true future embedding, by"
        " distance to the prediction, among all time steps of its trajectory and the same time step of the other"
        " validation trajectories (at most 64). Mean of `1 / rank` over starts (at most 1,024) and k; ties count half.",
        _SHARE,
    ),
    "val_mrr_chance": Measure("The `val_rollout_mrr` that a random order of the same candidates has.", _SHARE),
    "val_mrr_z": Measure(
        "Standard errors by which `val_rollout_mrr` lies above chance, trajectories being the independent units; below"
        " 3 a model is at chance. Not there with fewer than 4 validation trajectories.",
        "-1000 to 1000",
    ),
    "val_mrr_within": Measure("As `val_rollout_mrr`, among the time steps of the same trajectory only.", _SHARE),
    "val_mrr_within_chance": Measure("The `val_mrr_within` of a random order.", _SHARE),
    "val_mrr_within_z": Measure("As `val_mrr_z`, of `val_mrr_within`.", "-1000 to 1000"),
    "val_mrr_copy": Measure('The `val_rollout_mrr` of the present embedding as prediction: "nothing moved".', _SHARE),
    "val_mrr_ceiling": Measure(
        "The `val_rollout_mrr` of the truth itself: below 1 where observations repeat, since equal ones tie.", _SHARE
    ),
    "rollout_probe_r2": Measure(
        "R² of the data's `state` labels, read by a ridge probe (fitted on embeddings of one half of the validation"
        " trajectories) off predictions `training.rollout_horizon` steps ahead in the other half. Only where the data"
        " has labels.",
        "≤ 1",
    ),
    "embedding_std": Measure("Standard deviation of z over validation rows, mean over dimensions; 0: collapse.", "≥ 0"),
    "effective_rank": Measure(
        "RankMe: `exp(entropy)` of the normalised singular values of at most 1,024 embeddings.",
        "1 to `model.latent_dim_state`",
    ),
    "temporal_share": Measure(
        "Share of the variance of z that lies within trajectories, not between them; near 0: slow features.", _SHARE
    ),
    "ema_gap": Measure("`‖z - z'‖ / ‖z‖` over all validation rows; 0: the target has caught up.", _RATIO),
    "ema_param_gap": Measure("The same of the two encoders' parameters.", _RATIO),
    "samples_per_s": Measure("Training windows per second, validation not counted, all workers together.", "> 0"),
    "epoch_s": Measure("Seconds of an epoch, validation included.", "> 0"),
}
