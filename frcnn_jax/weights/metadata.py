"""What an exported file says about itself beside its arrays, as JSON."""

import dataclasses
import json
from typing import Any

import numpy as np

from frcnn_jax.config import Config
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.types import BoxStatistics

FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class WeightsMetadata:
    """All that is needed, beside the parameters, to detect as the run that they come from."""

    model: str  # name for `create_model`
    classes: tuple[str, ...]  # labels 1 ... K
    pixels: PixelNormalization
    statistics: BoxStatistics  # NumPy float32; what the deltas are in
    dtype: str  # of activations
    scale: int  # the image's shorter side, and the most its longer side may have, when tested
    max_size: int
    nms_iou: float
    score_threshold: float
    per_class: int
    step: int  # of the training run
    box_regression: bool = True
    scales: tuple[int, ...] = ()  # of an image pyramid, in place of `scale`
    fc6_rank: int | None = None  # of a compressed layer
    fc7_rank: int | None = None

    @property
    def num_classes(self) -> int:
        """Classes including background."""
        return len(self.classes) + 1


@dataclasses.dataclass(frozen=True)
class NetworkMetadata:
    """What goes with weights converted from another framework's: not yet, or not only ours, a detector."""

    model: str  # name for `create_model`
    pixels: PixelNormalization
    num_classes: int | None  # background included; None: without `cls_score` and `bbox_pred`
    source: str  # name of the file that they were converted from
    fc6_rank: int | None = None  # of a compressed layer
    fc7_rank: int | None = None


def from_config(
    config: Config, classes: tuple[str, ...], pixels: PixelNormalization, statistics: BoxStatistics, step: int
) -> WeightsMetadata:
    """The metadata of a run's weights."""
    return WeightsMetadata(
        model=config.model.name,
        classes=tuple(classes),
        pixels=pixels,
        statistics=BoxStatistics(
            mean=np.asarray(statistics.mean, np.float32), std=np.asarray(statistics.std, np.float32)
        ),
        dtype=config.model.dtype,
        scale=config.input.test_scale,
        max_size=config.input.test_max_size,
        nms_iou=config.evaluate.nms_iou,
        score_threshold=config.evaluate.score_threshold,
        per_class=config.evaluate.per_class,
        step=step,
        box_regression=config.evaluate.box_regression,
        scales=config.input.test_scales,
        fc6_rank=config.model.fc6_rank,
        fc7_rank=config.model.fc7_rank,
    )


def to_json(metadata: WeightsMetadata | NetworkMetadata, **more: Any) -> str:
    """JSON text that `from_json` reads back exactly; `more` is added to it."""
    if isinstance(metadata, NetworkMetadata):
        return json.dumps({"format": FORMAT, "network": dataclasses.asdict(metadata), **more}, indent=1)
    described = {
        "format": FORMAT,
        "model": metadata.model,
        "fc6_rank": metadata.fc6_rank,
        "fc7_rank": metadata.fc7_rank,
        "num_classes": metadata.num_classes,
        "classes": list(metadata.classes),
        "pixels": dataclasses.asdict(metadata.pixels),
        "box_statistics": {
            "mean": metadata.statistics.mean.tolist(),
            "std": metadata.statistics.std.tolist(),
        },
        "test": {
            "dtype": metadata.dtype,
            "scale": metadata.scale,
            "max_size": metadata.max_size,
            "nms_iou": metadata.nms_iou,
            "score_threshold": metadata.score_threshold,
            "per_class": metadata.per_class,
            "box_regression": metadata.box_regression,
            "scales": list(metadata.scales),
        },
        "step": metadata.step,
        **more,
    }
    return json.dumps(described, indent=1)


def from_json(text: str | bytes) -> WeightsMetadata | NetworkMetadata:
    """The metadata written by `to_json`.

    Raises:
        ValueError: it is not JSON, of another format version, or a field is missing or wrong.
    """
    try:
        described = json.loads(text)
        version = described["format"]
        if version != FORMAT:
            raise ValueError(f"its format is {version}, this version of frcnn_jax reads {FORMAT}")
        if "network" in described:
            network = described["network"]
            return NetworkMetadata(**network | {"pixels": _pixels(network["pixels"])})
        statistics = described["box_statistics"]
        metadata = WeightsMetadata(
            model=described["model"],
            classes=tuple(described["classes"]),
            pixels=_pixels(described["pixels"]),
            statistics=BoxStatistics(
                mean=np.array(statistics["mean"], np.float32), std=np.array(statistics["std"], np.float32)
            ),
            step=described["step"],
            fc6_rank=described.get("fc6_rank"),
            fc7_rank=described.get("fc7_rank"),
            **described["test"] | {"scales": tuple(described["test"].get("scales", ()))},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"its metadata is incomplete: {error}") from error
    shape = (metadata.num_classes, 4)
    mean, std = metadata.statistics.mean, metadata.statistics.std
    if mean.shape != shape or std.shape != shape:
        raise ValueError(f"its box statistics are {list(mean.shape)} and {list(std.shape)}, not {list(shape)}")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("its box statistics are not finite, or a deviation is not positive")
    return metadata


def _pixels(described: dict[str, Any]) -> PixelNormalization:
    return PixelNormalization(tuple(described["mean"]), tuple(described["std"]), described["order"])
