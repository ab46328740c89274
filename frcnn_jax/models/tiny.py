"""The trunk of `tiny`, which trains from scratch on a CPU."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv, GroupNorm, Sizes, halve, mask_outside


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
    """A small residual trunk with group normalisation, made to train from scratch on a CPU."""

    channels: tuple[int, int, int] = (48, 96, 192)  # at strides 4, 8 and 16
    blocks: tuple[int, int, int] = (1, 2, 2)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # Blocks of 4 x 4 pixels become channels, as a few input channels would leave a CPU's matrix units idle.
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
