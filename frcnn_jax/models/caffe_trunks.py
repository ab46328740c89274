"""The published convolutional trunks S, M and L (section 4.1), with feature stride 16, computed as in Caffe.

A trunk maps images padded to a common size, and their true sizes, to features and the sizes of these. Cells outside an
image are zero before every convolution, so padding changes no feature.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Sizes, conv_relu, pool
from frcnn_jax.ops.layers.lrn import local_response_norm


class CaffeNet(nn.Module):
    """Model S: the five convolutions of CaffeNet, an AlexNet that pools before it normalises, without the last pooling.

    As a detector's trunk, conv1 and both poolings are padded; in the ImageNet network they are not.
    """

    channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    padded: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        conv = partial(conv_relu, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0)
        x, sizes = conv(x, sizes, self.channels[0], 11, stride=4, padding=5 * self.padded, name="conv1")
        x, sizes = pool(x, sizes, 3, 2, padding=int(self.padded))
        x, sizes = conv(norm(x), sizes, self.channels[1], 5, padding=2, groups=2, name="conv2")
        x, sizes = pool(x, sizes, 3, 2, padding=int(self.padded))
        x, sizes = conv(norm(x), sizes, self.channels[2], name="conv3")
        x, sizes = conv(x, sizes, self.channels[3], groups=2, name="conv4")
        return conv(x, sizes, self.channels[4], groups=2, name="conv5")


class VGGCNNM1024(nn.Module):
    """Model M: the five convolutions of VGG_CNN_M_1024 (Chatfield et al., BMVC 2014); no last pooling."""

    channels: tuple[int, int, int, int, int] = (96, 256, 512, 512, 512)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        conv = partial(conv_relu, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(local_response_norm, size=5, alpha=5e-4, beta=0.75, k=2.0)
        x, sizes = conv(x, sizes, self.channels[0], 7, stride=2, padding=0, name="conv1")
        x, sizes = pool(norm(x), sizes, 3, 2)
        x, sizes = conv(x, sizes, self.channels[1], 5, stride=2, padding=1, name="conv2")
        x, sizes = pool(norm(x), sizes, 3, 2)
        for channels, name in zip(self.channels[2:], ("conv3", "conv4", "conv5"), strict=True):
            x, sizes = conv(x, sizes, channels, name=name)
        return x, sizes


class VGG16(nn.Module):
    """Model L: the 13 convolutions of VGG16 (Simonyan and Zisserman, ICLR 2015); no last pooling."""

    channels: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"], sizes: Sizes) -> tuple[Float[Array, "N h w D"], Sizes]:
        conv = partial(conv_relu, dtype=self.dtype, param_dtype=self.param_dtype)
        for stage, (count, channels) in enumerate(zip((2, 2, 3, 3, 3), self.channels, strict=True), start=1):
            if stage > 1:
                x, sizes = pool(x, sizes, 2, 2)
            for i in range(1, count + 1):
                x, sizes = conv(x, sizes, channels, name=f"conv{stage}_{i}")
        return x, sizes
