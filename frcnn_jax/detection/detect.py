"""From images and boxes to detections (section 3): the whole network as one program, or stage by stage."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Real, UInt8

from frcnn_jax.detection.inputs import single_pyramid
from frcnn_jax.detection.mirror import Outputs, mirror_boxes, mirror_images
from frcnn_jax.detection.outputs import second_boxes, select, select_both, view_outputs
from frcnn_jax.detection.pyramid import ROIS_AT_A_TIME
from frcnn_jax.detection.selection import check_statistics
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.detection.stages import detect_pyramid
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.ops.arguments import is_traced
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.types import Batch, BoxStatistics, Detections

__all__ = ["detect", "detect_batch", "trim"]


def detect_batch(
    params: Any,
    statistics: BoxStatistics | None,
    batch: Batch,
    *,
    model: FastRCNN,
    nms_iou: float = 0.3,
    score_threshold: float = 0.05,
    per_class: int = 100,
    box_regression: bool = True,
    box_voting: float | None = None,
    second_pass: int = 0,
    flip: bool = False,
) -> Detections:
    """Detections in a batch of images, from pixels on, as one program: made for `jax.jit`, `jax.vmap` and export.

    The detections equal those of `detect` if `make_batch` got its `scale` and `max_size`; without a scale it keeps the
    size of an image. `detect` is faster, because near duplicates share RoIs there. Arrays of the same shapes share one
    compiled program.

    Args:
        params: as `init_params` and `load_weights` give them; or those of a `TrainState` or a `Detector`, whose offsets
            are normalised by its `statistics`: without these the boxes are wrong.
        statistics: box-target statistics the weights were trained with; None for weights that need none, as
            `load_weights` and `weights.folding.fold_statistics` return them.
        batch: N padded images with P proposals each, as `make_batch` returns them; ground truth is ignored.
        model: its `features`, `pool` and head are called on `images` [N, H, W, 3] and `proposals` [N, P, 4].
        nms_iou, score_threshold, per_class, box_regression, box_voting: see `select_detections`; Python values, not
            traced ones.
        second_pass: boxes of an image, at most, that go through RoI pooling and the head again where box regression
            moved them, and join the proposals (`second_pass.moved_boxes`); 0: none, as in the paper. None either
            without `box_regression`.
        flip: each image goes through the network mirrored left to right too, and class probabilities and box offsets
            are the means of both views (`mirror`); the paper does without.

    Returns:
        boxes [N, D, 4], scores [N, D], labels [N, D] and mask [N, D] with D = K * min(per_class, P + second_pass),
        class by class; only entries in `mask` are detections. `trim` extracts those of one image on the host.

    Raises:
        TypeError: a setting is traced.
        ValueError: a setting is out of range, or the statistics are of another number of classes.
    """
    settings = DetectionSettings(nms_iou, score_threshold, per_class, box_regression, box_voting, second_pass, flip)
    return _detect_batch(params, statistics, batch, model=model, settings=settings)


@partial(jax.jit, static_argnames=("model", "settings"))
def _detect_batch(
    params: Any, statistics: BoxStatistics | None, batch: Batch, *, model: FastRCNN, settings: DetectionSettings
) -> Detections:
    if statistics is None:
        statistics = identity_statistics(model.head.num_classes)
    check_statistics(statistics, model.head.num_classes)
    apply = partial(model.apply, {"params": params})
    views = settings.views
    images = [mirror_images(batch.images, batch.image_sizes) if mirrored else batch.images for mirrored in views]
    features = [apply(view, batch.image_sizes, method="features") for view in images]

    def outputs_of(rois: Array) -> Outputs:
        pooled = []
        for (of_view, sizes), mirrored in zip(features, views, strict=True):
            seen = mirror_boxes(rois, batch.original_sizes) if mirrored else rois
            pooled.append(apply(of_view, seen, batch.scales, sizes, method="pool"))
        return view_outputs(params, statistics, pooled, model=model)

    first = outputs_of(batch.proposals)
    if not settings.has_second_pass:
        return select(statistics, *first, batch, settings)
    boxes, found = second_boxes(statistics, *first, batch, settings)
    return select_both(statistics, first, outputs_of(boxes), boxes, found, batch, settings)


def trim(detections: Detections) -> Detections:
    """Detections of one image on the host: NumPy arrays without padding, best first.

    Raises:
        ValueError: they are those of a batch.
    """
    if np.ndim(detections.mask) != 1:
        raise ValueError(
            "trim takes the detections of one image, with boxes [D, 4], not "
            f"{list(np.shape(detections.boxes))}: take image i by jax.tree.map(lambda x: x[i], detections)"
        )
    fields = detections.boxes, detections.scores, detections.labels, detections.mask
    boxes, scores, labels, mask = map(np.asarray, fields)
    kept = np.flatnonzero(mask)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Detections(boxes=boxes[kept], scores=scores[kept], labels=labels[kept], mask=mask[kept])


def detect(
    model: FastRCNN,
    params: Any,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Real[np.ndarray, "P 4"],
    *,
    statistics: BoxStatistics | None = None,
    scale: int = 600,
    max_size: int = 1000,
    scales: Sequence[int] = (),
    nms_iou: float = 0.3,
    score_threshold: float = 0.05,
    per_class: int = 100,
    box_regression: bool = True,
    box_voting: float | None = None,
    second_pass: int = 0,
    flip: bool = False,
) -> Detections:
    """Detections in one image, given boxes that may contain objects.

    Args:
        params: as in `detect_batch`: those of a `TrainState` or a `Detector` need its `statistics`.
        image: 8-bit RGB of any size.
        boxes: half-open x1 y1 x2 y2 in the image's pixels, of any real dtype; may be empty. Boxes without an area
            inside the image are dropped.
        statistics: box-target statistics the weights were trained with; None for weights that need none, as
            `load_weights` returns them.
        scale, max_size: the image is resized so that its shorter side is `scale`, and its longer side at most
            `max_size`.
        scales: an image pyramid of several scales, instead of `scale`: each box is classified at the scale where its
            area is closest to 224 x 224, the first of equals (section 3).
        nms_iou, score_threshold, per_class, box_regression, box_voting: see `select_detections`. The mAP is measured
            with `score_threshold=0`, as detections below 0.05 count there too.
        second_pass, flip: see `detect_batch`; a second pass needs one scale.

    Returns:
        NumPy arrays sorted by score; labels are 1 ... K.

    Raises:
        TypeError: an argument is traced by `jax.jit`, `jax.vmap` or `jax.grad`; `detect_batch` can be.
        ValueError: the image is not uint8 [H, W, 3]; the boxes are not [P, 4], not finite or reversed, as x y w h
            often are; a scale is not a finite length of at least 1; `scales` is one number; a setting is out of range;
            or the statistics are of another number of classes.
    """
    if any(map(is_traced, jax.tree.leaves((params, image, boxes, statistics)))):
        raise TypeError(
            "detect prepares its image on the host and cannot be traced by jax.jit, jax.vmap or jax.grad: "
            "trace frcnn.detect_batch, which takes the padded arrays of frcnn.make_batch"
        )
    settings = DetectionSettings(nms_iou, score_threshold, per_class, box_regression, box_voting, second_pass, flip)
    if np.ndim(scales) != 1:
        raise ValueError(f"scales must be several lengths, as scales=(480, 688), not {scales!r}: give one as scale")
    if settings.has_second_pass and len(scales) > 1:
        raise ValueError(f"second_pass needs one scale, not {len(scales)}: give scale, or second_pass=0")
    if statistics is None:
        statistics = identity_statistics(model.head.num_classes)
    check_statistics(statistics, model.head.num_classes)
    pyramid = single_pyramid(
        image,
        boxes,
        scales=tuple(scales) or (scale,),
        max_size=max_size,
        spatial_scale=model.spatial_scale,
        flip=flip,
        shared=model.shares_rois,
    )
    found = detect_pyramid(params, statistics, pyramid, model=model, settings=settings, rois_at_a_time=ROIS_AT_A_TIME)
    return trim(jax.tree.map(lambda x: x[0], found))
