"""Values of settings: what is out of range or of another kind is refused by its name."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.config import (
    CLASSIFICATION_LOSSES,
    LOCALIZATION_LOSSES,
    AugmentConfig,
    Config,
    DataConfig,
    DistributedConfig,
    EvalConfig,
    FaultPolicy,
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ParameterRule,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
    flat_settings,
    from_json,
    to_json,
)

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("sections", "plain"),
    [
        ({"train": TrainConfig(steps=np.int64(5), evaluate_every=np.float32(0.5))}, (5, 0.5)),
        ({"optimizer": OptimizerConfig(learning_rate=Fraction(1, 4), drops=(np.int32(3), np.int8(7)))}, (0.25, (3, 7))),
        ({"input": InputConfig(buckets=((np.int64(64), 96),))}, (((64, 96),),)),
        ({"data": DataConfig(root=Path("x"))}, ("x",)),
        (
            {"proposals": ProposalConfig(test_file=Path("a.npz"), train_files=(Path("~/b.npz"),))},
            ("a.npz", ("~/b.npz",)),
        ),
        ({"model": ModelConfig(weights=Path("imagenet"))}, ("./imagenet",)),  # a path, not the name
        ({"model": ModelConfig(weights="imagenet")}, ("imagenet",)),
    ],
)
def test_values_are_plain_and_equal_after_a_round_trip_through_json(sections, plain):
    config = Config(**sections)
    assert from_json(to_json(config)) == config
    settings = flat_settings(config)
    for value in plain:
        assert any(value == found and type(value) is type(found) for found in settings.values()), value


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DataConfig, {"root": ""}, "data.root must be a path or None, not ''"),
        (ModelConfig, {"weights": ""}, "model.weights must be a path or None, not ''"),
        (ProposalConfig, {"train_files": ("a", "")}, "proposals.train_files must be a tuple of a path, not ('a', '')"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(kind, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TrainConfig, {"log_every": 0}, r"train\.log_every must be at least 1, not 0"),
        (InputConfig, {"batch_size": 0}, r"input\.batch_size must be at least 1"),
        (InputConfig, {"scales": ()}, r"input\.scales"),
        (InputConfig, {"test_scales": (600, 0)}, r"input\.test_scales must be lengths of at least 1, not \(600, 0\)"),
        (InputConfig, {"scales": [600]}, r"input\.scales must be a tuple of int, not \[600\]"),
        (InputConfig, {"buckets": ((64, 0),)}, r"input\.buckets must be heights and widths of at least 1"),
        (
            InputConfig,
            {"buckets": ((64,),)},
            r"input\.buckets must be a tuple of a tuple of int, int, not \(\(64,\),\)",
        ),
        (InputConfig, {"max_objects": 0}, r"input\.max_objects must be at least 1, not 0"),
        (
            AugmentConfig,
            {"scale_jitter": (0.0, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(0\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (2.0, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(2\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (1.0, INF)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(1\.0,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": (NAN, 1.0)},
            r"input\.augment\.scale_jitter must be a range above 0, not \(nan,",
        ),
        (
            AugmentConfig,
            {"scale_jitter": 0.5},
            r"input\.augment\.scale_jitter must be a tuple of float, float, not 0\.5",
        ),
        (AugmentConfig, {"crop": 0.0}, r"input\.augment\.crop must be above 0 and at most 1, not 0\.0"),
        (AugmentConfig, {"crop": 1.1}, r"input\.augment\.crop must be above 0 and at most 1, not 1\.1"),
        (AugmentConfig, {"crop": NAN}, r"input\.augment\.crop must be above 0 and at most 1, not nan"),
        (AugmentConfig, {"min_visible": 1.5}, r"input\.augment\.min_visible must be in 0 \.\.\. 1, not 1\.5"),
        (AugmentConfig, {"brightness": -0.1}, r"input\.augment\.brightness must be in 0 \.\.\. 1, not -0\.1"),
        (AugmentConfig, {"contrast": 1.1}, r"input\.augment\.contrast must be in 0 \.\.\. 1, not 1\.1"),
        (AugmentConfig, {"saturation": NAN}, r"input\.augment\.saturation must be in 0 \.\.\. 1, not nan"),
        (AugmentConfig, {"hue": 0.6}, r"input\.augment\.hue must be in 0 \.\.\. 0\.5, not 0\.6"),
        (InputConfig, {"augment": {"hue": 0.1}}, r"input\.augment must be AugmentConfig, not \{'hue': 0\.1\}"),
        (InputConfig, {"flip": 1}, r"input\.flip must be bool, not 1"),
        (DataConfig, {"train": ()}, r"data\.train must name at least one data set, not \(\)"),
        (DataConfig, {"test": ""}, r"data\.test must not be empty"),
        (FaultPolicy, {"box_outside": "cut"}, r"data\.faults\.box_outside must be one of error, drop, clip, not 'cut'"),
        (ProposalConfig, {"max_count": 0}, r"proposals\.max_count must be at least 1, not 0"),
        (ProposalConfig, {"min_side": INF}, r"proposals\.min_side must be finite, not inf"),
        (ProposalConfig, {"method": "edge_boxes"}, r"proposals\.method must be one of selective_search_fast, "),
        (SamplingConfig, {"rois_per_image": 0}, r"sampling\.rois_per_image must be at least 1"),
        (
            SamplingConfig,
            {"foreground_fraction": 1.5},
            r"sampling\.foreground_fraction must be in 0 \.\.\. 1, not 1\.5",
        ),
        (
            SamplingConfig,
            {"rois_per_image": 2},
            r"sampling\.foreground_fraction = 0\.25 of sampling\.rois_per_image = 2 rounds to no foreground: give 0\.5 "
            r"or above, or 0",
        ),
        (SamplingConfig, {"foreground_iou": NAN}, r"sampling\.foreground_iou must be in 0 \.\.\. 1, not nan"),
        (SamplingConfig, {"background_iou": (0.5, 0.1)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (SamplingConfig, {"background_iou": (0.5, 0.5)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (
            SamplingConfig,
            {"foreground_iou": 0.4},
            r"background_iou \(0\.1, 0\.5\) must end at sampling\.foreground_iou = 0\.4 or below, as no RoI is both",
        ),
        (SamplingConfig, {"background_iou": (0.1, NAN)}, r"sampling\.background_iou must be a range within 0 \.\.\. 1"),
        (
            SamplingConfig,
            {"foreground_balance": "classes"},
            r"sampling\.foreground_balance must be one of none, class, object, not 'classes'",
        ),
        (ModelConfig, {"dropout": 1.0}, r"model\.dropout must be in 0 \.\.\. 1, below 1, not 1\.0"),
        (ModelConfig, {"dtype": "float16"}, r"model\.dtype must be one of float32, bfloat16, not 'float16'"),
        (ModelConfig, {"fc6_rank": 0}, r"model\.fc6_rank must be at least 1, not 0"),
        (LossConfig, {"classification": "hinge"}, r'loss\.classification must be cross_entropy, focal or "module:fun'),
        (LossConfig, {"localization": "focal"}, r"loss\.localization must be smooth_l1, giou or .*, not 'focal'"),
        (LossConfig, {"localization": "a b:c"}, r"loss\.localization must be .*, not 'a b:c'"),
        (TrainConfig, {"seed": -1}, r"train\.seed must be at least 0, not -1"),
        (TrainConfig, {"steps": 2.5}, r"train\.steps must be int or None, not 2\.5"),
        (TrainConfig, {"epochs": 0}, r"train\.epochs must be above 0, not 0"),
        (TrainConfig, {"epochs": -1.0}, r"train\.epochs must be at least 0, not -1\.0"),
        (TrainConfig, {"epochs": "20"}, r"train\.epochs must be float or None, not '20'"),
        (TrainConfig, {"evaluate_every": 0.0}, r"train\.evaluate_every must be above 0, not 0"),
        (
            TrainConfig,
            {"evaluate_every": 2.5},
            r"train\.evaluate_every must be whole steps, or a share below 1, not 2\.5",
        ),
        (TrainConfig, {"evaluate_every": 5, "patience": 0}, r"train\.patience must be at least 1, not 0"),
        (TrainConfig, {"patience": 3}, r"train\.patience = 3 counts measurements: set train\.evaluate_every too"),
        (DataConfig, {"validation": ""}, r"data\.validation must not be empty"),
        (OptimizerConfig, {"warmup": 2.5}, r"optimizer\.warmup must be whole steps, or a share below 1, not 2\.5"),
        (
            OptimizerConfig,
            {"drops": (0.5, 40)},
            r"optimizer\.drops must be steps .*, or shares below 1, not \(0\.5, 40\)",
        ),
        (OptimizerConfig, {"drops": (40.5,)}, r"optimizer\.drops must be steps of at least 1, or shares"),
        (EvalConfig, {"per_class": 0}, r"evaluate\.per_class must be at least 1, not 0"),
        (EvalConfig, {"per_class": True}, r"evaluate\.per_class must be int, not True"),
        (EvalConfig, {"score_threshold": NAN}, r"evaluate\.score_threshold must be in 0 \.\.\. 1, not nan"),
        (EvalConfig, {"nms_iou": 30.0}, r"evaluate\.nms_iou must be in 0 \.\.\. 1, not 30\.0"),
        (EvalConfig, {"picture_score": -0.5}, r"evaluate\.picture_score must be in 0 \.\.\. 1, not -0\.5"),
        (Config, {"plugins": ("my-trunks",)}, r"plugins must be names of modules, .*, not 'my-trunks'"),
        (Config, {"plugins": ("trunks.py/",)}, r"plugins must be names of modules, .*, not 'trunks\.py/'"),
        (Config, {"model": {"name": "tiny"}}, r"config\.model must be ModelConfig, not \{'name': 'tiny'\}"),
        (OptimizerConfig, {"momentum": 1.0}, r"optimizer\.momentum must be below 1, not 1\.0"),
        (OptimizerConfig, {"drops": (0, 40)}, r"optimizer\.drops must be steps of at least 1, .*, not \(0, 40\)"),
        (ParameterRule, {"pattern": "a", "learning_rate": -1.0}, r"optimizer\.rules\.learning_rate must be at least 0"),
        (LossConfig, {"localization_weight": -1.0}, r"loss\.localization_weight must be at least 0, not -1\.0"),
        (OptimizerConfig, {"learning_rate": float("nan")}, r"optimizer\.learning_rate must be at least 0, not nan"),
        (OptimizerConfig, {"clip_norm": -1.0}, r"optimizer\.clip_norm must be at least 0, not -1\.0"),
        (OptimizerConfig, {"clip_norm": 0.0}, r"optimizer\.clip_norm must be above 0, not 0, .*: None sets no bound"),
        (OptimizerConfig, {"drops": (INF,)}, r"optimizer\.drops must be steps of at least 1, .*, not \(inf,\)"),
        (
            OptimizerConfig,
            {"drops": (2**31,)},
            r"optimizer\.drops must be steps of at most 2147483647, not \(2147483648,",
        ),
        (OptimizerConfig, {"warmup": 2**31}, r"optimizer\.warmup must be at most 2147483647, not 2147483648"),
        (TrainConfig, {"steps": 2**31}, r"train\.steps must be at most 2147483647, not 2147483648"),
        (TrainConfig, {"seed": 2**63}, r"train\.seed must be at most 9223372036854775807, not 9223372036854775808"),
        (TrainConfig, {"seed": 2**32}, r"train\.seed must be at most 4294967295, not 4294967296"),
        (OptimizerConfig, {"learning_rate": 1e39}, r"optimizer\.learning_rate must be at most 3\.4e\+38, not 1e\+39"),
        (DataConfig, {"train": ("folder/a", "folder/b", "folder/a")}, r"data\.train names folder/a more than once"),
        (ProposalConfig, {"max_count": 10**400}, r"proposals\.max_count must be at most 9223372036854775807, not 10"),
        (InputConfig, {"read_timeout": 1e10}, r"input\.read_timeout must be at most 1000000000, not 10000000000\.0"),
        (DistributedConfig, {"heartbeat": 10**10}, r"distributed\.heartbeat must be at most 1000000000, not 10"),
        (DistributedConfig, {"start_timeout": 10**10}, r"distributed\.start_timeout must be at most 1000000000, not"),
        (
            OptimizerConfig,
            {"learning_rate": Fraction(10**400)},
            r"optimizer\.learning_rate must be finite, not inf",
        ),
        (OptimizerConfig, {"drops": (80, 40)}, r"optimizer\.drops must be steps in ascending order.*\(80, 40\)"),
        (OptimizerConfig, {"drops": (40, 40)}, r"optimizer\.drops must be"),
        (ParameterRule, {"pattern": "conv("}, r"optimizer\.rules: 'conv\(' is not a regular expression: missing \)"),
    ],
)
def test_values_out_of_range(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "my_losses:hinge", "my.losses:hinge"])
def test_names_of_losses(name):
    assert LossConfig(classification=name).classification == name


def test_the_known_losses_are_those_that_exist():
    from frcnn_jax.training.losses import create_loss

    for classification in CLASSIFICATION_LOSSES:
        for localization in LOCALIZATION_LOSSES:
            assert create_loss(LossConfig(classification, localization))
