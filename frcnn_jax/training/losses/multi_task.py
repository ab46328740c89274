"""The parts of the loss as one checked record."""

import dataclasses
from typing import Any

from frcnn_jax.ops import losses
from frcnn_jax.ops.arguments import check_weight


@dataclasses.dataclass(frozen=True)
class MultiTaskLoss:
    """The parts of the loss: functions with the same signatures as those in `ops.losses`.

    Raises:
        TypeError: a loss is not a function, but for example a name, or the weight is not a number.
        ValueError: the weight is infinite, NaN or below 0.
    """

    classification: losses.ClassificationLoss = losses.cross_entropy
    localization: losses.LocalizationLoss = losses.smooth_l1_localization
    localization_weight: float = 1.0

    def __post_init__(self):
        losses.check_function("classification", self.classification)
        losses.check_function("localization", self.localization)
        check_weight("MultiTaskLoss", "localization_weight", self.localization_weight)


def check_loss(loss: Any) -> None:
    """Raises TypeError if a loss is neither None nor a `MultiTaskLoss`, for example a name or one function."""
    if loss is not None and not isinstance(loss, MultiTaskLoss):
        given = repr(loss) if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        raise TypeError(
            "loss must be a frcnn_jax.MultiTaskLoss, as MultiTaskLoss(classification=frcnn_jax.focal) or with "
            f"functions of your own, not {given}"
        )
