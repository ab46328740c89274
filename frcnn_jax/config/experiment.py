"""All settings of an experiment, and those of its evaluation."""

import dataclasses
import keyword
import math
from fractions import Fraction
from typing import Literal

from frcnn_jax.config.checks import SettingError, at_least, in_range, kinds
from frcnn_jax.config.data import DataConfig, InputConfig, ProposalConfig
from frcnn_jax.config.distributed import DistributedConfig
from frcnn_jax.config.learning import LossConfig, ModelConfig, OptimizerConfig, SamplingConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Selection of detections from scores and offsets, and their evaluation."""

    nms_iou: float = 0.3
    score_threshold: float = 0.0
    """Detections at or below this score are dropped. The paper has no such bound: 0."""
    per_class: int = 100
    """Boxes per class and image that enter non-maximum suppression, the best by score. 100 is the paper's; images with
    tens of objects of a class need several hundred.
    """
    box_regression: bool = True
    """Move each proposal by the offsets of its class; without it, the proposals themselves are the detections, as in
    the paper's ablation of box regression (table 6).
    """
    box_voting: float | None = None
    """Replace each detection's box by the mean of its class's boxes that overlap it by at least this IoU, weighted by
    score (Gidaris and Komodakis, ICCV 2015); 0.5 is usual. The paper does not: none.
    """
    second_pass: int = 0
    """Boxes of an image, at most, that are pooled and classified again where box regression moved them, and join the
    proposals (Gidaris and Komodakis, ICCV 2015): the best ones of all classes, without near duplicates. The paper has
    one pass: 0. Needs one test scale.
    """
    metric: Literal["voc07", "voc10"] = "voc07"
    """voc07: mean of the precision at 11 recalls; voc10: area under the precision envelope."""
    coco: bool = False
    """COCO's measures too, by pycocotools: AP at IoU .50 to .95, of small, medium and large objects, and AR."""
    pictures: int = 200
    """Images of the test set drawn with their detections: the best, the worst, and some spread over the set."""
    picture_score: float = 0.5
    """Detections below this score are not drawn."""
    flip: bool = False
    """Test each image mirrored left to right too, and take the mean of both views' class probabilities and box offsets;
    a test takes twice the time. The paper does not. Needs `input.flip`.
    """

    def __post_init__(self):
        kinds(self, "evaluate")
        at_least(self, "evaluate", per_class=1, second_pass=0, pictures=0)
        in_range(self, "evaluate", nms_iou=(0, 1), score_threshold=(0, 1), picture_score=(0, 1))
        if self.box_voting is not None:
            in_range(self, "evaluate", box_voting=(0, 1))


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of an experiment."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    proposals: ProposalConfig = dataclasses.field(default_factory=ProposalConfig)
    input: InputConfig = dataclasses.field(default_factory=InputConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    plugins: tuple[str, ...] = ()
    """Your own modules that register architectures, formats and so on; imported wherever the run is used."""

    def __post_init__(self):
        kinds(self, "config")
        if self.evaluate.second_pass and len(self.input.test_scales) > 1:
            raise SettingError(
                f"evaluate.second_pass = {self.evaluate.second_pass} needs one test scale, and input.test_scales has "
                f"{len(self.input.test_scales)}: give evaluate.second_pass = 0 with them, or one scale"
            )
        if self.evaluate.flip and not self.input.flip:
            raise SettingError(
                "evaluate.flip tests mirrored images, and with input.flip off none is trained on: give "
                "--evaluate.no-flip too"
            )
        for name in self.plugins:
            if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
                raise SettingError(f"plugins must be names of modules, as in my_trunks or my.trunks, not {name!r}")


def with_steps(config: Config, images: int) -> Config:
    """`config` with `train.steps` computed from its `train.epochs` and the number of training images. Without epochs it
    is returned unchanged.

    Raises:
        SettingError: `train.steps` is given too, and differs.
    """
    settings = config.train
    if settings.epochs is None:
        return config
    passes = Fraction(str(float(settings.epochs))) * images  # exact: 0.1 of 30 images are 3, without a rounding error
    steps = max(math.ceil(passes / config.input.batch_size), settings.min_steps, 1)
    if settings.steps not in (None, steps):
        raise SettingError(
            f"train.steps = {settings.steps} and train.epochs = {settings.epochs:g}, which come to {steps} steps for "
            f"{images} images: give one of the two"
        )
    return dataclasses.replace(config, train=dataclasses.replace(settings, steps=steps))
