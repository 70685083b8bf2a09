"""Every setting there is: a train config (one run) and a sweep spec (many runs).

Configs are checked once, here, and trusted afterwards. This package imports neither torch nor Ray, so
`--help` and `--dry-run` are instant. What the YAML files look like is shown in `configs/` and `sweeps/`.
"""

from jepa_ray.config.catalogue import CONSTANT, FAKED_BY, METRICS, SMALLER_IS_BETTER, Metric, Mode
from jepa_ray.config.data import DataConfig, TwoRoomsConfig
from jepa_ray.config.dimensions import Choices, Dimension, Range, Space
from jepa_ray.config.fields import Name, check_name, is_uri
from jepa_ray.config.loading import dump_yaml, load_sweep_config, load_train_config, parse_sets, two_rooms_config
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
    "CONSTANT",
    "FAKED_BY",
    "METRICS",
    "NO_PLANNING_WITH",
    "PLANNING_PRESETS",
    "SET_BY_SPEC",
    "SMALLER_IS_BETTER",
    "Choices",
    "CnnConfig",
    "DataConfig",
    "Dimension",
    "EarlyStopping",
    "EvaluationConfig",
    "ExperimentConfig",
    "LossConfig",
    "Metric",
    "MlpConfig",
    "Mode",
    "ModelConfig",
    "Name",
    "Objective",
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
    "parse_sets",
    "planning_config",
    "shortened",
    "two_rooms_config",
]
