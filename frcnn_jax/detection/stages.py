"""Detection stage by stage: the trunk once per image, each distinct RoI once through the head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from frcnn_jax.detection.mirror import Outputs, mirror_boxes, mirror_images
from frcnn_jax.detection.outputs import second_boxes, select, select_both, view_outputs
from frcnn_jax.detection.pyramid import Level, Pyramid
from frcnn_jax.detection.selection import check_statistics
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.types import BoxStatistics, Detections

Maps = list[tuple[Array, Array]]  # the features of each view, and the valid size of each image's


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
    rois_at_a_time: int | None = None,
    watch: Callable[..., Any] = untimed,
) -> Detections:
    """Detections of each image of a pyramid; fields gain a leading N.

    The features of each level are computed once. Each RoI is pooled at its level and enters the head once. Each
    proposal's box is decoded with the offsets of its RoI. The trunk is compiled per image size, the head per number of
    RoIs, the selection per number of proposals.

    Args:
        rois_at_a_time: RoIs of each image that are pooled and enter the head together, if the pyramid has one level
            with a multiple of them; None for all RoIs. Pooling and head are compiled once for any number of RoIs then.
        watch: calls each compiled function, as `untimed` does; its first argument is the stage: "convolution",
            "pooling", "fc" or "suppression".

    Raises:
        ValueError: a second pass of several levels, or the statistics are of another number of classes.
    """
    check_statistics(statistics, model.head.num_classes)
    if settings.has_second_pass and len(pyramid.levels) > 1:
        raise ValueError("second_pass needs one scale: the boxes of a second pass have no level of a pyramid")

    def features(level: Level) -> Maps:
        images = level.images, level.image_sizes
        return [
            watch("convolution", _features, params, *images, model=model, mirrored=mirrored)
            for mirrored in settings.views
        ]

    def pool(maps: Maps, rois: Real[Array, "N R 4"], scales: Float[Array, " N"]) -> list[Array]:
        return [
            watch("pooling", _pool, *of_view, rois, scales, pyramid.original_sizes, model=model, mirrored=mirrored)
            for of_view, mirrored in zip(maps, settings.views, strict=True)
        ]

    def classify(pooled: Sequence[Array]) -> Outputs:
        return watch("fc", _outputs, params, statistics, pooled, model=model)

    if len(pyramid.levels) == 1:
        (level,) = pyramid.levels
        maps = features(level)
        parts = [classify(pool(maps, rois, level.scales)) for rois in _parts(level.rois, rois_at_a_time)]
    else:
        pooled: list[Array | None] = [None for _ in settings.views]
        for level in pyramid.levels:
            of_level = pool(features(level), level.rois, level.scales)
            before = [
                _zeros(part, pyramid.num_rois) if whole is None else whole
                for whole, part in zip(pooled, of_level, strict=True)
            ]
            pooled = [_place(whole, part, level.slots) for whole, part in zip(before, of_level, strict=True)]
        parts = [classify(pooled)]
    first = watch("fc", _share, parts, pyramid.roi_index)
    # The selection needs neither, and would be compiled for each of their shapes.
    rest = pyramid.replace(levels=(), num_rois=0)
    if not settings.has_second_pass:
        return watch("suppression", _select, statistics, first, rest, settings=settings)
    boxes, found = watch("suppression", _second_boxes, statistics, first, rest, settings=settings)
    again = classify(pool(maps, boxes, level.scales))
    return watch("suppression", _select_both, statistics, first, again, boxes, found, rest, settings=settings)


def _parts(rois: Float[Array, "N R 4"], size: int | None) -> list[Float[Array, "N size 4"]]:
    """The RoIs, so many at a time; all together if that leaves some over."""
    count = rois.shape[1]
    if not size or count % size:
        return [rois]
    return [rois[:, start : start + size] for start in range(0, count, size)]


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
def _outputs(params: Any, statistics: BoxStatistics, pooled: Sequence[Array], *, model: FastRCNN) -> Outputs:
    return view_outputs(params, statistics, pooled, model=model)


@jax.jit
def _share(parts: Sequence[Outputs], index: Int[Array, "N P"]) -> Outputs:
    """The head's outputs for the RoIs of all parts, repeated for the proposals that share these RoIs."""
    joined = (jnp.concatenate(of_parts, axis=1) for of_parts in zip(*parts, strict=True))
    logits, deltas = (jax.vmap(lambda values, rows: values[rows])(x, index) for x in joined)
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
