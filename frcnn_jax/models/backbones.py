"""Convolutional trunks of stride 16: `vgg16` as published and `tiny`, which trains from scratch on a CPU.

A trunk maps images that are padded to a common size, and their true sizes, to features and theirs. What lies outside
an image is zero before every convolution, as if the image had been convolved alone, so padding changes no feature.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from frcnn_jax.ops.conv import conv2d
from frcnn_jax.ops.max_pool import max_pool_2x2

Sizes = Int[Array, "N 2"] | None  # None: no image is padded


def mask_outside(x: Float[Array, "N H W C"], sizes: Sizes) -> Float[Array, "N H W C"]:
    """`x` with zeros outside each image's top-left `sizes` (rows, columns)."""
    if sizes is None:
        return x
    rows = jnp.arange(x.shape[1])[None, :, None, None] < sizes[:, 0][:, None, None, None]
    columns = jnp.arange(x.shape[2])[None, None, :, None] < sizes[:, 1][:, None, None, None]
    return jnp.where(rows & columns, x, 0)


def halve(sizes: Sizes) -> Sizes:
    """Sizes after a layer of stride 2 that rounds up."""
    return None if sizes is None else (sizes + 1) // 2


class Conv(nn.Module):
    """2-D convolution with zero padding that keeps the size up to the stride (odd kernels)."""

    channels: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, self.param_dtype)
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.size // 2)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.param_dtype)
        return y + bias.astype(self.dtype)[None, None, None]


class GroupNorm(nn.Module):
    """Group normalisation over the image alone (Wu and He, ECCV 2018); `x` must be zero outside it."""

    group_size: int = 16
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], sizes: Sizes) -> Float[Array, "N H W C"]:
        n, height, width, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        cells = jnp.full((n,), height * width) if sizes is None else sizes[:, 0] * sizes[:, 1]
        # Sums need more than half precision whatever the activations are in.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        y = x.astype(wide)
        count = (cells * self.group_size).astype(wide)[:, None]

        def group_mean(values: Array) -> Array:
            by_group = jnp.sum(values, axis=(1, 2)).reshape(n, -1, self.group_size).sum(axis=-1) / count
            return jnp.repeat(by_group, self.group_size, axis=1)

        mean = group_mean(y)
        variance = jnp.maximum(group_mean(jnp.square(y)) - jnp.square(mean), 0)
        factor = scale.astype(wide)[None] / jnp.sqrt(variance + self.epsilon)
        shift = bias.astype(wide)[None] - mean * factor
        return mask_outside(y * factor[:, None, None] + shift[:, None, None], sizes).astype(self.dtype)


class VGG16(nn.Module):
    """The 13 convolutions of VGG16 (model L) without the last pooling; ReLU after each."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w 512"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for stage, (convolutions, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
            if stage > 1:
                x, sizes = max_pool_2x2(x), halve(sizes)
            for i in range(1, convolutions + 1):
                x = Conv(channels, use_bias=True, name=f"conv{stage}_{i}", **types)(x)
                x = mask_outside(nn.relu(x), sizes)
        return x, sizes


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation, added to their input or to a 1 x 1 projection of it."""

    channels: int
    stride: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        out_sizes = halve(sizes) if self.stride == 2 else sizes

        def normalized(y: Array, name: str) -> Array:
            return GroupNorm(name=name, **types)(mask_outside(y, out_sizes), out_sizes)

        y = nn.relu(normalized(Conv(self.channels, stride=self.stride, name="conv1", **types)(x), "norm1"))
        y = normalized(Conv(self.channels, name="conv2", **types)(y), "norm2")
        if self.stride == 2 or x.shape[-1] != self.channels:
            x = normalized(Conv(self.channels, 1, self.stride, name="project", **types)(x), "norm_project")
        return nn.relu(y + x), out_sizes


class TinyBackbone(nn.Module):
    """A small residual trunk with group normalisation that trains from scratch, made to be quick on a CPU."""

    channels: tuple[int, int, int] = (48, 96, 192)  # at strides 4, 8 and 16
    blocks: tuple[int, int, int] = (1, 2, 2)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # Blocks of 4 x 4 pixels become channels: few input channels keep a CPU's matrix units idle.
        x, sizes = space_to_depth(x, 4), halve(halve(sizes))
        x = Conv(self.channels[0], name="stem", **types)(x)
        x = nn.relu(GroupNorm(name="stem_norm", **types)(mask_outside(x, sizes), sizes))
        for stage, (channels, count) in enumerate(zip(self.channels, self.blocks, strict=True), start=1):
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                x, sizes = ResidualBlock(channels, stride, name=f"stage{stage}_{i + 1}", **types)(x, sizes)
        return x, sizes


def space_to_depth(x: Float[Array, "N H W C"], size: int) -> Float[Array, "N h w D"]:
    """Blocks of size x size cells as channels, in row-major order; zeros fill up the last row and column of blocks."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)))
    n, height, width, channels = x.shape
    blocks = x.reshape(n, height // size, size, width // size, size, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // size, width // size, size * size * channels)
