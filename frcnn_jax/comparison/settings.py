"""Settings of R-CNN and SPPnet. Data, proposals, model and seed come from Fast R-CNN's settings.

Defaults are the papers'. If the published code differs, the description names its value.
"""

import dataclasses
import math
from typing import Any, Literal

from frcnn_jax.config import OptimizerConfig, ParameterRule
from frcnn_jax.config.checks import MOST_STEPS, SettingError, at_least, at_most, in_range, kinds, lengths

__all__ = [
    "ComparisonConfig",
    "FineTuningConfig",
    "RcnnConfig",
    "RegressionConfig",
    "SelectionConfig",
    "SppnetConfig",
    "SvmConfig",
]


def _above_zero(settings: Any, section: str, *names: str) -> None:
    """Raises SettingError if a setting is 0; None is skipped."""
    for name in names:
        if getattr(settings, name) == 0:
            raise SettingError(f"{section}.{name} must be above 0, not {getattr(settings, name)}")


def _finite(settings: Any, section: str, *names: str) -> None:
    """Raises SettingError if a setting is infinite or not a number."""
    for name in names:
        if not math.isfinite(getattr(settings, name)):
            raise SettingError(f"{section}.{name} must be a finite number, not {getattr(settings, name)}")


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    """Fine-tuning with a softmax over the classes and background, on windows drawn from all images."""

    steps: int = 70_000
    foreground: int = 32
    """Windows of objects in a batch, drawn from the whole data set with replacement."""
    background: int = 96
    foreground_iou: float = 0.5
    background_iou: tuple[float, float] = (0.0, 0.5)
    """Half-open range of the highest IoU of a background window."""
    learning_rate: float = 0.001
    drops: tuple[int, ...] = (20_000, 40_000, 60_000)
    """Steps at which the rate is divided by ten."""
    momentum: float = 0.9
    weight_decay: float = 0.0005
    classifier_rate: float = 10.0
    """Multiplies the rate of the new classifier; its bias has twice that rate."""
    held_out: float = 0.0
    """Share of the training images held out for measurements, of four batches of their windows: fine-tuning ends when
    the loss has not fallen for `patience` measurements, and the parameters of the best one are used. 0: all steps are
    made, as in the paper.
    """
    measure_every: int = 50
    patience: int = 4
    least_steps: int = 300
    """With `held_out`, least number of steps of fine-tuning."""
    checkpoint_every: int = 500

    def __post_init__(self):
        kinds(self, "fine_tuning")
        at_least(self, "fine_tuning", steps=0, foreground=0, background=0, learning_rate=0, weight_decay=0)
        at_least(self, "fine_tuning", classifier_rate=0, measure_every=1, patience=1, least_steps=0)
        at_least(self, "fine_tuning", checkpoint_every=1)
        at_most(self, "fine_tuning", steps=MOST_STEPS)
        in_range(self, "fine_tuning", foreground_iou=(0, 1), momentum=(0, 1), held_out=(0, 0.9))
        low, high = self.background_iou
        if not 0 <= low < high <= self.foreground_iou:
            raise SettingError(
                f"fine_tuning.background_iou must be a range within 0 ... foreground_iou = {self.foreground_iou}, "
                f"not {self.background_iou}"
            )
        if not self.foreground + self.background:
            raise SettingError("fine_tuning.foreground and fine_tuning.background are both 0: a batch needs windows")
        try:
            self.optimizer()
        except SettingError as error:
            reason = str(error).replace("optimizer.", "fine_tuning.", 1).replace(", or shares below 1", "")
            raise SettingError(reason) from None

    @property
    def batch_size(self) -> int:
        """Windows in a batch."""
        return self.foreground + self.background

    def optimizer(self, rules: tuple[ParameterRule, ...] = ()) -> OptimizerConfig:
        """The optimizer's settings."""
        return OptimizerConfig(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            drops=self.drops,
            rules=rules,
        )


@dataclasses.dataclass(frozen=True)
class RcnnConfig:
    """R-CNN: the whole network on each window (Girshick et al., CVPR 2014)."""

    context: int = 16
    """Pixels of context around the box in the network's window, less than half of it."""
    windows_at_once: int = 32
    """Most windows that go through the network at once, for features and in fine-tuning, whose batches are divided into
    equal parts. Memory is in proportion; each part has dropout of its own, so that it is fixed during fine-tuning.
    """
    fine_tuning: FineTuningConfig = dataclasses.field(default_factory=FineTuningConfig)

    def __post_init__(self):
        kinds(self, "rcnn")
        at_least(self, "rcnn", context=0, windows_at_once=1)


@dataclasses.dataclass(frozen=True)
class SppnetConfig:
    """SPPnet: convolution once per image, spatial pyramid pooling of each proposal (He et al., ECCV 2014)."""

    scales: tuple[int, ...] = (480, 576, 688, 864, 1200)
    """Lengths of the shorter side; each proposal is pooled at one of them. The code has 874 for 864."""
    max_size: int = 2000
    """Limit of the longer side. Neither paper nor code has such a bound."""
    area: float = 224.0
    """Each proposal uses the scale at which its area is closest to the square of this side. The code has 208."""
    levels: tuple[int, ...] = (6, 3, 2, 1)
    """Bins along each side of the pyramid's levels."""
    cells: Literal["paper", "code"] = "paper"
    """Rule from corners to feature cells: the paper uses cells with their centre in the box, the code a few more."""
    origin: float = 0.0
    """Pixel of the resized image at the centre of the first cell: 0 if each layer pads half its kernel, as in the paper
    and in the code for VGG16; 21 in the code for ZF, which does not pad.
    """
    margin: float = 6.0
    """With `cells` code a box is enlarged by half a cell less this number of pixels; 6 for VGG16, 6.5 for ZF."""
    widths: tuple[int, int] | None = None
    """Widths of fc6 and fc7, which are drawn at random; None: the detector's, or 512 and 256 if its head has none."""
    fine_tuning: FineTuningConfig = dataclasses.field(
        default_factory=lambda: FineTuningConfig(
            steps=90_000, background_iou=(0.1, 0.5), drops=(30_000, 60_000), classifier_rate=1.0
        )
    )

    def __post_init__(self):
        kinds(self, "sppnet")
        at_least(self, "sppnet", max_size=1, area=1, margin=0)
        _finite(self, "sppnet", "origin")
        lengths(self, "sppnet", "scales", "levels")
        if self.widths is not None:
            lengths(self, "sppnet", "widths")


@dataclasses.dataclass(frozen=True)
class SvmConfig:
    """A linear SVM for each class, on the vector before the classifier."""

    solver: Literal["device", "host", "liblinear"] = "device"
    """All classes at once on the device, or on the processor beside it, as each example is a step of its own; or the
    originals' liblinear, one class after the other in float64. All reach the same objective."""
    c: float = 0.001
    bias_multiplier: float = 10.0
    positive_weight: float = 2.0
    negative_iou: float = 0.3
    """Windows with a lower IoU with the class are negatives; positives are the objects themselves."""
    feature_norm: float = 20.0
    """Mean norm of the scaled features."""
    join: float = -1.0001
    """Negatives above this score join."""
    leave: float = -1.2
    """Negatives below this score leave after each training; the Python code has -1.1."""
    retrain_at: int = 2000
    """A class is trained again when more new negatives than this have joined, and at the last image."""

    def __post_init__(self):
        kinds(self, "svm")
        at_least(self, "svm", c=0, bias_multiplier=0, positive_weight=0, feature_norm=0, retrain_at=0)
        in_range(self, "svm", negative_iou=(0, 1))
        _above_zero(self, "svm", "c", "bias_multiplier", "positive_weight", "feature_norm")
        _finite(self, "svm", "join", "leave")
        if self.join < self.leave:
            raise SettingError(
                f"svm.join must be at least svm.leave = {self.leave}, not {self.join}: negatives would leave at once"
            )


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    """Ridge regression from the last pooled features to box offsets, for each class."""

    enabled: bool = True
    ridge: float = 1000.0
    """SPPnet's code has 4000."""
    feature_norm: float | None = 20.0
    """Mean norm of the scaled features, which `ridge` is relative to; None: they are not scaled."""
    min_iou: float = 0.6
    """Regressors are fitted to windows above this IoU with their object; SPPnet's code has 0.5, inclusive."""
    inclusive: bool = False

    def __post_init__(self):
        kinds(self, "regression")
        at_least(self, "regression", ridge=0, feature_norm=0)
        _above_zero(self, "regression", "ridge", "feature_norm")
        in_range(self, "regression", min_iou=(0, 1))


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """From scores to detections."""

    per_class: int = 100
    """Most boxes per class and image that enter suppression."""
    average: int = 40
    """Most boxes per class and image on average over the test set: the threshold adapts."""
    nms_iou: float = 0.3

    def __post_init__(self):
        kinds(self, "selection")
        at_least(self, "selection", per_class=1, average=1)
        in_range(self, "selection", nms_iou=(0, 1))


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """All settings of R-CNN and SPPnet."""

    rcnn: RcnnConfig = dataclasses.field(default_factory=RcnnConfig)
    sppnet: SppnetConfig = dataclasses.field(default_factory=SppnetConfig)
    svm: SvmConfig = dataclasses.field(default_factory=SvmConfig)
    regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Type of features on disk."""
    share: float = 1.0
    """Share of the images and of the steps of fine-tuning to process, at least one of each. Below 1 the run only
    estimates the time of the whole.
    """

    def __post_init__(self):
        kinds(self, "comparison")
        if not 0 < self.share <= 1:
            raise SettingError(f"comparison.share must be above 0 and at most 1, not {self.share}")
