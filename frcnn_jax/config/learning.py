"""Settings of the network and its training."""

import dataclasses
import re
from fractions import Fraction
from typing import Literal

from frcnn_jax.config.checks import MOST_STEPS, SettingError, at_least, at_most, in_range, kinds
from frcnn_jax.config.paths import WeightsText

# Names of the losses in `frcnn_jax.ops.losses`, repeated here to check settings without importing JAX.
CLASSIFICATION_LOSSES = ("cross_entropy", "focal")
LOCALIZATION_LOSSES = ("smooth_l1", "giou")
_PAPERS_STEPS = 40_000


def in_steps(length: float, steps: int | None) -> int:
    """A length in whole steps; a number below 1 is a share of the training's `steps`.

    Raises:
        ValueError: it is a share, and `steps` is None (before images are counted for `train.epochs`).
    """
    if length == 0 or length >= 1:
        return int(length)
    if steps is None:
        raise ValueError(f"{length:g} is a share of the training, whose number of steps is needed")
    return max(round(Fraction(str(float(length))) * steps), 1)


def _is_length(length: float) -> bool:
    """True for a share below 1, or a whole number of steps."""
    return 0 <= length < 1 or length % 1 == 0  # inf % 1 is NaN


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "vgg16"
    """An architecture: caffenet, vgg_cnn_m_1024, vgg16 (the paper's S, M and L), tiny, efficientnet_lite0 to 2,
    resnet18, resnet50, or one that a plug-in registers."""
    weights: WeightsText | None = None
    """Weights to start from: imagenet (from an installed package, for efficientnet_lite0 to 2), a .caffemodel,
    torchvision's vgg16, resnet18 or resnet50 as .pth or .safetensors, Keras's VGG16 as .h5, an exported file, a folder
    written by `frcnn convert-weights`, or the workdir of a run; random if not set.
    """
    new_heads: bool = False
    """Draw new `cls_score` and `bbox_pred` instead of those in `weights`, for example for other classes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters are float32."""
    dropout: float = 0.5
    fc6_rank: int | None = None
    """Split fc6 into two layers, for weights that `frcnn compress` truncated to this rank (section 3.1)."""
    fc7_rank: int | None = None
    roi_pooling: Literal["auto", "xla", "pallas"] = "auto"
    """RoI pooling on a GPU: XLA operations, or Pallas kernels; always XLA on other devices. "auto" uses the kernels if
    JAX has them.
    """

    def __post_init__(self):
        kinds(self, "model")
        at_least(self, "model", fc6_rank=1, fc7_rank=1)
        if not self.name:
            raise SettingError("model.name must not be empty")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"model.dropout must be in 0 ... 1, below 1, not {self.dropout}")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Sampling of RoIs from an image (section 2.3)."""

    rois_per_image: int = 64
    foreground_fraction: float = 0.25
    """Largest share of foreground; the number of RoIs is rounded, a half to the even one."""
    foreground_iou: float = 0.5
    background_iou: tuple[float, float] = (0.1, 0.5)
    """Half-open range of a background RoI's largest IoU. The paper's leaves out RoIs that overlap no object; 0 instead
    of 0.1 admits them, which small data sets with few proposals need.
    """
    use_difficult: bool = True
    """Train on objects marked difficult, as the original does."""
    foreground_balance: Literal["none", "class", "object"] = "none"
    """Balance of the foreground: `class` draws equally from each class in the image, `object` from each object; `none`
    draws most from those with the most proposals.
    """

    def __post_init__(self):
        kinds(self, "sampling")
        at_least(self, "sampling", rois_per_image=1)
        in_range(self, "sampling", foreground_fraction=(0, 1), foreground_iou=(0, 1))
        if self.foreground_fraction and not round(self.rois_per_image * self.foreground_fraction):
            raise SettingError(
                f"sampling.foreground_fraction = {self.foreground_fraction} of sampling.rois_per_image = "
                f"{self.rois_per_image} rounds to no foreground: give {1 / self.rois_per_image:g} or above, or 0"
            )
        least, most = self.background_iou
        if not 0 <= least < most <= 1:
            raise SettingError(f"sampling.background_iou must be a range within 0 ... 1, not {self.background_iou}")
        if most > self.foreground_iou:
            raise SettingError(
                f"sampling.background_iou {self.background_iou} must end at sampling.foreground_iou = "
                f"{self.foreground_iou} or below, as no RoI is both"
            )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The multi-task loss (equations 1 to 3)."""

    classification: str = "cross_entropy"
    """cross_entropy, focal, or your own function as "module:function"."""
    localization: str = "smooth_l1"
    """smooth_l1, giou, or your own function as "module:function"."""
    localization_weight: float = 1.0
    """The paper's lambda; 0 trains only the classifier (section 5.1)."""

    def __post_init__(self):
        kinds(self, "loss")
        at_least(self, "loss", localization_weight=0)
        for part, known in (("classification", CLASSIFICATION_LOSSES), ("localization", LOCALIZATION_LOSSES)):
            name = getattr(self, part)
            if name not in known and not re.fullmatch(r"\w+(\.\w+)*:.+", name):
                raise SettingError(f'loss.{part} must be {", ".join(known)} or "module:function", not {name!r}')


@dataclasses.dataclass(frozen=True)
class ParameterRule:
    """Learning rate and decay of the parameters whose path matches a regular expression."""

    pattern: str
    """Searched in the whole path, as in `backbone/conv1_1/kernel`; the first rule that matches counts."""
    learning_rate: float | None = 1.0
    """Multiplies the learning rate; None freezes."""
    weight_decay: float = 1.0
    """Multiplies the weight decay."""

    def __post_init__(self):
        kinds(self, "optimizer.rules")
        at_least(self, "optimizer.rules", learning_rate=0, weight_decay=0)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SettingError(f"optimizer.rules: {self.pattern!r} is not a regular expression: {error}") from error


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum in Caffe's form, and its schedule."""

    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine"] = "step"
    drops: tuple[int | float, ...] = (30_000,)
    """Steps at which the rate is multiplied by `drop_factor` (schedule `step`); values below 1 are shares of the
    training.
    """
    drop_factor: float = 0.1
    warmup: int | float = 0
    """Steps over which the rate grows from zero; a value below 1 is a share of the training."""
    clip_norm: float | None = None
    """Bound on the norm of the gradient."""
    rules: tuple[ParameterRule, ...] = ()
    """Together they must match every parameter. If empty, the architecture's own rules apply. For VGG16 they are the
    paper's: conv3_1 and up are learned (section 4.5), biases at twice the rate and, as in the published model
    definitions, without decay.
    """

    def __post_init__(self):
        kinds(self, "optimizer")
        at_least(self, "optimizer", learning_rate=0, momentum=0, weight_decay=0, drop_factor=0, warmup=0, clip_norm=0)
        at_most(self, "optimizer", warmup=MOST_STEPS)
        if self.clip_norm == 0:
            raise SettingError(
                "optimizer.clip_norm must be above 0, not 0, as nothing would be learned: None sets no bound"
            )
        if self.momentum >= 1:
            raise SettingError(f"optimizer.momentum must be below 1, not {self.momentum}")
        if not _is_length(self.warmup):
            raise SettingError(f"optimizer.warmup must be whole steps, or a share below 1, not {self.warmup}")
        if not all(drop > 0 and _is_length(drop) for drop in self.drops) or len({drop < 1 for drop in self.drops}) > 1:
            raise SettingError(f"optimizer.drops must be steps of at least 1, or shares below 1, not {self.drops}")
        if list(self.drops) != sorted(set(self.drops)):
            raise SettingError(f"optimizer.drops must be steps in ascending order, each once, not {self.drops}")
        if self.drops and self.drops[-1] > MOST_STEPS:
            raise SettingError(f"optimizer.drops must be steps of at most {MOST_STEPS}, not {self.drops}")

    @property
    def follows_length(self) -> bool:
        """True if the rate at a step depends on the total number of steps."""
        if self.schedule == "cosine":
            return True
        return 0 < self.warmup < 1 or any(drop < 1 for drop in self.drops)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int | None = None
    """Length of the training; 40000 as in the paper if neither this nor `epochs` is set. With `epochs`, the run
    computes it.
    """
    epochs: float | None = None
    """Length of the training in passes over its images, instead of `steps`: ceil(epochs x images / batch size) steps.
    """
    min_steps: int = 0
    """Least number of steps for `epochs`, as small data sets need more passes. Dropped when another length is given."""
    evaluate_every: int | float | None = None
    """Steps between measurements of the mAP on `data.validation` while training; a value below 1 is a share of the
    training. The last step is measured too, and the best checkpoint is kept. If not set, nothing is measured.
    """
    patience: int | None = None
    """Measurements without a better mAP after which the training ends; if not set, it runs all its steps."""
    seed: int = 0
    log_every: int = 20
    pictures_every: int = 500
    """Steps between pictures in TensorBoard: RoIs that a step drew, and detections in two images, from the validation
    set if the run is measured. 0: none.
    """
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    @property
    def length_option(self) -> str:
        """The command-line option that makes the training longer."""
        return "--train.steps" if self.epochs is None else "--train.epochs"

    def __post_init__(self):
        kinds(self, "train")
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "steps", _PAPERS_STEPS)
        at_least(self, "train", steps=1, epochs=0, min_steps=0, evaluate_every=0, patience=1, seed=0, pictures_every=0)
        at_least(self, "train", log_every=1, checkpoint_every=1, keep_checkpoints=1)
        at_most(self, "train", steps=MOST_STEPS, seed=2**32 - 1)  # JAX takes larger seeds modulo 2^32
        if self.min_steps and self.epochs is None:
            raise SettingError(
                f"train.min_steps = {self.min_steps} is for a length in epochs: leave it out, or give train.epochs in "
                "place of train.steps"
            )
        for name in ("epochs", "evaluate_every"):
            if getattr(self, name) == 0:
                raise SettingError(f"train.{name} must be above 0, not 0")
        if self.evaluate_every is not None and not _is_length(self.evaluate_every):
            every = self.evaluate_every
            raise SettingError(f"train.evaluate_every must be whole steps, or a share below 1, not {every}")
        if self.patience is not None and self.evaluate_every is None:
            raise SettingError(f"train.patience = {self.patience} counts measurements: set train.evaluate_every too")
