"""RoI max pooling with Caffe's rules; the gradient goes to the argmax (section 2.1 and equation 4)."""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real

from frcnn_jax.ops.arguments import check_grid, check_scale, valid_part
from frcnn_jax.ops.precision import as_array, widen
from frcnn_jax.ops.roi_pool import xla
from frcnn_jax.ops.roi_pool.bins import Bins, roi_bins
from frcnn_jax.ops.roi_pool.window_maxima import Maxima
from frcnn_jax.ops.varying import equally_varying

IMPLEMENTATIONS = ("auto", "xla", "pallas")


def project_rois(boxes: Real[Array, "*B 4"], scale: Real[Array, ""] | float) -> Float[Array, "*B 4"]:
    """Boxes as input of RoI pooling: inclusive corners in pixels of an image resized by `scale`.

    Args:
        boxes: half-open x1 y1 x2 y2 in pixels of the image before resizing.
        scale: resized size / original size.

    Returns:
        (x1, y1, x2 - 1, y2 - 1) * scale, as the original release computes them; integers and half precision are
        computed and returned in float32.

    Raises:
        ValueError: there is more than one scale: images of different scales are mapped by `jax.vmap`.
    """
    boxes = widen(boxes)
    if jnp.ndim(scale) != 0:
        raise ValueError(f"project_rois takes one scale, not {list(jnp.shape(scale))}: map it over images by jax.vmap")
    # A Python number has no dtype; NumPy's float64 would be one, and widen float32 boxes.
    scale = float(scale) if isinstance(scale, int | float | np.integer | np.floating) else widen(scale)
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - 1], axis=-1) * scale


def roi_max_pool(
    features: Float[Array, "H W C"],
    rois: Real[Array, "R 4"],
    output_size: tuple[int, int] = (7, 7),
    spatial_scale: float = 1 / 16,
    valid_size: Int[Array, "2"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "R PH PW C"]:
    """Max-pools each RoI of one image to a fixed grid (section 2.1), as Caffe's ROIPooling layer does.

    Corners times `spatial_scale` are rounded half away from zero, the RoI has at least one cell, bin p of P covers
    cells floor(p w / P) ... ceil((p + 1) w / P) - 1, computed in float32, and bins are clipped to the map. A bin with
    no cell gives 0. NaN in a bin gives NaN. The gradient of an output goes to the first of its maxima in row-major
    order and is summed in at least float32; an empty bin passes none, and the RoIs' corners have gradient 0.

    Args:
        features: feature map of any floating dtype.
        rois: inclusive corners x1 y1 x2 y2 in image pixels (see `project_rois`) of any real dtype, also outside the
            image. A corner that is NaN counts as 0.
        output_size: rows and columns of the grid.
        spatial_scale: feature cells per image pixel.
        valid_size: rows and columns of the map's valid top-left part, the rest being padding; the whole map if None.
        implementation: "pallas" for kernels on GPUs and XLA's operations elsewhere, "xla" for the latter everywhere, or
            "auto" for the kernels where JAX runs on a GPU and has them. The values are the same.

    `jax.vmap` over images makes one lookup and one scatter of all of them; over groups of RoIs of one map, one lookup
    for all groups. Under `jax.jit` alone, images that are sharded over devices are gathered for it; `jax.shard_map`
    pools each device's own.

    Raises:
        ValueError: a shape or dtype is wrong, the grid or the map is empty, the scale is traced or not a finite number
            above 0, there is no such implementation, or the maps are too large for indices of 32 bits.
    """
    features, rois = as_array(features), as_array(rois)
    if features.ndim != 3 or rois.ndim != 2 or rois.shape[-1] != 4:
        raise ValueError(f"roi_max_pool takes features [H, W, C] and rois [R, 4], not {features.shape}, {rois.shape}")
    if 0 in features.shape or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(
            f"roi_max_pool takes features of a floating dtype that are not empty, not {features.dtype}, "
            f"{features.shape}"
        )
    output_size = check_grid("roi_max_pool", "output_size", output_size)
    check_scale("roi_max_pool", "spatial_scale", spatial_scale)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"roi_max_pool has no implementation {implementation!r}, but {', '.join(IMPLEMENTATIONS)}")
    valid_size = valid_part("roi_max_pool", "valid_size", valid_size, features.shape[:2])
    return _of_image(features, rois, valid_size, output_size, float(spatial_scale), implementation)


# Compiled once per shape also outside `jit`: the functions that `_call` makes are new ones in every call.
@partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def _of_image(
    features: Array,
    rois: Array,
    valid_size: Array,
    output_size: tuple[int, int],
    spatial_scale: float,
    implementation: str,
) -> Array:
    bins = roi_bins(rois, output_size, spatial_scale, features.shape[:2], valid_size)
    return _pool(*equally_varying(features, bins), implementation, None)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _pool(features: Array, bins: Bins, implementation: str, index_dtype: Any | None) -> Maxima:
    return _call("bin_maxima", implementation, features, bins, index_dtype=index_dtype)


def _pool_forward(
    features: Array, bins: Bins, implementation: str, index_dtype: Any | None
) -> tuple[Maxima, tuple[Array, Array, Bins]]:
    cells = features.shape[0] * features.shape[1]
    small = jnp.uint16 if cells <= jnp.iinfo(jnp.uint16).max else jnp.int32
    # `_pool` again, so that the gradient is differentiable.
    values, argmax = _pool(features, bins, implementation, index_dtype or small)
    # Only shape and dtype of the map are needed. The barrier prevents a second search for the argmax.
    residuals = (lax.optimization_barrier(argmax), features[..., :0], bins)
    return (values,) if index_dtype is None else (values, argmax), residuals


def _pool_backward(
    implementation: str, index_dtype: Any | None, residuals: tuple[Array, Array, Bins], cotangents: Maxima
) -> tuple[Array, None]:
    argmax, like, bins = residuals
    gradient = _scatter(argmax, cotangents[0], bins, implementation, like.shape[:2])
    return gradient.astype(like.dtype), None


_pool.defvjp(_pool_forward, _pool_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scatter(argmax: Array, cotangent: Array, bins: Bins, implementation: str, map_size: tuple[int, int]) -> Array:
    """`features_gradient` with a gradient of its own, which looks up the cells that won."""
    return _call("features_gradient", implementation, argmax, cotangent, bins, map_size=map_size)


def _scatter_forward(argmax: Array, cotangent: Array, bins: Bins, implementation: str, map_size: tuple[int, int]):
    return _scatter(argmax, cotangent, bins, implementation, map_size), (argmax, cotangent[:0])


def _scatter_backward(
    implementation: str, map_size: tuple[int, int], residuals: tuple[Array, Array], gradient: Array
) -> tuple[None, Array, None]:
    argmax, like = residuals
    cells = jnp.pad(gradient.reshape(-1, gradient.shape[-1]), ((0, 1), (0, 0)))  # empty bins get zero
    looked_up = jnp.take_along_axis(cells, argmax.astype(jnp.int32).reshape(-1, argmax.shape[-1]), axis=0)
    return None, looked_up.reshape(argmax.shape).astype(like.dtype), None


_scatter.defvjp(_scatter_forward, _scatter_backward)


def _call(function: str, implementation: str, *arrays: Any, **static: Any) -> Any:
    """A function of the chosen implementation, for one image; `jax.vmap` over images still makes a single call."""

    def of_images(*arrays: Any) -> Any:
        by_xla = partial(getattr(xla, function), **static)
        # A kernel is started a known number of times, and at least once.
        countable = all(isinstance(n, int) and n for array in jax.tree.leaves(arrays) for n in array.shape)
        kernels = _gpu_kernels(implementation) if countable else None
        if kernels is None:
            return by_xla(*arrays)
        kernel = jax.vmap(partial(getattr(kernels, function), **static))
        return lax.platform_dependent(*arrays, cuda=kernel, rocm=kernel, default=by_xla)

    call = jax.custom_batching.custom_vmap(of_images)

    @call.def_vmap
    def merge_axes(size: Any, batched: Any, *arrays: Any) -> tuple[Any, Any]:
        # Groups of RoIs of one map are more RoIs of it: the map is not copied, and its table is made once.
        one_map = function == "bin_maxima" and not batched[0]
        shared, axis = (arrays[:1], 1) if one_map else ((), 0)
        each, has_axis = arrays[len(shared) :], tuple(batched[len(shared) :])
        each = jax.tree.map(lambda x, has: x if has else jnp.broadcast_to(x, (size, *x.shape)), each, has_axis)
        count = jax.tree.leaves(each)[0].shape[1 + axis]
        results = call(*shared, *jax.tree.map(partial(_merge_axis, axis), each))
        split = jax.tree.map(partial(_split_axis, axis, (size, count)), results)
        return split, jax.tree.map(lambda _: True, split)

    results = jax.tree.map(lambda array: array[0], call(*jax.tree.map(lambda array: array[None], arrays)))
    # Without RoIs the results are constants, which vary over no axis.
    return equally_varying(results, arrays)[0]


def _merge_axis(axis: int, array: Array) -> Array:
    """The leading axis merged with the one after it that is at `axis` in the result: of images (0) or of RoIs (1)."""
    array = jnp.moveaxis(array, 0, axis)
    before, (size, count), after = array.shape[:axis], array.shape[axis : axis + 2], array.shape[axis + 2 :]
    return array.reshape(*before, size * count, *after)


def _split_axis(axis: int, sizes: tuple[Any, Any], array: Array) -> Array:
    """The inverse of `_merge_axis`: `sizes` are those of the two axes."""
    return jnp.moveaxis(array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :]), axis, 0)


def _gpu_kernels(implementation: str) -> ModuleType | None:
    """The module of kernels, or None where XLA's operations are used."""
    if implementation == "xla" or (implementation == "auto" and jax.default_backend() != "gpu"):
        return None
    # Imported when needed: Pallas imports slowly, and its GPU part is not in every release of JAX.
    try:
        from frcnn_jax.ops.roi_pool import pallas
    except ImportError:
        if implementation == "auto":
            return None
        raise
    return pallas
