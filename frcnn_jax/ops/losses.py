"""The multi-task loss (section 2.3, equations 1 to 3) from exchangeable functions.

K1 is K + 1: the classes and background. A classification loss maps logits [R, K1] and labels [R] to one value per RoI.
A localization loss maps the offsets predicted for each RoI's class, the RoIs, the ground-truth boxes and the box
statistics that normalise the offsets to one value per RoI. Only `multi_task_loss` masks and averages.
`CLASSIFICATION_LOSSES` and `LOCALIZATION_LOSSES` are the losses that settings can name.

Logits, boxes and offsets may have any real dtype: integers and half precision are computed in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from frcnn_jax.ops.boxes import decode_boxes, encode_boxes, paired_giou
from frcnn_jax.ops.precision import as_array, as_mask, widen
from frcnn_jax.ops.shapes import check_shapes
from frcnn_jax.types import BoxStatistics, RoiSample

ClassificationLoss = Callable[[Float[Array, "R K1"], Int[Array, " R"]], Float[Array, " R"]]
LocalizationLoss = Callable[
    [Float[Array, "R 4"], Float[Array, "R 4"], Float[Array, "R 4"], Float[Array, "R 4"], Float[Array, "R 4"]],
    Float[Array, " R"],
]
_OF_EACH_ROI = "deltas [R, 4], rois [R, 4], gt_boxes [R, 4], mean [R, 4], std [R, 4]"


def cross_entropy(logits: Float[Array, "R K1"], labels: Int[Array, " R"]) -> Float[Array, " R"]:
    """Log loss of the true class, -log p_u: at least 0; NaN for a label that is not 0 ... K."""
    logits, labels = widen(logits), as_array(labels)
    check_shapes("cross_entropy", "logits [R, K1], labels [R]", logits, labels)
    return -_log_probability(logits, labels)


def focal(logits: Float[Array, "R K1"], labels: Int[Array, " R"], *, gamma: float = 2.0) -> Float[Array, " R"]:
    """Focal loss over the softmax, -(1 - p_u)^gamma log p_u (Lin et al., ICCV 2017): at least 0; NaN for a label that
    is not 0 ... K.
    """
    logits, labels = widen(logits), as_array(labels)
    check_shapes("focal", "logits [R, K1], labels [R]", logits, labels)
    log_probability = _log_probability(logits, labels)
    # -expm1 keeps the precision of 1 - p near p = 1; the floor keeps the power's gradient finite at p = 1.
    rest = jnp.maximum(-jnp.expm1(log_probability), jnp.finfo(logits.dtype).tiny)
    return -(rest**gamma) * log_probability


def smooth_l1(errors: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """0.5 x^2 where |x| < 1, |x| - 0.5 elsewhere (equation 3), elementwise."""
    errors = widen(errors)
    size = jnp.abs(errors)
    # Large errors are replaced first: their square may be infinite, and its gradient times zero NaN.
    small = jnp.where(size < 1, errors, 0)
    return jnp.where(size < 1, 0.5 * small**2, size - 0.5)


def smooth_l1_localization(
    deltas: Real[Array, "R 4"],
    rois: Real[Array, "R 4"],
    gt_boxes: Real[Array, "R 4"],
    mean: Float[Array, "R 4"],
    std: Float[Array, "R 4"],
) -> Float[Array, " R"]:
    """Smooth L1 between offsets and normalised targets, summed over the four coordinates (equation 2).

    Args:
        deltas: predicted offsets in units of `std` around `mean`.
        rois: half-open boxes the offsets are relative to.
        gt_boxes: target boxes.
        mean, std: box-target statistics of each RoI's class.
    """
    check_shapes("smooth_l1_localization", _OF_EACH_ROI, deltas, rois, gt_boxes, mean, std)
    targets = (encode_boxes(rois, gt_boxes) - widen(mean)) / widen(std)
    return jnp.sum(smooth_l1(widen(deltas) - targets), axis=-1)


def giou_localization(
    deltas: Real[Array, "R 4"],
    rois: Real[Array, "R 4"],
    gt_boxes: Real[Array, "R 4"],
    mean: Float[Array, "R 4"],
    std: Float[Array, "R 4"],
) -> Float[Array, " R"]:
    """1 - GIoU of the decoded boxes with the ground truth, 0 ... 2; arguments as `smooth_l1_localization`.

    NaN where a decoded box is not finite.
    """
    check_shapes("giou_localization", _OF_EACH_ROI, deltas, rois, gt_boxes, mean, std)
    return 1 - paired_giou(decode_boxes(rois, widen(deltas) * widen(std) + widen(mean)), gt_boxes)


CLASSIFICATION_LOSSES: dict[str, ClassificationLoss] = {"cross_entropy": cross_entropy, "focal": focal}
LOCALIZATION_LOSSES: dict[str, LocalizationLoss] = {"smooth_l1": smooth_l1_localization, "giou": giou_localization}


def check_function(part: str, function: Any) -> None:
    """Raises TypeError if the "classification" or "localization" loss is not a function, but for example a name."""
    if not callable(function):
        table = {"classification": CLASSIFICATION_LOSSES, "localization": LOCALIZATION_LOSSES}[part]
        known = isinstance(function, str) and function in table
        example = table[function if known else next(iter(table))].__name__
        raise TypeError(f"the {part} loss must be a function, as frcnn_jax.{example}, not {function!r}")


def multi_task_loss(
    logits: Float[Array, "R K1"],
    deltas: Float[Array, "R K1 4"],
    rois: Real[Array, "R 4"] | RoiSample | None = None,
    labels: Int[Array, " R"] | BoxStatistics | None = None,
    gt_boxes: Real[Array, "R 4"] | None = None,
    mask: Bool[Array, " R"] | None = None,
    mean: Float[Array, "K1 4"] | None = None,
    std: Float[Array, "K1 4"] | None = None,
    *,
    sample: RoiSample | None = None,
    statistics: BoxStatistics | None = None,
    classification: ClassificationLoss = cross_entropy,
    localization: LocalizationLoss = smooth_l1_localization,
    localization_weight: float = 1.0,
    count: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """L = L_cls + localization_weight [u >= 1] L_loc over the RoIs of one or several images (equation 1).

    Both terms are divided by the number of RoIs that are real, not by the number of foreground RoIs: then each
    foreground RoI has the same weight, whatever their number, and a step with few of them is not dominated by them.

    Call it with records, `multi_task_loss(logits, deltas, sample, statistics)`, or with their fields,
    `multi_task_loss(logits, deltas, rois, labels, gt_boxes, mask, mean, std)`.

    Args:
        sample: the RoIs of one or several images: a leading axis of images must be flattened.
        statistics: box-target statistics by class, which normalise the deltas.
        rois, gt_boxes: half-open boxes in pixels; unused for background.
        labels: 0 ... K; background has no localization loss. Any other label makes the loss NaN, as traced arrays
            cannot be checked.
        mask: RoIs that count.
        mean, std: the fields of `statistics`.
        count: number of RoIs to divide by; that of `mask` if None. A data-parallel step passes the mean over devices.

    Returns:
        The loss and its parts {"classification", "localization"}, in float32 at least; all 0 without real RoIs.

    Raises:
        TypeError: neither both records nor all their fields are given, or a loss is not a function.
        ValueError: an argument, or the result of a loss, has another shape.
    """
    check_function("classification", classification)
    check_function("localization", localization)
    records = _records(rois if sample is None else sample, labels if statistics is None else statistics)
    if records is not None:
        twice = (sample is not None and rois is not None) or (statistics is not None and labels is not None)
        if twice or any(x is not None for x in (gt_boxes, mask, mean, std)):
            raise TypeError("multi_task_loss takes records or their fields, not both")
        rois, labels, gt_boxes, mask, mean, std = records
    if any(x is None for x in (rois, labels, gt_boxes, mask, mean, std)):
        raise TypeError("multi_task_loss needs a RoiSample and BoxStatistics, or all six of their fields")
    logits, deltas, labels, mask = as_array(logits), as_array(deltas), as_array(labels), as_mask(mask)
    rois, gt_boxes, mean, std = map(as_array, (rois, gt_boxes, mean, std))
    check_shapes(
        "multi_task_loss",
        "logits [R, K1], deltas [R, K1, 4], rois [R, 4], labels [R], gt_boxes [R, 4], mask [R], mean [K1, 4], "
        "std [K1, 4]",
        *(logits, deltas, rois, labels, gt_boxes, mask, mean, std),
    )
    r, k1 = logits.shape
    logits, deltas, rois, gt_boxes, mean, std = map(widen, (logits, deltas, rois, gt_boxes, mean, std))
    # Masked RoIs are replaced before they enter a function: a NaN gradient times zero would stay NaN.
    labels = jnp.where(mask, labels, 0)
    foreground = labels > 0
    safe_logits = jnp.where(mask[:, None], logits, 0)
    class_deltas = jnp.take_along_axis(deltas, labels[:, None, None], axis=1)[:, 0]
    safe_deltas = jnp.where(foreground[:, None], class_deltas, 0)
    unit = jnp.array([0, 0, 1, 1], rois.dtype)
    safe_rois = jnp.where(foreground[:, None], rois, unit)
    safe_boxes = jnp.where(foreground[:, None], gt_boxes, unit)
    by_class = classification(safe_logits, labels)
    by_box = localization(safe_deltas, safe_rois, safe_boxes, mean[labels], std[labels])
    for name, value in (("classification", by_class), ("localization", by_box)):
        # A mean, or [R, 1], would broadcast silently to another loss.
        if jnp.shape(value) != (r,):
            raise ValueError(f"the {name} loss must give one value for each RoI, [{r}], not {list(jnp.shape(value))}")
    if count is None:
        count = jnp.sum(mask).astype(logits.dtype)
    divisor = jnp.maximum(count, jnp.finfo(logits.dtype).tiny)
    known = (labels >= 0) & (labels.astype(jnp.int32) < k1)
    by_class = jnp.where(known, by_class, jnp.nan)
    parts = {
        "classification": jnp.sum(jnp.where(mask, by_class, 0)) / divisor,
        "localization": jnp.sum(jnp.where(foreground, by_box, 0)) / divisor,
    }
    return parts["classification"] + localization_weight * parts["localization"], parts


def _records(sample: Any, statistics: Any) -> tuple[Array, ...] | None:
    """The fields of a sample and its statistics, in order; None for arrays.

    Raises:
        TypeError: one is a record and the other is not.
    """
    given = isinstance(sample, RoiSample), isinstance(statistics, BoxStatistics)
    if not any(given):
        return None
    if not all(given):
        raise TypeError("multi_task_loss takes a RoiSample together with BoxStatistics")
    return sample.rois, sample.labels, sample.gt_boxes, sample.mask, statistics.mean, statistics.std


def _log_probability(logits: Array, labels: Array) -> Array:
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]  # NaN past the last class
    return jnp.where(labels >= 0, found, jnp.nan)  # a negative index counts from the last class
