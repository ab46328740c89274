"""Detection stage by stage: the trunk once per image, each distinct RoI once through the head."""

from collections.abc import Callable
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


def untimed(stage: str, function: Callable[..., Any], *arguments: Any, **static: Any) -> Any:
    """The result of a function, without a watch on its stage."""
    return function(*arguments, **static)


def detect_pyramid(
    params: Any,
    statistics: BoxStatistics,
    pyramid: Pyramid,
    *,
    model: FastRCNN,
    settings: DetectionSettings,
    watch: Callable[..., Any] = untimed,
) -> Detections:
    """Detections of each image of a pyramid; fields gain a leading N.

    The features of each level are computed once. Each RoI is pooled at its level and enters the head once. Each
    proposal's box is decoded with the offsets of its RoI. The trunk is compiled per image size, the head per number of
    RoIs, the selection per number of proposals.

    Args:
        watch: calls each compiled function, as `untimed` does; its first argument is the stage: "convolution",
            "pooling", "fc" or "suppression".

    Raises:
        ValueError: a second pass of several levels.
    """
    views = settings.views
    last = [None for _ in views]  # features of the last level, for a second pass
    pooled: list[Array | None] = [None for _ in views]

    def pool(view: int, rois: Array, scales: Array) -> Array:
        static = {"model": model, "mirrored": views[view]}
        return watch("pooling", _pool, *last[view], rois, scales, pyramid.original_sizes, **static)

    for level in pyramid.levels:
        for i, mirrored in enumerate(views):
            images = level.images, level.image_sizes
            last[i] = watch("convolution", _features, params, *images, model=model, mirrored=mirrored)
            part = pool(i, level.rois, level.scales)
            if len(pyramid.levels) == 1 and part.shape[1] == pyramid.num_rois:
                pooled[i] = part
            else:
                before = _zeros(part, pyramid.num_rois) if pooled[i] is None else pooled[i]
                pooled[i] = _place(before, part, level.slots)
    first = watch("fc", _outputs, params, statistics, pooled, pyramid.roi_index, model=model)
    # The selection needs neither, and would be compiled for each of their shapes.
    rest = pyramid.replace(levels=(), num_rois=0)
    if not settings.has_second_pass:
        return watch("suppression", _select, statistics, first, rest, settings=settings)
    if len(pyramid.levels) > 1:
        raise ValueError("second_pass needs one scale: the boxes of a second pass have no level of a pyramid")
    boxes, found = watch("suppression", _second_boxes, statistics, first, rest, settings=settings)
    pooled = [pool(i, boxes, level.scales) for i in range(len(views))]
    again = watch("fc", _outputs, params, statistics, pooled, None, model=model)
    return watch("suppression", _select_both, statistics, first, again, boxes, found, rest, settings=settings)


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


@partial(jax.jit, static_argnames="model")
def _outputs(
    params: Any, statistics: BoxStatistics, pooled: list[Array], index: Int[Array, "N P"] | None, *, model: FastRCNN
) -> Outputs:
    """The head on each pooled RoI, and its outputs for the proposals that share these RoIs."""
    outputs = view_outputs(params, statistics, pooled, model=model)
    if index is None:
        return outputs
    logits, deltas = (jax.vmap(lambda values, rows: values[rows])(x, index) for x in outputs)
    return logits, deltas


@partial(jax.jit, static_argnames="settings")
def _select(
    statistics: BoxStatistics, outputs: Outputs, pyramid: Pyramid, *, settings: DetectionSettings
) -> Detections:
    return select(statistics, *outputs, pyramid, settings)


@partial(jax.jit, static_argnames="settings")
def _second_boxes(
    statistics: BoxStatistics, outputs: Outputs, pyramid: Pyramid, *, settings: DetectionSettings
) -> tuple[Array, Array]:
    return second_boxes(statistics, *outputs, pyramid, settings)


_select_both = jax.jit(select_both, static_argnames="settings")
