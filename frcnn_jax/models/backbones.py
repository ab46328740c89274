"""Convolutional trunks of stride 16: `vgg16` as published and `tiny`, which trains from scratch on a CPU.

A trunk maps images that are padded to a common size, and their true sizes, to features and theirs. What lies outside
an image is zero before every convolution, as if the image had been convolved alone, so padding changes no feature.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
        for stage, (convolutions, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
            if stage > 1:
                x, sizes = max_pool_2x2(x), halve(sizes)
            for i in range(1, convolutions + 1):
                conv = nn.Conv(
                    channels,
                    (3, 3),
                    padding=1,
                    kernel_init=nn.initializers.he_normal(),
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"conv{stage}_{i}",
                )
                x = mask_outside(nn.relu(conv(x)), sizes)
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
        skip = x
        out_sizes = halve(sizes) if self.stride == 2 else sizes
        y = nn.Conv(self.channels, (3, 3), self.stride, padding=1, use_bias=False, name="conv1", **types)(x)
        y = nn.relu(GroupNorm(name="norm1", **types)(mask_outside(y, out_sizes), out_sizes))
        y = nn.Conv(self.channels, (3, 3), padding=1, use_bias=False, name="conv2", **types)(y)
        y = GroupNorm(name="norm2", **types)(mask_outside(y, out_sizes), out_sizes)
        if self.stride == 2 or x.shape[-1] != self.channels:
            skip = nn.Conv(self.channels, (1, 1), self.stride, use_bias=False, name="project", **types)(x)
            skip = GroupNorm(name="norm_project", **types)(mask_outside(skip, out_sizes), out_sizes)
        return nn.relu(y + skip), out_sizes


class TinyBackbone(nn.Module):
    """A small residual trunk with group normalisation that trains from scratch."""

    channels: tuple[int, int, int] = (48, 96, 192)  # at strides 4, 8 and 16
    blocks: tuple[int, int, int] = (1, 2, 2)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        sizes = halve(sizes)
        x = nn.Conv(32, (5, 5), 2, padding=2, use_bias=False, name="stem", **types)(x)
        x = nn.relu(GroupNorm(name="stem_norm", **types)(mask_outside(x, sizes), sizes))
        for stage, (channels, count) in enumerate(zip(self.channels, self.blocks, strict=True), start=1):
            for i in range(count):
                block = ResidualBlock(channels, 2 if i == 0 else 1, name=f"stage{stage}_{i + 1}", **types)
                x, sizes = block(x, sizes)
        return x, sizes
