"""The metadata of weights as JSON: everything in a file besides its arrays."""

import dataclasses
import json
from typing import Any

import numpy as np

from frcnn_jax import config as settings
from frcnn_jax.config import Config, EvalConfig, InputConfig, ModelConfig
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.types import BoxStatistics

FORMAT = 2
_BEFORE_CONFIG = 1  # the format with copies of some settings instead of the config


@dataclasses.dataclass(frozen=True, eq=False)
class WeightsMetadata:
    """Everything besides the parameters that is needed to detect as the original run does."""

    classes: tuple[str, ...]  # labels 1 ... K
    pixels: PixelNormalization
    statistics: BoxStatistics  # NumPy float32; of the normalised deltas
    step: int  # of the training run
    config: Config  # of the run; from format 1 only model and test settings, the rest are defaults
    orientation: str = "apply"  # or "ignore": images are turned by their EXIF orientation or not

    @property
    def num_classes(self) -> int:
        """Classes including background."""
        return len(self.classes) + 1


@dataclasses.dataclass(frozen=True)
class NetworkMetadata:
    """Metadata of weights converted from another framework: an ImageNet network, or a detector without class names."""

    model: str  # name for `create_model`
    pixels: PixelNormalization
    num_classes: int | None  # background included; None: without `cls_score` and `bbox_pred`
    source: str  # name of the original file
    fc6_rank: int | None = None  # of a compressed layer
    fc7_rank: int | None = None
    drawn: tuple[str, ...] = ()  # missing parameters besides `cls_score` and `bbox_pred`


def to_json(metadata: WeightsMetadata | NetworkMetadata, **more: Any) -> str:
    """JSON text that `from_json` reads back exactly; `more` is added to it.

    For programs without this package, a detector's metadata has "model", "classes", "pixels", "box_statistics" (mean
    and std, [K1, 4] each), "test" with "scale" and "max_size" (of an image pyramid the scale nearest to
    `input.test_scale`), "orientation" ("apply": images are turned by their EXIF orientation, or "ignore") and "step";
    "config" has all settings.
    """
    if isinstance(metadata, NetworkMetadata):
        return json.dumps({"format": FORMAT, "network": dataclasses.asdict(metadata), **more}, indent=1)
    config, statistics = metadata.config, metadata.statistics
    described = {
        "format": FORMAT,
        "model": config.model.name,
        "classes": list(metadata.classes),
        "pixels": dataclasses.asdict(metadata.pixels),
        "box_statistics": {
            "mean": np.asarray(statistics.mean, np.float32).tolist(),
            "std": np.asarray(statistics.std, np.float32).tolist(),
        },
        "test": {"scale": config.input.single_test_scale, "max_size": config.input.test_max_size},
        "orientation": metadata.orientation,
        "step": metadata.step,
        "config": json.loads(settings.to_json(config)),
        **more,
    }
    return json.dumps(described, indent=1)


def from_json(text: str | bytes | None) -> WeightsMetadata | NetworkMetadata:
    """The metadata written by `to_json`, of this format or of format 1.

    Raises:
        ValueError: it is missing, not JSON or of another format, or a field is missing or wrong.
    """
    if text is None:
        raise ValueError("it holds no metadata of frcnn_jax")
    try:
        described = json.loads(text)
        version = described["format"]
        if version not in (_BEFORE_CONFIG, FORMAT):
            raise ValueError(f"its format is {version}, this version of frcnn_jax reads {_BEFORE_CONFIG} and {FORMAT}")
        if "network" in described:
            network = described["network"]
            drawn = tuple(network.get("drawn", ()))
            return NetworkMetadata(**network | {"pixels": _pixels(network["pixels"]), "drawn": drawn})
        statistics = described["box_statistics"]
        config = (
            _tested_as(described) if version == _BEFORE_CONFIG else settings.from_json(json.dumps(described["config"]))
        )
        metadata = WeightsMetadata(
            classes=tuple(described["classes"]),
            pixels=_pixels(described["pixels"]),
            statistics=BoxStatistics(
                mean=np.array(statistics["mean"], np.float32), std=np.array(statistics["std"], np.float32)
            ),
            step=described["step"],
            config=config,
            orientation=described.get("orientation", config.data.default_orientation),
        )
    except RecursionError:
        raise ValueError("its metadata is not JSON that a program writes: lists in lists without end") from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its metadata is incomplete: {error}") from error
    _check_statistics(metadata)
    return metadata


def _tested_as(described: dict[str, Any]) -> Config:
    """A config with the settings that are copied in format 1."""
    test = described["test"]
    return Config(
        model=ModelConfig(
            name=described["model"],
            dtype=test["dtype"],
            fc6_rank=described.get("fc6_rank"),
            fc7_rank=described.get("fc7_rank"),
        ),
        input=InputConfig(
            test_scale=test["scale"], test_max_size=test["max_size"], test_scales=tuple(test.get("scales", ()))
        ),
        evaluate=EvalConfig(
            nms_iou=test["nms_iou"],
            score_threshold=test["score_threshold"],
            per_class=test["per_class"],
            box_regression=test.get("box_regression", True),
        ),
    )


def _check_statistics(metadata: WeightsMetadata) -> None:
    shape = (metadata.num_classes, 4)
    mean, std = metadata.statistics.mean, metadata.statistics.std
    if mean.shape != shape or std.shape != shape:
        raise ValueError(f"its box statistics are {list(mean.shape)} and {list(std.shape)}, not {list(shape)}")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("its box statistics are not finite, or a deviation is not positive")


def _pixels(described: dict[str, Any]) -> PixelNormalization:
    return PixelNormalization(tuple(described["mean"]), tuple(described["std"]), described["order"])
