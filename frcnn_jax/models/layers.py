"""Layers for images padded to a common size: each keeps the cells outside an image zero.

So every image is convolved, pooled and normalised as if it were alone, and more padding changes nothing.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from frcnn_jax.ops.layers.conv import conv2d, conv_length
from frcnn_jax.ops.layers.max_pool import max_pool, pooled_length
from frcnn_jax.ops.precision import as_int32, wide_dtype

Sizes = Int[Array, "N 2"] | None  # valid rows and columns of each image; None: no padding


def mask_outside(x: Float[Array, "N H W C"], sizes: Sizes) -> Float[Array, "N H W C"]:
    """`x` with zeros outside each image's top-left `sizes` (rows, columns)."""
    if sizes is None:
        return x
    sizes = as_int32(sizes)
    rows = jnp.arange(x.shape[1])[None, :, None, None] < sizes[:, 0][:, None, None, None]
    columns = jnp.arange(x.shape[2])[None, None, :, None] < sizes[:, 1][:, None, None, None]
    return jnp.where(rows & columns, x, 0)


def halve(sizes: Sizes) -> Sizes:
    """Sizes after a layer of stride 2 that rounds up."""
    return None if sizes is None else (as_int32(sizes) + 1) // 2


def flatten(pooled: Float[Array, "B h w C"]) -> Float[Array, "B D"]:
    """Each window's or RoI's features as one vector, in row-major order."""
    return pooled.reshape(pooled.shape[0], math.prod(pooled.shape[1:]))  # -1 is undefined without any


class Conv(nn.Module):
    """2-D convolution with zero padding; by default the output size is the input size over the stride (odd kernels)."""

    channels: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        padding = self.size // 2 if self.padding is None else self.padding
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding, self.groups)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.param_dtype)
        return y + bias.astype(self.dtype)[None, None, None]


def conv_relu(
    x: Float[Array, "N H W C"],
    sizes: Sizes,
    channels: int,
    size: int = 3,
    *,
    name: str,
    stride: int = 1,
    padding: int = 1,
    groups: int = 1,
    **types: Any,
) -> tuple[Float[Array, "N h w D"], Sizes]:
    """Convolution with bias and ReLU, as a submodule `name` of the calling module; `sizes` are those after it."""
    convolution = Conv(channels, size, stride, padding, groups, use_bias=True, name=name, **types)
    if sizes is not None:
        sizes = conv_length(sizes, size, stride, padding)
    return mask_outside(nn.relu(convolution(x)), sizes), sizes


def pool(
    x: Float[Array, "N H W C"], sizes: Sizes, size: int, stride: int, padding: int = 0
) -> tuple[Float[Array, "N h w C"], Sizes]:
    """Caffe's max pooling of non-negative values, and `sizes` after it.

    The zeros outside an image never exceed the image's values in a window, so they do not matter. Windows that the
    image alone would not have may still reach into it, and are masked.
    """
    if sizes is not None:
        sizes = pooled_length(sizes, size, stride, padding)
    return mask_outside(max_pool(x, size, stride, padding), sizes), sizes


class GroupNorm(nn.Module):
    """Group normalisation over the image alone (Wu and He, ECCV 2018); `x` must be zero outside it.

    Raises:
        ValueError: the channels are not a multiple of the group size.
    """

    group_size: int = 16
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], sizes: Sizes) -> Float[Array, "N H W C"]:
        n, height, width, channels = x.shape
        if channels % self.group_size:
            raise ValueError(f"GroupNorm: {channels} channels are not a multiple of group_size {self.group_size}")
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        sizes = sizes if sizes is None else as_int32(sizes)
        cells = jnp.full((n,), height * width) if sizes is None else sizes[:, 0] * sizes[:, 1]
        # Sums need more than half precision, whatever the activations' dtype.
        wide = wide_dtype(self.dtype)
        y = x.astype(wide)
        # An image without cells, which only fills the batch, has a mean of 0: NaN would pass the mask in the gradient.
        count = (jnp.maximum(cells, 1) * self.group_size).astype(wide)[:, None]

        def group_mean(values: Array) -> Array:
            by_channel = jnp.sum(values, axis=(1, 2)).reshape(n, channels // self.group_size, self.group_size)
            by_group = by_channel.sum(axis=-1) / count
            return jnp.repeat(by_group, self.group_size, axis=1)

        mean = group_mean(y)
        variance = jnp.maximum(group_mean(jnp.square(y)) - jnp.square(mean), 0)
        factor = scale.astype(wide)[None] / jnp.sqrt(variance + self.epsilon)
        shift = bias.astype(wide)[None] - mean * factor
        return mask_outside(y * factor[:, None, None] + shift[:, None, None], sizes).astype(self.dtype)
