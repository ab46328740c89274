"""Settings of R-CNN and SPPnet: what must fail later is refused at once, by its name."""

import re

import pytest

from frcnn_jax.comparison.settings import FineTuningConfig, RegressionConfig, SvmConfig
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
