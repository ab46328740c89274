"""Settings: one frozen dataclass per stage, combined in `Config`.

A file in `configs/` defines `get_config() -> Config`, whole or derived from another file; the command line overrides
any field by its path, as in `--optimizer.learning_rate 0.01`. `Config()` is the paper's experiment on VOC 2007.
Operations and models take plain arguments; the code built on them reads these classes.
"""

from frcnn_jax.config.command_line import override
from frcnn_jax.config.compare import changed_settings, flat_settings
from frcnn_jax.config.data import AugmentConfig, DataConfig, FaultPolicy, InputConfig, ProposalConfig
from frcnn_jax.config.distributed import DistributedConfig
from frcnn_jax.config.experiment import Config, EvalConfig, with_steps
from frcnn_jax.config.files import config_names, derive, from_json, load_config, replace, to_json
from frcnn_jax.config.learning import (
    CLASSIFICATION_LOSSES,
    LOCALIZATION_LOSSES,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ParameterRule,
    SamplingConfig,
    TrainConfig,
    in_steps,
)
from frcnn_jax.config.paths import IMAGENET, absolute_paths, expand_user, expand_user_or_name

__all__ = [
    "CLASSIFICATION_LOSSES",
    "IMAGENET",
    "LOCALIZATION_LOSSES",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "FaultPolicy",
    "InputConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParameterRule",
    "ProposalConfig",
    "SamplingConfig",
    "TrainConfig",
    "absolute_paths",
    "changed_settings",
    "config_names",
    "derive",
    "expand_user",
    "expand_user_or_name",
    "flat_settings",
    "from_json",
    "in_steps",
    "load_config",
    "override",
    "replace",
    "to_json",
    "with_steps",
]
