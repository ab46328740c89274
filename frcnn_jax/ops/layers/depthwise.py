"""Depthwise convolution: each channel with a kernel of its own."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def depthwise_conv2d(
    x: Float[Array, "N H W C"], kernel: Float[Array, "K K C"], stride: int = 1, before: int | None = None
) -> Float[Array, "N h w C"]:
    """Depthwise convolution (cross-correlation) without bias, of ceil(H / stride) x ceil(W / stride) cells.

    Args:
        x: images or feature maps.
        kernel: of an odd size.
        stride: the same for rows and columns.
        before: zeros above and on the left; (K - stride) // 2 if None, which is what TensorFlow's SAME padding has on
            even sizes. Below and on the right there are as many as the last cell needs.

    Raises:
        ValueError: the kernel is not square or not for the channels of `x`.
    """
    size, columns, channels = kernel.shape
    if size != columns or channels != x.shape[-1]:
        raise ValueError(f"depthwise_conv2d: a kernel {kernel.shape} does not fit {x.shape[-1]} channels")
    before = (size - stride) // 2 if before is None else before
    padding = [(before, (-(-length // stride) - 1) * stride + size - length - before) for length in x.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        jnp.expand_dims(kernel, 2),
        (stride, stride),
        padding,
        dimension_numbers=_LAYOUT,
        feature_group_count=channels,
    )
