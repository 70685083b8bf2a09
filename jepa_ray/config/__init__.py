"""All settings: the train config (of one run) and the sweep spec (of many runs).

Configs are checked here, when they are loaded, and not again later. This package imports neither torch nor Ray, so
`--help` and `--dry-run` are fast. For examples of the YAML files, see `configs/` and `sweeps/`.
"""

from jepa_ray.config.budget import Budget
from jepa_ray.config.catalogue import (
    CATALOGUE,
    CONSTANT,
    DIAGNOSED,
    FAKED_BY,
    METRIC_INFO,
    METRICS,
    SMALLER_IS_BETTER,
    Metric,
    MetricInfo,
    Mode,
    Place,
    metrics_shown,
)
from jepa_ray.config.data import DataConfig, TwoRoomsConfig
from jepa_ray.config.dimensions import Choices, Dimension, Range, Space
from jepa_ray.config.fields import Name, check_name, is_uri
from jepa_ray.config.loading import (
    dump_yaml,
    load_sweep_config,
    load_train_config,
    parse_sets,
    resolve_data_path,
    two_rooms_config,
)
from jepa_ray.config.planning import NO_PLANNING_WITH, PLANNING_PRESETS, PlanningConfig, planning_config
from jepa_ray.config.sweep import (
    SET_BY_SPEC,
    EarlyStopping,
    EvaluationConfig,
    Resources,
    SearchConfig,
    SweepConfig,
    SweepTracking,
)
from jepa_ray.config.train import (
    CnnConfig,
    ExperimentConfig,
    LossConfig,
    MlpConfig,
    ModelConfig,
    Objective,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
    VitConfig,
)
from jepa_ray.config.validation import shortened

__all__ = [
    "CATALOGUE",
    "CONSTANT",
    "DIAGNOSED",
    "FAKED_BY",
    "METRICS",
    "METRIC_INFO",
    "NO_PLANNING_WITH",
    "PLANNING_PRESETS",
    "SET_BY_SPEC",
    "SMALLER_IS_BETTER",
    "Budget",
    "Choices",
    "CnnConfig",
    "DataConfig",
    "Dimension",
    "EarlyStopping",
    "EvaluationConfig",
    "ExperimentConfig",
    "LossConfig",
    "Metric",
    "MetricInfo",
    "MlpConfig",
    "Mode",
    "ModelConfig",
    "Name",
    "Objective",
    "Place",
    "PlanningConfig",
    "Range",
    "Resources",
    "SearchConfig",
    "Space",
    "SweepConfig",
    "SweepTracking",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
    "TwoRoomsConfig",
    "VitConfig",
    "check_name",
    "dump_yaml",
    "is_uri",
    "load_sweep_config",
    "load_train_config",
    "metrics_shown",
    "parse_sets",
    "planning_config",
    "resolve_data_path",
    "shortened",
    "two_rooms_config",
]
