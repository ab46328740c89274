"""Settings of R-CNN and SPPnet: what must fail later is refused at once, by its name."""

import dataclasses
import re
import typing

import pytest

from frcnn_jax.commands.compare import Settings
from frcnn_jax.comparison.settings import FineTuningConfig, RegressionConfig, SvmConfig
from frcnn_jax.config import override
from frcnn_jax.config.checks import SettingError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FineTuningConfig, {"momentum": 1.0}, "fine_tuning.momentum must be below 1, not 1.0"),
        (
            FineTuningConfig,
            {"drops": (40, 20)},
            "fine_tuning.drops must be steps in ascending order, each once, not (40, 20)",
        ),
        (
            FineTuningConfig,
            {"drops": (0,)},
            "fine_tuning.drops must be steps of at least 1, not (0,)",
        ),
        (FineTuningConfig, {"steps": 2**31}, "fine_tuning.steps must be at most 2147483647, not 2147483648"),
        (SvmConfig, {"c": 0}, "svm.c must be above 0, not 0"),
        (SvmConfig, {"feature_norm": 0.0}, "svm.feature_norm must be above 0, not 0.0"),
        (RegressionConfig, {"feature_norm": 0}, "regression.feature_norm must be above 0, not 0"),
        (RegressionConfig, {"ridge": 0}, "regression.ridge must be above 0, not 0"),
        (SvmConfig, {"bias_multiplier": 0}, "svm.bias_multiplier must be above 0, not 0"),
        (SvmConfig, {"positive_weight": 0}, "svm.positive_weight must be above 0, not 0"),
        (SvmConfig, {"join": NAN}, "svm.join must be a finite number, not nan"),
        (SvmConfig, {"leave": -INF}, "svm.leave must be a finite number, not -inf"),
        (
            SvmConfig,
            {"join": -2.0, "leave": -1.0},
            "svm.join must be at least svm.leave = -1.0, not -2.0: negatives would leave at once",
        ),
    ],
)
def test_values_out_of_range(kind, settings, message):
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        kind(**settings)


def test_no_number_of_a_setting_may_be_nan():
    """Of all settings of a comparison, which are those of a training too."""
    checked = [_refused(section) for section in (Settings(), FineTuningConfig())]
    assert sum(checked) > 50


def _refused(settings):
    """Number of settings, of those below too, each of which was refused when it was NaN."""
    count, hints = 0, typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), str(hints[field.name])
        if dataclasses.is_dataclass(value):
            count += _refused(value)
        elif "float" in hint:
            length = len(value) if isinstance(value, tuple) else 2
            bad = (NAN,) * length if hint.startswith(("tuple", "types.UnionType[tuple")) else NAN
            with pytest.raises(SettingError, match=field.name):
                dataclasses.replace(settings, **{field.name: bad})
            count += 1
    return count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sppnet.fine-tuning.momentum 1", "comparison.sppnet.fine_tuning.momentum must be below 1, not 1.0"),
        (
            "rcnn.fine_tuning.momentum=1 --comparison.sppnet.fine-tuning.steps 9",
            "comparison.rcnn.fine_tuning.momentum must be below 1, not 1.0",
        ),
        (
            "sppnet.fine-tuning.foreground-iou 0.2",
            "comparison.sppnet.fine_tuning.background_iou must be a range within 0 ... foreground_iou = 0.2, "
            "not (0.1, 0.5)",
        ),
        ("svm.c 0", "comparison.svm.c must be above 0, not 0.0"),
        ("share 2", "comparison.share must be above 0 and at most 1, not 2.0"),
        ("share 1 --optimizer.momentum 1", "optimizer.momentum must be below 1, not 1.0"),
    ],
)
def test_messages_have_the_names_that_are_typed(arguments, message):
    with pytest.raises(SettingError, match=f"^{re.escape(message)}"):
        override(Settings(), f"--comparison.{arguments}".split(), "compare.py")
