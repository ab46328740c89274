"""torchvision's ResNet (He et al., CVPR 2016), with batch normalisation folded into kernels and biases.

conv1 to layer3 are the trunk, with feature stride 16; layer4 runs on each RoI as the stages of a `StagesHead`. Names
are torchvision's except for the dots: `layer1.0.conv2` is `layer1_0/conv2`. Bottlenecks have their stride in the 3 x 3
convolution.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv, Sizes, conv_relu, halve, mask_outside
from frcnn_jax.ops.layers.max_pool import max_pool

_EXPANSION = 4  # output channels of a bottleneck per channel of its 3 x 3 convolution


class ResNetTrunk(nn.Module):
    """conv1, max pooling, layer1, layer2 and layer3.

    Without normalisation, random parameters must keep activations at the scale of the input. So the last convolution of
    each block starts at zero, and the block passes on its shortcut; the others keep the second moment through their
    ReLU.
    """

    blocks: tuple[int, int, int]  # of layer1, layer2, layer3
    bottleneck: bool
    width: int = 64  # channels of conv1 and of the 3 x 3 convolutions of layer1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, sizes = conv_relu(x, sizes, self.width, 7, stride=2, padding=3, name="conv1", **types)
        x, sizes = _pool(x, sizes)
        for stage, count in enumerate(self.blocks, start=1):
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                block = ResNetBlock(
                    self.width << (stage - 1), stride, self.bottleneck, name=f"layer{stage}_{i}", **types
                )
                x, sizes = block(x, sizes)
        return x, sizes


class ResNetLastStage(nn.Module):
    """layer4, of stride 2."""

    blocks: int
    bottleneck: bool
    width: int = 64  # channels of conv1; the 3 x 3 convolutions here have eight times as many
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.blocks):
            stride = 2 if i == 0 else 1
            x, _ = ResNetBlock(8 * self.width, stride, self.bottleneck, name=f"layer4_{i}", **types)(x, None)
        return x


class ResNetBlock(nn.Module):
    """Two 3 x 3 convolutions, or a 3 x 3 one between two of 1 x 1, added to their input or to a projection of it."""

    width: int  # channels of the 3 x 3 convolutions
    stride: int
    bottleneck: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = self.width * _EXPANSION if self.bottleneck else self.width

        def linear(y: Array, size: int, stride: int, name: str, **init: Any) -> Array:
            return Conv(channels, size, stride, use_bias=True, name=name, **init, **types)(y)

        y, inner = x, sizes
        if self.bottleneck:
            y, inner = conv_relu(y, inner, self.width, 1, padding=0, name="conv1", **types)
        name = "conv2" if self.bottleneck else "conv1"
        y, inner = conv_relu(y, inner, self.width, stride=self.stride, name=name, **types)
        zeros = nn.initializers.zeros
        y = (
            linear(y, 1, 1, "conv3", kernel_init=zeros)
            if self.bottleneck
            else linear(y, 3, 1, "conv2", kernel_init=zeros)
        )
        if self.stride > 1 or x.shape[-1] != channels:
            x = linear(x, 1, self.stride, "downsample")
        return mask_outside(nn.relu(x + y), inner), inner


def _pool(x: Float[Array, "N H W C"], sizes: Sizes) -> tuple[Float[Array, "N h w C"], Sizes]:
    """Max pooling of non-negative values, 3 x 3 at stride 2, padded by 1. `max_pool` rounds up, as Caffe does: on even
    sizes it has one window more than torchvision.
    """
    rows, columns = (-(-length // 2) for length in x.shape[1:3])
    sizes = halve(sizes)
    return mask_outside(max_pool(x, 3, 2, 1)[:, :rows, :columns], sizes), sizes
