"""Detection stage by stage: the trunk once per image, each distinct RoI once through the head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from frcnn_jax.detection.mirror import Outputs, mirror_boxes, mirror_images
from frcnn_jax.detection.outputs import second_boxes, select, select_both, view_outputs
from frcnn_jax.detection.pyramid import Pyramid
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.types import BoxStatistics, Detections


def detect_pyramid(
    params: Any, statistics: BoxStatistics, pyramid: Pyramid, *, model: FastRCNN, settings: DetectionSettings
) -> Detections:
    """Detections of each image of a pyramid; fields gain a leading N.

    The features of each level are computed once. Each RoI is pooled at its level and enters the head once. Each
    proposal's box is decoded with the offsets of its RoI. The trunk is compiled per image size, the rest per number of
    RoIs.

    Raises:
        ValueError: a second pass of several levels.
    """
    views = settings.views
    last = [None for _ in views]  # features of the last level, for a second pass
    pooled: list[Array | None] = [None for _ in views]
    for level in pyramid.levels:
        for i, mirrored in enumerate(views):
            last[i] = _features(params, level.images, level.image_sizes, model=model, mirrored=mirrored)
            part = _pool(*last[i], level.rois, level.scales, pyramid.original_sizes, model=model, mirrored=mirrored)
            if len(pyramid.levels) == 1 and part.shape[1] == pyramid.num_rois:
                pooled[i] = part
            else:
                before = _zeros(part, pyramid.num_rois) if pooled[i] is None else pooled[i]
                pooled[i] = _place(before, part, level.slots)
    rest = pyramid.replace(levels=())
    if not settings.has_second_pass:
        return _classify(params, statistics, pooled, rest, model=model, settings=settings)
    if len(pyramid.levels) > 1:
        raise ValueError("second_pass needs one scale: the boxes of a second pass have no level of a pyramid")
    first, boxes, found = _classify_and_move(params, statistics, pooled, rest, model=model, settings=settings)
    again = [
        _pool(*features, boxes, level.scales, pyramid.original_sizes, model=model, mirrored=mirrored)
        for features, mirrored in zip(last, views, strict=True)
    ]
    return _classify_again(params, statistics, first, again, boxes, found, rest, model=model, settings=settings)


@partial(jax.jit, static_argnames=("model", "mirrored"))
def _features(params: Any, images: Array, sizes: Array, *, model: FastRCNN, mirrored: bool) -> tuple[Array, Array]:
    images = mirror_images(images, sizes) if mirrored else images
    return model.apply({"params": params}, images, sizes, method="features")


@partial(jax.jit, static_argnames=("model", "mirrored"))
def _pool(
    features: Array,
    sizes: Array,
    rois: Array,
    scales: Array,
    original_sizes: Array,
    *,
    model: FastRCNN,
    mirrored: bool,
) -> Array:
    rois = mirror_boxes(rois, original_sizes) if mirrored else rois
    return model.apply({}, features, rois, scales, sizes, method="pool")


@partial(jax.jit, static_argnames="count")
def _zeros(part: Float[Array, "N R PH PW C"], count: int) -> Float[Array, "N U PH PW C"]:
    return jnp.zeros((part.shape[0], count, *part.shape[2:]), part.dtype)


@partial(jax.jit, donate_argnums=0)
def _place(pooled: Float[Array, "N U PH PW C"], part: Float[Array, "N R PH PW C"], slots: Int[Array, "N R"]) -> Array:
    """`pooled` with the RoIs of one level in their slots; slots past the end are padding."""
    return jax.vmap(lambda whole, new, at: whole.at[at].set(new, mode="drop", unique_indices=True))(pooled, part, slots)


@partial(jax.jit, static_argnames=("model", "settings"))
def _classify(
    params: Any,
    statistics: BoxStatistics,
    pooled: list[Array],
    pyramid: Pyramid,
    *,
    model: FastRCNN,
    settings: DetectionSettings,
) -> Detections:
    """The head on each pooled RoI, then the detections among the proposals that share these RoIs."""
    outputs = _of_proposals(view_outputs(params, statistics, pooled, model=model), pyramid)
    return select(statistics, *outputs, pyramid, settings)


@partial(jax.jit, static_argnames=("model", "settings"))
def _classify_and_move(
    params: Any,
    statistics: BoxStatistics,
    pooled: list[Array],
    pyramid: Pyramid,
    *,
    model: FastRCNN,
    settings: DetectionSettings,
) -> tuple[Outputs, Array, Array]:
    """The outputs of each proposal, and the boxes of the second pass."""
    outputs = _of_proposals(view_outputs(params, statistics, pooled, model=model), pyramid)
    return outputs, *second_boxes(statistics, *outputs, pyramid, settings)


@partial(jax.jit, static_argnames=("model", "settings"))
def _classify_again(
    params: Any,
    statistics: BoxStatistics,
    first: Outputs,
    pooled: list[Array],
    boxes: Array,
    found: Array,
    pyramid: Pyramid,
    *,
    model: FastRCNN,
    settings: DetectionSettings,
) -> Detections:
    """The head on each pooled box of the second pass, then the detections among these and the proposals."""
    again = view_outputs(params, statistics, pooled, model=model)
    return select_both(statistics, first, again, boxes, found, pyramid, settings)


def _of_proposals(outputs: Outputs, pyramid: Pyramid) -> Outputs:
    logits, deltas = (jax.vmap(lambda values, index: values[index])(x, pyramid.roi_index) for x in outputs)
    return logits, deltas
