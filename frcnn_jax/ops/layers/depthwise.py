"""Depthwise convolution, with one kernel per channel, that is fast on a CPU too; elsewhere it is XLA's.

On a CPU, XLA's convolution takes many times as long as reading and writing the maps. So there the taps of the kernel
are products of shifted maps (`depthwise_taps`) or, on maps of a few cells, products of cells (`depthwise_cells`),
summed in one loop with the channel as innermost index.
"""

from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops.layers import depthwise_cells, depthwise_taps
from frcnn_jax.ops.precision import wide_dtype
from frcnn_jax.ops.varying import equally_varying

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MOST_TAPS = 49  # each tap is unrolled in the program


def depthwise_conv2d(
    x: Float[Array, "N H W C"], kernel: Float[Array, "K K C"], stride: int = 1, before: int | None = None
) -> Float[Array, "N h w C"]:
    """Depthwise convolution (cross-correlation) without bias, of ceil(H / stride) x ceil(W / stride) cells.

    Args:
        x: images or feature maps.
        kernel: kernel of an odd size.
        stride: the same for rows and columns.
        before: zeros above and on the left; (K - stride) // 2, but not less than 0, if None, as in TensorFlow's SAME
            padding on even sizes. Below and on the right, as many as the last cell needs are added.

    Raises:
        ValueError: the kernel is not square or does not match the channels of `x`.
    """
    size, columns, channels = kernel.shape
    if size != columns or channels != x.shape[-1]:
        raise ValueError(f"depthwise_conv2d: a kernel {kernel.shape} does not fit {x.shape[-1]} channels")
    before = max((size - stride) // 2, 0) if before is None else before
    return _convolve(*equally_varying(x, kernel), stride, before)


# Three bilinear functions. The gradients of each are the two others, so gradients of any order exist.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, before: int) -> Array:
    native = partial(_native, stride=stride, before=before)
    how = _way(x.shape, kernel.shape, stride, before)
    if how is None:
        return native(x, kernel)

    def on_cpu(x: Array, kernel: Array) -> Array:
        return how.convolve(*_widened(x, kernel), stride, before).astype(x.dtype)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=native)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_gradient(cotangent: Array, kernel: Array, shape: tuple[int, ...], stride: int, before: int) -> Array:
    """Gradient of the input, with the given shape."""

    def native(cotangent: Array, kernel: Array) -> Array:
        like = _zeros(shape, cotangent)
        function = partial(_native, kernel=kernel, stride=stride, before=before)
        return jax.linear_transpose(function, like)(cotangent)[0]

    how = _way(shape, kernel.shape, stride, before)
    if how is None:
        return native(cotangent, kernel)

    def on_cpu(cotangent: Array, kernel: Array) -> Array:
        found = how.input_gradient(*_widened(cotangent, kernel), shape[1:3], stride, before)
        return found.astype(cotangent.dtype)

    return lax.platform_dependent(cotangent, kernel, cpu=on_cpu, default=native)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _kernel_gradient(x: Array, cotangent: Array, size: int, stride: int, before: int) -> Array:
    """Gradient of the kernel, [size, size, C]."""
    shape = (size, size, x.shape[-1])

    def native(x: Array, cotangent: Array) -> Array:
        like = _zeros(shape, x)
        function = partial(_native, x, stride=stride, before=before)
        return jax.linear_transpose(function, like)(cotangent)[0]

    how = _way(x.shape, shape, stride, before)
    if how is None:
        return native(x, cotangent)

    def on_cpu(x: Array, cotangent: Array) -> Array:
        # Without the barrier XLA would keep the padded map of the forward pass until here.
        x, cotangent = lax.optimization_barrier((x, cotangent))
        return how.kernel_gradient(*_widened(x, cotangent), size, stride, before).astype(x.dtype)

    return lax.platform_dependent(x, cotangent, cpu=on_cpu, default=native)


def _convolve_backward(stride: int, before: int, inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    return (
        _input_gradient(cotangent, kernel, x.shape, stride, before),
        _kernel_gradient(x, cotangent, len(kernel), stride, before),
    )


def _input_gradient_backward(
    shape: tuple[int, ...], stride: int, before: int, inputs: tuple[Array, Array], x: Array
) -> tuple[Array, Array]:
    cotangent, kernel = inputs
    return _convolve(x, kernel, stride, before), _kernel_gradient(x, cotangent, len(kernel), stride, before)


def _kernel_gradient_backward(
    size: int, stride: int, before: int, inputs: tuple[Array, Array], kernel: Array
) -> tuple[Array, Array]:
    x, cotangent = inputs
    return _input_gradient(cotangent, kernel, x.shape, stride, before), _convolve(x, kernel, stride, before)


_convolve.defvjp(lambda x, kernel, *numbers: (_convolve(x, kernel, *numbers), (x, kernel)), _convolve_backward)
_input_gradient.defvjp(
    lambda cotangent, kernel, *numbers: (_input_gradient(cotangent, kernel, *numbers), (cotangent, kernel)),
    _input_gradient_backward,
)
_kernel_gradient.defvjp(
    lambda x, cotangent, *numbers: (_kernel_gradient(x, cotangent, *numbers), (x, cotangent)),
    _kernel_gradient_backward,
)


def _way(shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, before: int) -> ModuleType | None:
    """The module for this convolution on a CPU; None: XLA's convolution."""
    taps = kernel[0] * kernel[1]
    if 0 in shape or not stride <= kernel[0] or not 0 <= before < kernel[0] or not 1 < taps <= _MOST_TAPS:
        return None
    return depthwise_cells if depthwise_cells.suits_cells(shape[1:3], kernel[0], stride, before) else depthwise_taps


def _widened(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.astype(wide_dtype(array.dtype)) for array in arrays)


def _zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the type of `like`: `jax.linear_transpose` takes no `ShapeDtypeStruct` that varies over devices."""
    return equally_varying(jnp.zeros(shape, like.dtype), like)[0]


def _native(x: Array, kernel: Array, *, stride: int, before: int) -> Array:
    size = len(kernel)
    padding = [(before, (-(-length // stride) - 1) * stride + size - length - before) for length in x.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        jnp.expand_dims(kernel, 2),
        (stride, stride),
        padding,
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1],
    )
