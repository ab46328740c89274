"""Convolution that is fast on a CPU too; on other devices it is XLA's.

On a CPU, 3 x 3 kernels with many channels use `winograd`, and 1 x 1 kernels to fewer channels are one matrix product.
For other kernels XLA's forward pass and input gradient are fast, but its weight gradient is several times slower. It is
replaced by one matrix product per tap of the kernel: the input shifted to that tap, transposed, times the output's
gradient.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops.layers.winograd import suits_winograd, winograd_convolve, winograd_kernel_gradient
from frcnn_jax.ops.precision import as_int32, wide_dtype
from frcnn_jax.ops.varying import equally_varying

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_length(length: int | Array, size: int, stride: int, padding: int) -> int | Array:
    """Cells along an axis of `length` after a convolution; takes integers and integer arrays alike."""
    if not isinstance(length, int):
        length = as_int32(length)
    cells = (length + 2 * padding - size) // stride + 1
    return max(cells, 0) if isinstance(length, int) else jnp.maximum(cells, 0)


def conv2d(
    x: Float[Array, "N H W C"], kernel: Float[Array, "KH KW c D"], stride: int = 1, padding: int = 0, groups: int = 1
) -> Float[Array, "N h w D"]:
    """2-D convolution (cross-correlation) with the same stride and zero padding on all sides, without bias.

    With `groups`, C and D are split in order into as many equal parts, which are convolved separately; c is C / groups.

    Raises:
        ValueError: channels and groups do not fit.
    """
    channels, inputs, outputs = x.shape[-1], kernel.shape[2], kernel.shape[3]
    if channels != groups * inputs or outputs % groups:
        raise ValueError(f"conv2d: a kernel {kernel.shape} in {groups} groups does not fit {channels} channels")
    x, kernel = equally_varying(x, kernel)
    if groups == 1:
        return _convolve(x, kernel, stride, padding)
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    return jnp.concatenate([_convolve(part, weights, stride, padding) for part, weights in parts], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    native = partial(_native, stride=stride, padding=padding)
    if suits_winograd(x, kernel, stride, padding):
        return lax.platform_dependent(x, kernel, cpu=partial(winograd_convolve, padding=padding), default=native)
    if _is_product(kernel, stride, padding) and kernel.shape[3] < kernel.shape[2]:
        return lax.platform_dependent(x, kernel, cpu=_product, default=native)
    return native(x, kernel)


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def native(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_native, stride=stride, padding=padding), x, kernel)[1](cotangent)

    def on_cpu(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        # Without the barrier XLA would shift x in the forward pass already, and keep all copies until here.
        x, cotangent = lax.optimization_barrier((x, cotangent))
        if suits_winograd(x, kernel, stride, padding):
            # Backward, the taps are reversed, and input and output channels are swapped.
            x_gradient = winograd_convolve(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), 2 - padding)
            kernel_gradient = winograd_kernel_gradient(x, cotangent, padding)
        else:
            if _is_product(kernel, stride, padding) and kernel.shape[2] < kernel.shape[3]:
                x_gradient = _product(cotangent, kernel.swapaxes(2, 3))
            else:
                x_gradient, _ = native(x, kernel, cotangent)
            kernel_gradient = _gradient_by_tap(x, cotangent, size=kernel.shape[:2], stride=stride, padding=padding)
        return x_gradient, kernel_gradient.astype(kernel.dtype)

    return lax.platform_dependent(*residuals, cotangent, cpu=on_cpu, default=native)


_convolve.defvjp(_forward, _backward)


def _native(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding), (padding, padding)), dimension_numbers=_LAYOUT
    )


def _is_product(kernel: Array, stride: int, padding: int) -> bool:
    return kernel.shape[:2] == (1, 1) and (stride, padding) == (1, 0)


def _product(x: Array, kernel: Array) -> Array:
    """`_native` for a 1 x 1 kernel. XLA's convolution to fewer channels takes up to three times as long on a CPU."""
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def _gradient_by_tap(x: Array, cotangent: Array, *, size: tuple[int, int], stride: int, padding: int) -> Array:
    """Gradient of the kernel, [KH, KW, C, D], in float32 at least."""
    wide = wide_dtype(cotangent.dtype)
    rows, columns = cotangent.shape[1:3]
    channels = x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    flat = cotangent.reshape(-1, cotangent.shape[-1])
    # With the three channels of an image a product would be too small: there, the taps of a row share one.
    together = size[1] if channels < 16 else 1

    def seen(i: int, j: int) -> Array:
        return padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]

    def taps(i: int, first: int) -> Array:
        patches = jnp.concatenate([seen(i, j) for j in range(first, first + together)], axis=-1)
        patches = patches.reshape(-1, together * channels)
        product = lax.dot_general(patches, flat, (((0,), (0,)), ((), ())), preferred_element_type=wide)
        return product.reshape(together, channels, -1)

    lines = [[taps(i, j) for j in range(0, size[1], together)] for i in range(size[0])]
    return jnp.stack([jnp.concatenate(line) for line in lines])
