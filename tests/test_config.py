from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import jepa_ray
from jepa_ray import diagnosis
from jepa_ray.config import (
    CATALOGUE,
    METRICS,
    DataConfig,
    EarlyStopping,
    Metric,
    Objective,
    Place,
    Range,
    SweepConfig,
    TrainConfig,
    dump_yaml,
    load_sweep_config,
    load_train_config,
    metrics_shown,
    parse_sets,
    two_rooms_config,
)
from jepa_ray.errors import ConfigError

ROOT = Path(__file__).parent.parent
PACKAGE = Path(jepa_ray.__file__).parent

# The documented defaults of a single run. They must not change when the code changes.
DOCUMENTED = {
    "training.ema_decay": 0.995,
    "model.latent_dim_state": 128,
    "model.latent_dim_action": 64,
    "model.transition_depth": 4,
    "training.batch_size": 32,
    "training.learning_rate": 1e-4,
    "training.num_epochs": 100,
    "training.patience": 15,
    "experiment.name": "jepa_training",
}


def lookup(node: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        node = getattr(node, part)
    return node


@pytest.fixture
def train_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("data: {builtin: two_rooms}\n")
    return path


def write_spec(folder: Path, space: str, more: str = "", base: str = "{data: {builtin: two_rooms}}") -> Path:
    path = folder / "spec.yaml"
    path.write_text(f"name: s\nbase: {base}\nspace: {space}\n{more}")
    return path


def rejected(path: Path, *sets: str) -> str:
    """The message of the error that loading the train config raises."""
    with pytest.raises(ConfigError) as caught:
        load_train_config(path, sets)
    return str(caught.value)


def spec_rejected(path: Path, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_sweep_config(path, sets)
    return str(caught.value)


# ------------------------------------------------------------------------------------ defaults


@pytest.mark.parametrize(("key", "value"), DOCUMENTED.items())
def test_default_is_the_documented_one(key: str, value: Any) -> None:
    assert lookup(TrainConfig(data=DataConfig(builtin="two_rooms")), key) == value


@pytest.mark.parametrize(("key", "value"), DOCUMENTED.items())
def test_shipped_train_config_has_the_documented_defaults(key: str, value: Any) -> None:
    assert lookup(load_train_config(ROOT / "configs" / "train_JEPA_config.yaml"), key) == value


def test_documented_encoders_are_offered(train_yaml: Path) -> None:
    for encoder in ("cnn", "vit", "mlp"):
        assert load_train_config(train_yaml, [f"model.encoder_type={encoder}"]).model.encoder_type == encoder


def test_default_objective_is_not_a_loss() -> None:
    assert Objective() == Objective(metric="val_rollout_mrr", mode="max")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_config_loads(path: Path) -> None:
    assert load_train_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_sweep_loads(path: Path) -> None:
    assert load_sweep_config(path)


def test_shipped_grid_is_the_documented_space() -> None:
    assert load_sweep_config(ROOT / "sweeps" / "grid.yaml").space == {
        "training.ema_decay": [0.99, 0.995, 0.999],
        "training.learning_rate": [1e-5, 1e-4, 1e-3],
        "model.latent_dim_state": [64, 128, 256],
        "model.transition_depth": [2, 4, 6],
    }


# ----------------------------------------------------------------------------- catalogue of metrics


def test_catalogue_has_every_metric_once() -> None:
    """The type is written out for the type checker, so it could differ."""
    assert tuple(metric.name for metric in CATALOGUE) == typing.get_args(Metric)
    assert typing.get_args(Metric) == METRICS


@pytest.mark.parametrize("place", Place)
def test_positions_of_the_metrics_that_a_place_shows_are_1_2_3(place: Place) -> None:
    positions = sorted(metric.shown[place] for metric in CATALOGUE if place in metric.shown)
    assert positions == list(range(1, len(positions) + 1))
    assert len(metrics_shown(place)) == len(positions) > 0


def test_metrics_are_shown_by_position() -> None:
    assert metrics_shown(Place.REPORT_SUMMARY)[:3] == ("val_rollout_mrr", "rollout_probe_r2", "val_loss")


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_metric_is_an_objective_with_its_own_direction_unless_it_is_constant(train_yaml: Path, metric: Any) -> None:
    setting = f"experiment.objective.metric={metric.name}"
    if metric.is_constant:
        assert f"{metric.name} is the same for all models" in rejected(train_yaml, setting)
    else:
        objective = load_train_config(train_yaml, [setting]).experiment.objective
        assert objective.mode == metric.direction
        assert (objective.warning is None) == (metric.faked_by is None)


def test_diagnosed_metrics_are_those_that_the_diagnosis_reads() -> None:
    tree = ast.parse(inspect.getsource(diagnosis))
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    assert {metric.name for metric in CATALOGUE if metric.is_diagnosed} == read & set(METRICS)


# ------------------------------------------------------------------------------- refused configs


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("training: {learning_rte: 1}", "training.learning_rte", "training.learning_rate"),
        ("traning: {}", "traning", "training"),
        ("model: {cnn: {chanels: [8]}}", "model.cnn.chanels", "model.cnn.channels"),
        ("experiment: {objective: {metrik: val_loss}}", "experiment.objective.metrik", "experiment.objective.metric"),
    ],
)
def test_unknown_key_names_file_key_and_nearest(train_yaml: Path, text: str, unknown: str, nearest: str) -> None:
    train_yaml.write_text(f"data: {{builtin: two_rooms}}\n{text}\n")
    assert rejected(train_yaml) == f"{train_yaml}: unknown key {unknown}: did you mean {nearest}?"


def test_unknown_key_of_a_spec_names_file_key_and_nearest(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", "early_stoping: {}")
    assert spec_rejected(path) == f"{path}: unknown key early_stoping: did you mean early_stopping?"


def test_unknown_key_in_the_base_of_a_spec_is_placed_under_base(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", base="{data: {builtin: two_rooms}, training: {sed: 1}}")
    assert f"{path}: unknown key base.training.sed: did you mean base.training." in spec_rejected(path)


def test_unknown_key_of_a_range_names_the_nearest(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.learning_rate: {low: 1e-5, high: 1e-3, logg: true}}")
    message = spec_rejected(path)
    assert "space.training.learning_rate" in message
    assert "logg: did you mean" in message


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("training.ema_decay=1.5", "training.ema_decay is 1.5, but must be less than 1"),
        ("training.ema_decay=-0.1", "training.ema_decay is -0.1, but must be greater than or equal to 0"),
        ("training.learning_rate=0", "training.learning_rate is 0, but must be greater than 0"),
        ("training.batch_size=0", "training.batch_size is 0, but must be greater than or equal to 1"),
        ("training.batch_size=ten", "training.batch_size is 'ten', but must be a valid integer"),
        ("training.num_epochs=0", "training.num_epochs is 0, but"),
        ("training.weight_decay=.nan", "training.weight_decay is nan, but"),
        ("model.encoder_type=resnet", "model.encoder_type is 'resnet', but must be 'vit', 'cnn' or 'mlp'"),
        ("model.transition_dropout=1", "model.transition_dropout is 1, but must be less than 1"),
        ("model.cnn.channels=[]", "model.cnn.channels is [], but"),
        ("data.val_fraction=1", "data.val_fraction is 1, but must be less than 1"),
        ("data.two_rooms.image_size=8", "data.two_rooms.image_size is 8, but"),
        ("experiment.name=../escape", "experiment.name is '../escape', but"),
        ("experiment.name=.hidden", "experiment.name is '.hidden', but"),
        (
            "experiment.objective.metric=val_mrr_chance",
            "experiment.objective.metric: val_mrr_chance is the same for all models",
        ),
        ("experiment.objective.metric=val_los", "experiment.objective.metric is 'val_los', but must be 'train_loss'"),
    ],
)
def test_out_of_range_value_is_refused_with_file_key_value_and_rule(train_yaml: Path, setting: str, rule: str) -> None:
    assert f"{train_yaml}: {rule}" in rejected(train_yaml, setting)


@pytest.mark.parametrize("key", ["training.learning_rate", "training.weight_decay", "data.two_rooms.dot_std"])
def test_infinite_hyperparameter_is_refused(train_yaml: Path, key: str) -> None:
    assert f"{key} is inf" in rejected(train_yaml, f"{key}=.inf")


def test_further_mistakes_are_counted_in_the_one_line(train_yaml: Path) -> None:
    message = rejected(train_yaml, "training.batch_size=0", "training.num_epochs=0", "data.val_fraction=2")
    assert message.endswith("(and 2 more)")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "must contain a mapping of sections, not list"),
        ("", "must contain a mapping of sections, not NoneType"),
        ("{}", "data is missing"),
        ("data: 3", "data is 3"),
        ("data: {builtin: two_rooms}\nexperiment: {name: 2020-13-45}", ""),  # YAML takes it for a date
    ],
)
def test_file_that_is_not_a_config_is_refused_in_one_line_with_its_name(train_yaml: Path, text: str, says: str) -> None:
    train_yaml.write_text(text)
    message = rejected(train_yaml)
    assert message.startswith(f"{train_yaml}: {says}")
    assert "\n" not in message


def test_missing_file_and_binary_file_are_config_errors(tmp_path: Path) -> None:
    assert "no.yaml: cannot be read (No such file or directory)" in rejected(tmp_path / "no.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    assert "bin.yaml: is not UTF-8 text" in rejected(tmp_path / "bin.yaml")


def test_heads_must_divide(train_yaml: Path) -> None:
    said = rejected(train_yaml, "model.latent_dim_state=130")
    assert "latent_dim_state is 130, but must be divisible by transition_heads (4)" in said
    said = rejected(train_yaml, "model.vit.width=130", "model.latent_dim_state=128")
    assert "vit.heads is 4, but must divide the token width (130)" in said
    assert load_train_config(
        train_yaml, ["model.vit.width=130", "model.encoder_type=mlp"]
    )  # without a vit, the rule does not apply


def test_width_of_the_mlp_is_limited_and_not_its_ratio(train_yaml: Path) -> None:
    said = rejected(train_yaml, "model.transition_mlp_ratio=60000")  # of 128: it would fill the memory
    assert "transition_mlp_ratio x latent_dim_state is 7.68e+06 wide, but must be at most 65536" in said
    assert load_train_config(train_yaml, ["model.transition_mlp_ratio=512"]).model.transition_mlp_ratio == 512


@pytest.mark.parametrize(
    ("batch", "workers", "options"), [(30, 4, "28 or 32"), (3, 4, "4"), (33, 2, "32 or 34"), (5, 3, "3 or 6")]
)
def test_batch_that_workers_cannot_share_is_refused_with_the_nearest_valid_sizes(
    train_yaml: Path, batch: int, workers: int, options: str
) -> None:
    said = rejected(train_yaml, f"training.batch_size={batch}", f"training.num_workers={workers}")
    assert said.endswith(
        f"batch_size is {batch}, but must be divisible by the number of workers ({workers}): use {options}"
    )


@pytest.mark.parametrize("data", ["{}", "{builtin: two_rooms, path: x.h5}"])
def test_exactly_one_of_path_and_builtin(train_yaml: Path, data: str) -> None:
    train_yaml.write_text(f"data: {data}")
    assert "exactly one of path and builtin must be set" in rejected(train_yaml)


def test_configs_are_frozen(train_config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="frozen"):
        train_config.training.batch_size = 3


# ------------------------------------------------------------------------------ values and --set


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("+1e3", 1000.0), ("-2e-1", -0.2), ("1.0e-4", 1e-4), ("3.e-4", 3e-4)],
)
def test_exponent_is_a_number_with_and_without_a_dot(text: str, value: float) -> None:
    parsed = parse_sets([f"k={text}"])["k"]
    assert isinstance(parsed, float)
    assert parsed == value


@pytest.mark.parametrize("text", ["1e", "e-4", "v1e-4", "1e-4x"])
def test_text_that_resembles_an_exponent_stays_text(text: str) -> None:
    assert parse_sets([f"k={text}"])["k"] == text


def test_exponent_without_dot_in_a_file_is_a_float(train_yaml: Path) -> None:
    train_yaml.write_text("data: {builtin: two_rooms}\ntraining: {learning_rate: 3e-4}")
    assert load_train_config(train_yaml).training.learning_rate == 3e-4


def test_set_values_are_yaml_and_may_contain_equals_signs() -> None:
    assert parse_sets(["a.b=[1, 2]", "c=null", "d=true", "e=x=y", "f="]) == {
        "a.b": [1, 2],
        "c": None,
        "d": True,
        "e": "x=y",
        "f": None,
    }


@pytest.mark.parametrize("item", ["training.batch_size", "=3", "a=[1", ""])
def test_malformed_set_is_refused_and_quoted(item: str) -> None:
    with pytest.raises(ConfigError, match="--set") as caught:
        parse_sets([item])
    assert item in str(caught.value)


def test_set_takes_precedence_over_the_file_and_the_last_set_over_others(train_yaml: Path) -> None:
    train_yaml.write_text("data: {builtin: two_rooms}\ntraining: {batch_size: 8, num_epochs: 7}")
    config = load_train_config(train_yaml, ["training.batch_size=16", "training.batch_size=64"])
    assert (config.training.batch_size, config.training.num_epochs) == (64, 7)


def test_set_of_a_key_inside_a_value_is_refused(train_yaml: Path) -> None:
    train_yaml.write_text("data: {builtin: two_rooms}\ntraining: {batch_size: 8}")
    assert "training.batch_size.x: batch_size is a value, not a section" in rejected(
        train_yaml, "training.batch_size.x=1"
    )


def test_set_of_a_swept_key_replaces_that_dimension_only(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.learning_rate: [1.0e-4], training.ema_decay: [0.9]}")
    spec = load_sweep_config(path, ["space.training.learning_rate=[1e-3, 1e-2]", "space.model.transition_depth=[1, 2]"])
    assert spec.space == {
        "training.learning_rate": [1e-3, 1e-2],
        "training.ema_decay": [0.9],
        "model.transition_depth": [1, 2],
    }


def test_set_reaches_the_base_of_a_spec(tmp_path: Path) -> None:
    spec = load_sweep_config(write_spec(tmp_path, "{training.ema_decay: [0.9]}"), ["base.training.batch_size=8"])
    assert spec.base.training.batch_size == 8


def test_two_rooms_keys_are_checked_like_other_keys() -> None:
    assert two_rooms_config({"trajectories": 4}).trajectories == 4
    with pytest.raises(ConfigError, match="unknown key trajectorys: did you mean trajectories"):
        two_rooms_config({"trajectorys": 4})


def test_overrides_are_validated_again(train_config: TrainConfig) -> None:
    assert train_config.with_overrides({"training.batch_size": 8}).training.batch_size == 8
    assert train_config.training.batch_size == 16
    with pytest.raises(ConfigError, match="latent_dim_state is 17"):
        train_config.with_overrides({"model.latent_dim_state": 17})


# ------------------------------------------------------------------------------------- data paths


def test_data_path_is_relative_to_the_folder_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "c.yaml").write_text("data: {path: ../data/d.h5}")
    monkeypatch.chdir(tmp_path)
    assert load_train_config(Path("configs/c.yaml")).data.path == (tmp_path / "data" / "d.h5").resolve()


def test_data_path_with_a_zero_byte_is_refused_with_its_source(tmp_path: Path, train_yaml: Path) -> None:
    rule = "'a\\x00b' is not a valid path: it contains a zero byte"
    assert rejected(train_yaml, 'data.path="a\\0b"') == f"--set data.path: {rule}"
    assert (
        spec_rejected(write_spec(tmp_path, "{training.learning_rate: [1.0e-3]}"), 'base.data.path="a\\0b"')
        == f"--set base.data.path: {rule}"
    )
    path = tmp_path / "zero.yaml"
    path.write_text('data: {path: "a\\0b"}')
    assert rejected(path) == f"{path}: data.path: {rule}"


def test_absolute_and_home_data_paths_are_kept(
    train_yaml: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    train_yaml.write_text("data: {path: /somewhere/d.h5}")
    assert load_train_config(train_yaml).data.path == Path("/somewhere/d.h5")
    train_yaml.write_text("data: {path: ~/d.h5}")
    assert load_train_config(train_yaml).data.path == (tmp_path / "home" / "d.h5").resolve()


def test_data_path_of_the_command_line_is_relative_to_the_working_directory(
    train_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes absolute, since `best_config.yaml` is read again from its own folder."""
    monkeypatch.chdir(tmp_path.parent)
    here = (tmp_path.parent / "d.h5").resolve()
    assert load_train_config(train_yaml, ["data.path=d.h5", "data.builtin=null"]).data.path == here
    spec = write_spec(tmp_path, "{training.ema_decay: [0.9]}")
    assert load_sweep_config(spec, ["base.data.path=d.h5", "base.data.builtin=null"]).base.data.path == here


BOTH = "exactly one of path and builtin must be set, but both are: remove one of them"


def test_set_of_a_data_source_replaces_the_other_one(train_yaml: Path, tmp_path: Path) -> None:
    config = load_train_config(train_yaml, ["data.path=/somewhere/d.h5"])
    assert (config.data.path, config.data.builtin) == (Path("/somewhere/d.h5"), None)
    train_yaml.write_text("data: {path: /somewhere/d.h5}")
    config = load_train_config(train_yaml, ["data.builtin=two_rooms"])
    assert (config.data.path, config.data.builtin) == (None, "two_rooms")


def test_set_of_a_data_source_replaces_the_other_one_in_the_base_of_a_spec(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, "{training.ema_decay: [0.9]}")
    data = load_sweep_config(spec, ["base.data.path=s3://bucket/d.h5"]).base.data
    assert (data.path, data.builtin) == ("s3://bucket/d.h5", None)


def test_both_data_sources_are_refused_in_a_file_and_by_set(train_yaml: Path, tmp_path: Path) -> None:
    sets = ["data.path=d.h5", "data.builtin=two_rooms"]
    assert BOTH in rejected(train_yaml, *sets)
    assert BOTH in spec_rejected(write_spec(tmp_path, "{training.ema_decay: [0.9]}"), *(f"base.{s}" for s in sets))
    train_yaml.write_text("data: {builtin: two_rooms, path: d.h5}")
    assert BOTH in rejected(train_yaml)


def test_set_of_a_data_source_to_null_leaves_the_other_one(train_yaml: Path) -> None:
    assert load_train_config(train_yaml, ["data.path=null"]).data.builtin == "two_rooms"
    assert "but neither is" in rejected(train_yaml, "data.builtin=null")


def test_base_is_relative_to_the_spec_and_its_data_to_the_base(tmp_path: Path) -> None:
    for folder in ("sweeps", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs" / "b.yaml").write_text("data: {path: d.h5}\ntraining: {batch_size: 8}")
    spec = load_sweep_config(write_spec(tmp_path / "sweeps", "{training.ema_decay: [0.9]}", base="../configs/b.yaml"))
    assert spec.base.training.batch_size == 8
    assert spec.base.data.path == (tmp_path / "configs" / "d.h5").resolve()


def test_data_of_an_inline_base_is_relative_to_the_spec(tmp_path: Path) -> None:
    spec = load_sweep_config(write_spec(tmp_path, "{training.ema_decay: [0.9]}", base="{data: {path: d.h5}}"))
    assert spec.base.data.path == (tmp_path / "d.h5").resolve()


def test_missing_base_is_named(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", base="nowhere.yaml")
    assert f"{tmp_path.resolve() / 'nowhere.yaml'}: cannot be read" in spec_rejected(path)


# ------------------------------------------------------------------------------------------ sweeps


@pytest.mark.parametrize(
    "key",
    [
        "training.num_epochs",
        "training.num_workers",
        "training.cpus_per_worker",
        "training.gpus_per_worker",
        "experiment.objective.metric",
        "experiment.objective.mode",
    ],
)
def test_key_that_the_spec_sets_cannot_be_swept(tmp_path: Path, key: str) -> None:
    assert f"space.{key} cannot be swept, since " in spec_rejected(write_spec(tmp_path, f"{{{key}: [1]}}"))


@pytest.mark.parametrize("key", ["training", "experiment.objective"])
def test_section_cannot_be_swept_in_place_of_its_keys(tmp_path: Path, key: str) -> None:
    assert f"space.{key}" in spec_rejected(write_spec(tmp_path, f"{{{key}: [{{}}]}}"))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("{training.ema_decay: [0.9, 0.99, 1.5]}", "training.ema_decay is 1.5, but must be less than 1"),
        ("{training.learning_rate: {low: 0, high: 1.0e-3}}", "training.learning_rate is 0.0, but"),
        ("{training.ema_decay: {low: 0.9, high: 1.1}}", "training.ema_decay is 1.1, but"),
        ("{model.latent_dim_state: [64, 66]}", "latent_dim_state is 66, but must be divisible by"),
        ("{training.ema_dekay: [0.9]}", "unknown key training.ema_dekay: did you mean training.ema_decay?"),
        ("{training.ema_decay: []}", "space.training.ema_decay"),
        ("{training.ema_decay: 0.9}", "space.training.ema_decay"),
        ("{}", "space is {}, but"),
    ],
)
def test_every_choice_is_checked_against_the_base(tmp_path: Path, space: str, says: str) -> None:
    path = write_spec(tmp_path, space)
    said = spec_rejected(path)
    assert said.startswith(f"{path}: space")
    assert says in said


def test_choice_is_checked_with_the_resources_of_the_spec(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.batch_size: [32, 30]}", "resources: {workers_per_trial: 4}")
    assert "batch_size is 30, but must be divisible by the number of workers (4): use 28 or 32" in spec_rejected(path)


def test_batch_of_the_base_is_checked_with_the_resources_of_the_spec(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", "resources: {workers_per_trial: 3}")
    assert "batch_size is 32, but must be divisible by the number of workers (3): use 30 or 33" in spec_rejected(path)


@pytest.mark.parametrize(
    ("dimension", "says"),
    [
        ("{low: 2, high: 1}", "low is 2.0, but must be below high"),
        ("{low: 1, high: 1}", "low is 1.0, but must be below high"),
        ("{low: 0, high: 1, log: true}", "must start above 0"),
        ("{low: 1.0e-5, high: 1.0e-3, log: true, step: 1.0e-5}", "log and step cannot be combined"),
        ("{low: 0.1, high: 1, step: 0}", "step is 0"),
        ("{low: 1.0e-5, high: .inf}", "high is inf"),
    ],
)
def test_invalid_range_is_refused(tmp_path: Path, dimension: str, says: str) -> None:
    assert says in spec_rejected(write_spec(tmp_path, f"{{training.learning_rate: {dimension}}}"))


@pytest.mark.parametrize("dimension", ["{low: 1.5, high: 4, int: true}", "{low: 1, high: 4, step: 0.5, int: true}"])
def test_integer_range_refuses_fractions_instead_of_rounding_them(tmp_path: Path, dimension: str) -> None:
    assert "model.transition_depth" in spec_rejected(write_spec(tmp_path, f"{{model.transition_depth: {dimension}}}"))


def test_integer_range_has_integer_ends() -> None:
    assert [type(end) for end in Range.model_validate({"low": 1, "high": 4, "int": True}).ends()] == [int, int]


@pytest.mark.parametrize(
    ("grace", "max_epochs", "factor", "rungs"),
    [(1, 27, 3, [1, 3, 9]), (2, 6, 3, [2]), (1, 4, 4, [1]), (5, 5, 2, []), (1, 16, 2, [1, 2, 4, 8])],
)
def test_rungs_are_powers_below_the_budget(grace: int, max_epochs: int, factor: int, rungs: list[int]) -> None:
    assert EarlyStopping(grace_epochs=grace, max_epochs=max_epochs, reduction_factor=factor).rungs() == rungs


def test_no_rungs_without_early_stopping() -> None:
    assert EarlyStopping(enabled=False).rungs() == []


def test_grace_epochs_above_max_epochs_are_refused(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", "early_stopping: {grace_epochs: 7, max_epochs: 6}")
    assert "grace_epochs is 7, but must not exceed max_epochs (6)" in spec_rejected(path)


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_max_concurrent_is_auto_or_positive(tmp_path: Path, value: str) -> None:
    path = write_spec(tmp_path, "{training.ema_decay: [0.9]}", f"resources: {{max_concurrent: {value}}}")
    assert "resources.max_concurrent" in spec_rejected(path)


def test_trial_config_is_base_then_spec_then_overrides(tmp_path: Path) -> None:
    more = (
        "early_stopping: {max_epochs: 5}\nresources: {workers_per_trial: 2}\nobjective: {metric: val_loss, mode: min}"
    )
    base = "{data: {builtin: two_rooms}, training: {num_epochs: 99, batch_size: 8}}"
    spec = load_sweep_config(write_spec(tmp_path, "{training.ema_decay: [0.9, 0.5]}", more, base))
    trial = spec.trial_config({"training.ema_decay": 0.5})
    assert (trial.training.num_epochs, trial.training.num_workers, trial.training.batch_size) == (5, 2, 8)
    assert trial.training.ema_decay == 0.5
    assert trial.experiment.objective == Objective(metric="val_loss", mode="min")


def test_better_follows_the_mode() -> None:
    smaller, larger = Objective(metric="val_loss", mode="min"), Objective(mode="max")
    assert larger.better(1.0, None)
    assert larger.better(2.0, 1.0)
    assert not larger.better(1.0, 1.0)
    assert smaller.better(1.0, 2.0)
    assert not smaller.better(2.0, 1.0)


# -------------------------------------------------- conditions, objectives, enqueued configurations

VIT = "model.encoder_type: [vit, mlp], model.vit.depth: "


@pytest.mark.parametrize(
    ("dimension", "when"),
    [
        ("{choices: [1, 2], when: {model.encoder_type: vit}}", {"model.encoder_type": ["vit"]}),
        ("{choices: [1, 2], when: {model.encoder_type: [vit, mlp]}}", {"model.encoder_type": ["vit", "mlp"]}),
        ("{low: 1, high: 4, int: true, when: {model.encoder_type: vit}}", {"model.encoder_type": ["vit"]}),
        ("{choices: [1, 2]}", {}),
    ],
)
def test_condition_is_a_value_or_a_list_of_values(tmp_path: Path, dimension: str, when: dict[str, list[Any]]) -> None:
    spec = load_sweep_config(write_spec(tmp_path, f"{{{VIT}{dimension}}}"))
    assert spec.space["model.vit.depth"].when == when  # type: ignore[union-attr]
    assert spec.space["model.encoder_type"] == ["vit", "mlp"]
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump_yaml(spec.to_dict()))
    assert load_sweep_config(saved) == spec


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (
            VIT + "{choices: [1], when: {model.encoder: vit}}",
            "space.model.vit.depth.when names model.encoder, but must name another swept key: model.encoder_type, ",
        ),
        (
            VIT + "{choices: [1], when: {model.encoder_type: cnn}}",
            "space.model.vit.depth.when: model.encoder_type is cnn, but must be one of ['vit', 'mlp']",
        ),
        (VIT + "{choices: [1], when: {model.encoder_type: []}}", "space.model.vit.depth.when.model.encoder_type is []"),
        (VIT + "{choices: [1, 2], when: vit}", "space.model.vit.depth.when is 'vit', but"),
        (VIT + "{choices: [1, 2], wen: {}}", "unknown key space.model.vit.depth.wen: did you mean"),
        (VIT + "{choices: [0], when: {model.encoder_type: vit}}", "space.model.vit.depth: "),
        (
            VIT + "{choices: [1, 1], when: {model.encoder_type: vit}}",
            "space.model.vit.depth names 1 twice: remove one of them",
        ),
        (
            "model.transition_depth: {low: 1, high: 4, int: true}, "
            "training.patience: {choices: [1], when: {model.transition_depth: 5}}",
            "model.transition_depth is 5, but must be a whole number from 1 to 4",
        ),
        (
            "training.learning_rate: {low: 0.1, high: 0.2}, "
            "training.patience: {choices: [1], when: {training.learning_rate: 0.1}}",
            "names training.learning_rate, but must name a key with choices or steps, not a continuous range",
        ),
        (
            "model.vit.depth: {choices: [1], when: {model.vit.heads: 1}}, "
            "model.vit.heads: {choices: [1], when: {model.vit.depth: 1}}",
            "form a cycle: remove one of them",
        ),
        ("model.vit.depth: {choices: [1], when: {model.vit.depth: 1}}", "the conditions of model.vit.depth form a"),
        (
            VIT + "{choices: [1], when: {model.encoder_type: vit}}, "
            "model.vit.heads: {choices: [1], when: {model.vit.depth: 1, model.encoder_type: mlp}}",
            "space.model.vit.heads never exists: its conditions contradict each other",
        ),
    ],
)
def test_invalid_condition_is_refused(tmp_path: Path, space: str, says: str) -> None:
    assert says in spec_rejected(write_spec(tmp_path, f"{{{space}}}"))


def test_conditional_choice_is_checked_where_it_exists(tmp_path: Path) -> None:
    """Three heads do not divide a token width of 128. An MLP has no heads, so any number is valid."""
    heads = "{choices: [3], when: {model.encoder_type: %s}}"
    space = "{model.encoder_type: [vit, mlp], model.vit.heads: " + heads + "}"
    base = "{data: {builtin: two_rooms}, model: {encoder_type: cnn}}"
    assert "vit.heads is 3" in spec_rejected(write_spec(tmp_path, space % "vit", base=base))
    assert load_sweep_config(write_spec(tmp_path, space % "mlp", base=base))


def test_first_objective_of_a_list_is_the_main_one(tmp_path: Path) -> None:
    more = "objective: [{metric: val_rollout_mrr}, {metric: epoch_s}]"
    spec = load_sweep_config(write_spec(tmp_path, "{training.ema_decay: [0.9]}", more))
    assert spec.objective == Objective()
    assert spec.objectives == (Objective(), Objective(metric="epoch_s", mode="min"))
    assert spec.trial_config({}).experiment.objective == Objective()
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(spec.to_dict()))
    assert load_sweep_config(again) == spec


def test_single_objective_is_saved_as_a_mapping(tmp_path: Path) -> None:
    spec = load_sweep_config(write_spec(tmp_path, "{training.ema_decay: [0.9]}", "objective: {metric: val_loss}"))
    assert spec.to_dict()["objective"] == {"metric": "val_loss", "mode": "min"}
    assert spec.objectives == (spec.objective,)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ("[]", "objective is [], but"),
        ("[{metric: val_loss}, {metric: val_loss, mode: max}]", "objective names val_loss twice: remove one of them"),
        ("[{metric: val_loss}, {metric: val_los}]", "objective.1.metric is 'val_los', but"),
        ("{metric: val_los}", "objective.metric is 'val_los', but"),
        ("{metrik: val_loss}", "unknown key objective.metrik: did you mean objective.metric?"),
        (
            "[{metric: val_loss}, {metric: val_mrr_chance}]",
            "objective.1.metric: val_mrr_chance is the same for all models",
        ),
        ("3", "objective is 3, but"),
    ],
)
def test_invalid_objective_is_refused(tmp_path: Path, objective: str, says: str) -> None:
    assert says in spec_rejected(write_spec(tmp_path, "{training.ema_decay: [0.9]}", f"objective: {objective}"))


@pytest.mark.parametrize(
    ("enqueue", "says"),
    [
        ("[{training.ema: 0.9}]", "search.enqueue.0 names training.ema, but must name swept keys: model.encoder_type"),
        (
            "[{training.ema_decay: 0.9}, {training.ema_decay: 0.5}]",
            "search.enqueue.1.training.ema_decay is 0.5, but must be one of [0.9, 0.99]",
        ),
        (
            "[{training.learning_rate: 0.1}]",
            "search.enqueue.0.training.learning_rate is 0.1, but must be a number from 1e-05 to 0.001",
        ),
        ("[{training.learning_rate: true}]", "search.enqueue.0.training.learning_rate is True"),
        (
            "[{model.vit.depth: 1}]",
            "names model.vit.depth, which exists only if model.encoder_type is one of ['vit']",
        ),
        ("[{model.vit.depth: 1, model.encoder_type: mlp}]", "search.enqueue.0 names model.vit.depth, which exists"),
        ("[{}]", "search.enqueue.0 is {}, but"),
        ("[{training.ema_decay: 0.9}, {training.ema_decay: 0.99}]\n  num_trials: 1", "but num_trials is 1"),
    ],
)
def test_enqueued_configuration_that_is_not_in_the_space_is_refused(tmp_path: Path, enqueue: str, says: str) -> None:
    space = (
        f"{{{VIT} {{choices: [1, 2], when: {{model.encoder_type: vit}}}}, training.ema_decay: [0.9, 0.99],"
        " training.learning_rate: {low: 1.0e-5, high: 1.0e-3}}"
    )
    assert says in spec_rejected(write_spec(tmp_path, space, f"search:\n  enqueue: {enqueue}"))


# --------------------------------------------------------------------------------- saved and loaded


def test_saved_train_config_loads_as_itself(tmp_path: Path, train_config: TrainConfig) -> None:
    path = tmp_path / "saved.yaml"
    config = train_config.with_overrides({"training.learning_rate": 1e-5, "training.patience": None})
    path.write_text(dump_yaml(config.to_dict()))
    assert load_train_config(path) == config


def test_saved_spec_loads_as_itself(tmp_path: Path) -> None:
    rate, depth = "{low: 1.0e-5, high: 1.0e-3, log: true}", "{low: 1, high: 4, int: true}"
    spec = load_sweep_config(
        write_spec(tmp_path, f"{{training.learning_rate: {rate}, model.transition_depth: {depth}}}")
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(spec.to_dict()))
    assert load_sweep_config(again) == spec


def test_to_dict_holds_only_plain_values(train_config: TrainConfig) -> None:
    assert yaml.safe_load(yaml.safe_dump(train_config.to_dict())) == train_config.to_dict()


# ---------------------------------------------------------------------- every setting has an effect


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation, e.g. of `dict[str, Range | list]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from sections(part)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, attribute, field) of every field that is not a section."""
    for name, field in model.model_fields.items():
        inner = list(sections(field.annotation))
        for section in inner:
            yield from leaves(section, f"{prefix}{name}.")
        if not inner:
            yield f"{prefix}{name}", name, field


def attributes_read(tree: ast.AST) -> set[str]:
    """All names that are read as an attribute: `something.name`. A declaration of a field does not count."""
    nodes = ast.walk(tree)
    return {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


@pytest.fixture(scope="module")
def read_in_package() -> set[str]:
    return set().union(*(attributes_read(ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")))


def test_reads_are_distinguished_from_declarations() -> None:
    tree = ast.parse("class C:\n    a: int = 1\n    def f(self):\n        self.b = self.c.d\n")
    assert attributes_read(tree) == {"c", "d"}


ALL_LEAVES = sorted({(key, name) for model in (TrainConfig, SweepConfig) for key, name, _ in leaves(model)})


def test_leaves_are_found() -> None:
    keys = [key for key, _ in ALL_LEAVES]
    assert {"training.ema_decay", "data.two_rooms.dot_std", "experiment.objective.metric"} <= set(keys)
    assert {"search.seed", "base.model.cnn.channels", "space.integer", "tracking.uri"} <= set(keys)


@pytest.mark.parametrize(("key", "name"), ALL_LEAVES, ids=[key for key, _ in ALL_LEAVES])
def test_setting_is_read_somewhere(key: str, name: str, read_in_package: set[str]) -> None:
    assert name in read_in_package, f"nothing reads {key}"


@pytest.mark.parametrize(("key", "field"), [(key, field) for key, _, field in leaves(TrainConfig)])
def test_train_setting_is_described(key: str, field: Any) -> None:
    assert field.description, f"{key} has no description"


@pytest.mark.parametrize(
    ("key", "field"),
    [
        (key, field)
        for key, _, field in leaves(SweepConfig)
        if key.split(".")[0] in ("space", "search", "objective_spec")
    ],
)
def test_search_setting_is_described(key: str, field: Any) -> None:
    assert field.description, f"{key} has no description"
