"""EfficientNet-Lite (Tan and Le, ICML 2019, without squeeze-and-excitation) in two parts: a trunk of stride 16, and the
last stages, which run on each RoI. Batch normalisation is folded into kernels and biases.

A stage is a row of inverted residuals (Sandler et al., CVPR 2018): 1 x 1 to more channels, a depthwise convolution,
1 x 1 to few channels without activation, added to the input if the shape is unchanged. Padding is TensorFlow's SAME.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv, Sizes, halve, mask_outside
from frcnn_jax.ops.layers.depthwise import depthwise_conv2d


class Stage(NamedTuple):
    """Inverted residuals; the first one has the stride."""

    size: int  # of the depthwise kernel
    stride: int
    expansion: int  # channels of the depthwise convolution per input channel
    channels: int  # output channels
    repeats: int


def scaled_stages(width: float = 1.0, depth: float = 1.0) -> tuple[Stage, ...]:
    """The seven stages of a member of the family; the first and the last one keep their depth."""
    stages = (
        Stage(3, 1, 1, 16, 1),
        Stage(3, 2, 6, 24, 2),
        Stage(5, 2, 6, 40, 2),
        Stage(3, 2, 6, 80, 3),
        Stage(5, 1, 6, 112, 3),
        Stage(5, 2, 6, 192, 4),
        Stage(3, 1, 6, 320, 1),
    )
    ends = (0, len(stages) - 1)
    return tuple(
        stage._replace(
            channels=_multiple_of_8(stage.channels * width),
            repeats=stage.repeats if i in ends else math.ceil(stage.repeats * depth),
        )
        for i, stage in enumerate(stages)
    )


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, or the next one if the nearest is below 90 % of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


LITE0 = scaled_stages()
LITE1 = scaled_stages(depth=1.1)
LITE2 = scaled_stages(width=1.1, depth=1.2)
TRUNK_STAGES = 5  # to stride 16


class EfficientNetLiteTrunk(nn.Module):
    """Stem and first stages, to stride 16; with an `expansion`, also the first layer of the next stage.

    That layer is a 1 x 1 convolution to `expansion` times the channels, and ReLU6. Zeros above and on the left are
    those of SAME on even sizes, so that padding changes no feature; sizes round up. With `same_padding` they are those
    of SAME on odd sizes too, for whole windows without `sizes`.
    """

    stages: tuple[Stage, ...] = LITE0[:TRUNK_STAGES]
    stem: int = 32  # channels
    expansion: int = 1
    same_padding: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        odd_rows, odd_columns = x.shape[1] % 2, x.shape[2] % 2
        above, left = (odd_rows, odd_columns) if self.same_padding else (0, 0)
        x = jnp.pad(x, ((0, 0), (above, 1 + odd_rows - above), (left, 1 + odd_columns - left), (0, 0)))
        x = nn.relu6(Conv(self.stem, stride=2, padding=0, use_bias=True, name="stem", **types)(x))
        options = {"same_padding": self.same_padding, **types}
        x, sizes = run_blocks(x, halve(sizes), numbered_blocks(self.stages, 1), **options)
        if self.expansion > 1:
            x = Expansion(self.expansion * x.shape[-1], name=f"stage{len(self.stages) + 1}_1", **types)(x)
        return mask_outside(x, sizes), sizes


class Expansion(nn.Module):
    """The first layer of an inverted residual, with the same parameter names."""

    channels: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W D"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.relu6(Conv(self.channels, 1, use_bias=True, name="expand", **types)(x))


class EfficientNetLiteStages(nn.Module):
    """The last stages and the 1 x 1 convolution after them, on pooled features; SAME padding."""

    stages: tuple[Stage, ...] = LITE0[TRUNK_STAGES:]
    first: int = TRUNK_STAGES + 1  # number of the first stage here
    top: int = 1280  # channels
    expanded: bool = False  # the input features are those after the first layer
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B PH PW C"]) -> Float[Array, "B h w F"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (name, stage), *others = numbered_blocks(self.stages, self.first)
        blocks = [(name, stage._replace(expansion=1) if self.expanded else stage), *others]
        x, _ = run_blocks(pooled, None, blocks, same_padding=True, **types)
        return nn.relu6(Conv(self.top, 1, use_bias=True, name="top", **types)(x))


def numbered_blocks(stages: tuple[Stage, ...], first: int) -> list[tuple[str, Stage]]:
    """The blocks of the stages, each `stage<number>_<i>` with its own stride; `first` is the first one's number."""
    return [
        (f"stage{number}_{i}", stage if i == 1 else stage._replace(stride=1))
        for number, stage in enumerate(stages, start=first)
        for i in range(1, stage.repeats + 1)
    ]


def run_blocks(
    x: Float[Array, "N H W C"], sizes: Sizes, blocks: list[tuple[str, Stage]], **options: Any
) -> tuple[Float[Array, "N h w D"], Sizes]:
    """The blocks as submodules of the module that calls."""
    for name, stage in blocks:
        x, sizes = InvertedResidual(stage, name=name, **options)(x, sizes)
    return x, sizes


class InvertedResidual(nn.Module):
    """One block of a stage. Its output outside an image's size is not zero: masking is done before the depthwise
    convolution, the only layer that looks at other cells.
    """

    stage: Stage
    same_padding: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, stride, expansion, channels, _ = self.stage
        y = x
        if expansion != 1:
            y = nn.relu6(Conv(expansion * x.shape[-1], 1, use_bias=True, name="expand", **types)(y))
        y = mask_outside(y, sizes)
        y = nn.relu6(DepthwiseConv(size, stride, self.same_padding, name="depthwise", **types)(y))
        is_residual = stride == 1 and x.shape[-1] == channels
        # Without normalisation each sum would double the variance; this scale lets it grow by a tenth.
        draw = nn.initializers.variance_scaling(0.1 if is_residual else 1.0, "fan_in", "normal")
        y = Conv(channels, 1, use_bias=True, kernel_init=draw, name="project", **types)(y)
        return x + y if is_residual else y, halve(sizes) if stride == 2 else sizes


class DepthwiseConv(nn.Module):
    """Depthwise convolution with bias, of half the cells, rounded up, at stride 2."""

    size: int
    stride: int = 1
    same_padding: bool = False  # on odd sizes too
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
        channels = x.shape[-1]
        draw = nn.initializers.variance_scaling(2.0, "fan_in", "normal", (0, 1), (), -1)
        kernel = self.param("kernel", draw, (self.size, self.size, channels), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        before = (self.size - self.stride) // 2
        if self.same_padding and self.stride == 2:
            # Odd sizes need one more zero before. If only rows or only columns are odd, the map itself is padded.
            odd = x.shape[1] % 2, x.shape[2] % 2
            more = (odd[0] - min(odd), odd[1] - min(odd))
            if any(more):
                x = jnp.pad(x, ((0, 0), (more[0], 0), (more[1], 0), (0, 0)))
            before += min(odd)
        y = depthwise_conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, before)
        return y + bias.astype(self.dtype)[None, None, None]
