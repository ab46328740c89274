"""The settings of detection as one checked record, static in compiled functions."""

import dataclasses
from typing import Any

import jax
import numpy as np

from frcnn_jax.config import EvalConfig
from frcnn_jax.detection.selection import check_settings
from frcnn_jax.ops.arguments import is_traced, is_whole

__all__ = ["DetectionSettings", "detection_settings"]


@dataclasses.dataclass(frozen=True)
class DetectionSettings:
    """The settings of `detect` and `detect_batch`, which describe them; arrays of one value become Python numbers.

    Raises:
        TypeError: a value is traced.
        ValueError: as `select_detections`, `second_pass` is not a whole number of at least 0, or `box_regression` or
            `flip` is not a bool.
    """

    nms_iou: float = 0.3
    score_threshold: float = 0.05
    per_class: int = 100
    box_regression: bool = True
    box_voting: float | None = None
    second_pass: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            if is_traced(value):
                raise TypeError(
                    f"{name} must be a Python number, not a traced one: name it in static_argnames of jax.jit, or bind "
                    "it by functools.partial before"
                )
            if isinstance(value, jax.Array | np.ndarray | np.generic) and np.ndim(value) == 0:
                object.__setattr__(self, name, value.item())
        check_settings(self.nms_iou, self.score_threshold, self.per_class, self.box_voting)
        if not is_whole(self.second_pass) or self.second_pass < 0:
            raise ValueError(f"second_pass must be a whole number of at least 0, not {self.second_pass}")
        for name in ("box_regression", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)}")

    @property
    def views(self) -> tuple[bool, ...]:
        """The views of each image that are tested: True for the mirrored one."""
        return (False, True) if self.flip else (False,)

    @property
    def has_second_pass(self) -> bool:
        """True for a second pass, which needs box regression."""
        return self.second_pass > 0 and self.box_regression

    @property
    def selection(self) -> dict[str, Any]:
        """The settings of `select_detections` by name."""
        names = ("nms_iou", "score_threshold", "per_class", "box_regression", "box_voting")
        return {name: getattr(self, name) for name in names}


def detection_settings(config: EvalConfig) -> DetectionSettings:
    """The settings that a config names."""
    return DetectionSettings(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(DetectionSettings)}
    )
