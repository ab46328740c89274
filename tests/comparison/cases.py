"""A small data set, network and settings that the tests of R-CNN and SPPnet share."""

import dataclasses
from functools import partial
from pathlib import Path

from frcnn_jax.comparison.settings import (
    ComparisonConfig,
    FineTuningConfig,
    RcnnConfig,
    RegressionConfig,
    SppnetConfig,
    SvmConfig,
)
from frcnn_jax.config import Config, replace
from frcnn_jax.models import architectures
from frcnn_jax.models.contract import WindowInput
from frcnn_jax.models.heads import HiddenLayers
from tests.training.runs import SMALL_TINY, run_config

SMALL = dataclasses.replace(SMALL_TINY, window=WindowInput(48, None, partial(HiddenLayers, widths=(32, 16))))
FINE_TUNING = FineTuningConfig(
    steps=6, foreground=4, background=8, drops=(4,), learning_rate=0.01, checkpoint_every=2, background_iou=(0.0, 0.5)
)


def shrink_tiny(setattr=setattr) -> None:
    """Makes `tiny` small enough to be compiled in a moment."""
    setattr(architectures, "ARCHITECTURES", {"tiny": SMALL})


def case(root: Path, **settings) -> tuple[Config, ComparisonConfig]:
    """Settings for a folder that `tests.training.runs.write_data` wrote; `settings` are of fine-tuning."""
    config = replace(run_config(root), model={"dropout": 0.3}, input={"workers": 0})
    fine_tuning = dataclasses.replace(FINE_TUNING, **settings)
    comparison = ComparisonConfig(
        rcnn=RcnnConfig(context=4, windows_at_once=8, fine_tuning=fine_tuning),
        sppnet=SppnetConfig(scales=(48, 64), widths=(32, 16), area=24, fine_tuning=fine_tuning),
        svm=SvmConfig(c=0.1),
        regression=RegressionConfig(ridge=10),
    )
    return config, comparison
