"""Settings: one frozen dataclass for each stage, put together in `Config`.

A file in `configs/` defines `get_config() -> Config`; the command line overrides any field by its path, as in
`--optimizer.learning_rate 0.01`. Defaults are the paper's for VOC 2007. Operations and models take plain arguments;
what is built on them reads these classes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

Action = Literal["error", "drop"]


def _at_least(settings: Any, section: str, **least: float) -> None:
    for name, bound in least.items():
        if not getattr(settings, name) >= bound:
            raise ValueError(f"{section}.{name} must be at least {bound}, not {getattr(settings, name)}")


@dataclasses.dataclass(frozen=True)
class FaultPolicy:
    """What to do about each kind of fault in a data set: stop with the full list, or drop and count.

    A fault of an object drops that object, a fault of an image drops the image, with all it contains."""

    missing_image: Action = "error"
    unreadable_image: Action = "error"
    missing_annotation: Literal["error", "drop", "empty"] = "error"
    """`empty` takes the image as one without objects, for test sets whose annotations are not public."""
    unreadable_annotation: Action = "error"
    """Not XML, a DTD in it, or a field missing or not a number: of an object, or the image's size."""
    size_mismatch: Action = "error"
    """Width or height in the annotation differ from the image's."""
    duplicate_id: Action = "error"
    """An id twice in a list, of which `drop` drops the second, or of several image files, which drops the image."""
    unknown_class: Action = "error"
    degenerate_box: Action = "error"
    """Corners reversed or coinciding: xmax <= xmin or ymax <= ymin."""
    box_outside: Literal["error", "drop", "clip"] = "error"
    """A box that reaches over the image's border. `clip` cuts it there; where nothing is left it is degenerate."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images to train and test on."""

    train: tuple[str, ...] = ("voc/2007/trainval",)
    """Data sets to train on, each as voc/2007/SPLIT, voc/2012/SPLIT or folder/SPLIT."""
    test: str = "voc/2007/test"
    """Data set to evaluate on."""
    root: str | None = None
    """Folder in VOC format (JPEGImages, Annotations, ImageSets/Main) that `folder` stands for."""
    tfds_dir: str | None = None
    """Where prepared data sets and their proposals are kept; TFDS's own default if not set."""
    classes: tuple[str, ...] | None = None
    """Class names of a folder in order of their labels; found in its annotations if not set."""
    faults: FaultPolicy = dataclasses.field(default_factory=FaultPolicy)


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Where region proposals come from."""

    method: Literal["selective_search_fast", "selective_search_quality", "file"] = "selective_search_quality"
    train_files: tuple[str, ...] = ()
    """With method `file`: a .mat or .npz file for each entry of `data.train`."""
    test_file: str | None = None
    """With method `file`: the file for `data.test`."""
    max_side: int = 500
    """Selective Search runs on the image reduced until its longer side is at most this; 0 keeps its size."""
    segment_scale: int = 150
    """The k of the graph segmentation that Selective Search starts from, in steps of itself: fast uses k, 2k and 3k,
    quality k to 5k. Smaller finds smaller and fainter objects, with more boxes; the time is hardly affected."""
    max_count: int = 2000
    """Proposals kept of an image: the first, as the best come first; of a file sorted by position, every n-th."""
    min_side: float = 16.0
    """Proposals with a side below this many pixels of the original image are left out, those of a file too."""
    invalid: Literal["error", "drop", "clip"] = "error"
    """What to do with boxes of a file that are not finite, reversed, empty or outside the image. `clip` moves
    corners into the image and drops what is empty then."""
    workers: int = 0
    """Images searched at a time; 0 means one for each core."""


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How images are scaled, padded and batched."""

    batch_size: int = 2
    """Images in a step, over all devices."""
    scales: tuple[int, ...] = (600,)
    """Length of the shorter side; with several, one is drawn for each image."""
    max_size: int = 1000
    """The longer side stays within this."""
    test_scale: int = 600
    test_max_size: int = 1000
    test_scales: tuple[int, ...] = ()
    """Test on an image pyramid of these in place of `test_scale`, each proposal at the scale where its area is closest
    to 224 x 224; the paper's are 480, 576, 688, 864 and 1200 with `test_max_size` 2000."""
    test_batch_size: int = 1
    buckets: tuple[tuple[int, int], ...] = ()
    """Padded (height, width) of a batch; an image goes to the smallest one that holds it. Compiled once each.
    Where empty, they follow from the scales: landscape and portrait, 4:3, 3:2 and as long as allowed."""
    flip: bool = True
    """Flip images left to right with probability 0.5."""
    flip_vertical: bool = False
    """Also flip top to bottom with probability 0.5, for images that have no up."""
    max_objects: int = 64
    """Room for ground-truth boxes; an image with more is an error that says so."""
    workers: int = 4
    """Threads that decode and resize images ahead of the step; 0 does so in the main thread."""
    cache_decoded: bool = False
    """Keep decoded training images in memory: 3 bytes a pixel of the files, about 2.7 GB for VOC 2007. An error
    where the machine has less memory than that."""

    def __post_init__(self):
        _at_least(self, "input", batch_size=1, test_batch_size=1, max_size=1, test_scale=1, test_max_size=1, workers=0)
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"input.scales must be lengths of at least 1, not {self.scales}")
        if min(self.test_scales, default=1) < 1:
            raise ValueError(f"input.test_scales must be lengths of at least 1, not {self.test_scales}")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How RoIs are drawn from an image (section 2.3)."""

    rois_per_image: int = 64
    foreground_fraction: float = 0.25
    foreground_iou: float = 0.5
    background_iou: tuple[float, float] = (0.1, 0.5)
    """Half-open range of the largest IoU of a background RoI."""
    use_difficult: bool = True
    """Train on objects marked difficult, as the original does."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The multi-task loss (equations 1 to 3)."""

    classification: Literal["cross_entropy", "focal"] = "cross_entropy"
    localization: Literal["smooth_l1", "giou"] = "smooth_l1"
    localization_weight: float = 1.0
    """The paper's lambda; 0 trains the classifier alone (section 5.1)."""

    def __post_init__(self):
        _at_least(self, "loss", localization_weight=0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: Literal["caffenet", "vgg_cnn_m_1024", "vgg16", "tiny"] = "vgg16"
    weights: str | None = None
    """Weights to start from: .caffemodel, torchvision's vgg16 as .pth or .safetensors, an exported file, a folder of
    scripts/convert_weights.py, or the workdir of a run; random if not set."""
    new_heads: bool = False
    """Draw new `cls_score` and `bbox_pred` instead of those in `weights`, as for other classes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters are float32."""
    dropout: float = 0.5
    fc6_rank: int | None = None
    """Make two layers of fc6, for weights that scripts/compress.py truncated to this rank (section 3.1)."""
    fc7_rank: int | None = None
    roi_pooling: Literal["xla", "pallas"] = "xla"
    """How RoIs are pooled on a GPU: by XLA's operations or by kernels; elsewhere always the former."""


@dataclasses.dataclass(frozen=True)
class ParameterRule:
    """How the parameters whose path matches a regular expression are trained."""

    pattern: str
    """Searched in the whole path, as in `backbone/conv1_1/kernel`; the first rule that matches counts."""
    learning_rate: float | None = 1.0
    """Multiplies the learning rate; None freezes."""
    weight_decay: float = 1.0
    """Multiplies the weight decay."""

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"optimizer.rules: {self.pattern!r} is no regular expression: {error}") from error


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum in Caffe's form, and its schedule."""

    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine"] = "step"
    drops: tuple[int, ...] = (30_000,)
    """Steps at which the rate is multiplied by `drop_factor` (schedule `step`)."""
    drop_factor: float = 0.1
    warmup: int = 0
    """Steps over which the rate grows from zero."""
    clip_norm: float | None = None
    """Bound on the norm of the whole gradient."""
    rules: tuple[ParameterRule, ...] = (
        ParameterRule(r"^backbone/conv[12]_", None),
        ParameterRule(r"/bias$", 2.0, 0.0),
        ParameterRule(r"/kernel$"),
    )
    """Together they must match every parameter. The default is the paper's for VGG16: conv3_1 and up are learned
    (section 4.5), biases at twice the rate and, as in the published model definitions, without decay."""

    def __post_init__(self):
        _at_least(self, "optimizer", learning_rate=0, momentum=0, weight_decay=0, drop_factor=0, warmup=0)
        if self.clip_norm is not None:
            _at_least(self, "optimizer", clip_norm=0)
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"optimizer.drops must be steps in ascending order, each once, not {self.drops}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = 40_000
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self):
        _at_least(self, "train", steps=1, log_every=1, checkpoint_every=1, keep_checkpoints=1)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """From scores and offsets to detections, and their measure."""

    nms_iou: float = 0.3
    score_threshold: float = 0.05
    """Detections at or below it are left out. The paper has no such bound, and neither do its configs: 0."""
    per_class: int = 100
    """Boxes of a class that enter non-maximum suppression (the best by score), in one image. The paper's number;
    where an image holds tens of objects of a class, it takes several hundred to find them all."""
    box_regression: bool = True
    """Move each proposal by its class's offsets; without, the proposals themselves are what is detected, as where the
    paper measures what box regression gains (table 6)."""
    metric: Literal["voc07", "voc10"] = "voc07"
    """voc07: mean of the precision at 11 recalls; voc10: area under the precision envelope."""
    pictures: int = 16
    """Images of the test set drawn with their detections."""
    picture_score: float = 0.5
    """Detections below this score are not drawn."""

    def __post_init__(self):
        _at_least(self, "evaluate", per_class=1, pictures=0, nms_iou=0)


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


def load_config(path: str | Path) -> Config:
    """The `Config` that the Python file at `path` returns from `get_config()`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no `get_config`, or that returns something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no config file {path}")
    if path.suffix != ".py":
        raise ValueError(f"{path}: a config is a .py file with get_config()")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config = module.get_config() if hasattr(module, "get_config") else None
    except TypeError as error:  # a misspelt setting
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a frcnn_jax Config")
    return config


def override(config: Config, arguments: Sequence[str], program: str | None = None) -> Config:
    """`config` with command-line settings such as `--train.steps 100` applied.

    An unknown name or a value of the wrong type ends the program with a message that names the nearest setting.
    """
    import tyro

    return tyro.cli(Config, default=config, args=list(arguments), prog=program)


def to_json(config: Config) -> str:
    """`config` as JSON text that `from_json` reads back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The `Config` written by `to_json`.

    Raises:
        ValueError: the text is no JSON, or a field is not known to this version.
    """
    return _decode(Config, json.loads(text), "config")


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, as in {"train.steps": 40000, ...}; a tuple, also one of rules, is one value."""
    return dict(_flatten(config, ""))


def changed_settings(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ by their dotted names: value before, value now."""
    old, new = flat_settings(before), flat_settings(now)
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


def _flatten(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flatten(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """JSON back to the annotated type: lists to tuples, objects to dataclasses."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: settings by name are wanted, not {json.dumps(value)[:40]}")
        fields = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(fields))
        if unknown:
            raise ValueError(f"{where}: unknown settings {', '.join(unknown)}")
        return kind(**{name: _decode(fields[name], item, f"{where}.{name}") for name, item in value.items()})
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (types.UnionType, typing.Union) and value is not None:
        return _decode(next(k for k in arguments if k is not type(None)), value, where)
    return value
