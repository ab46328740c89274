"""An ImageNet network without its classifier, on whole windows: one pass per window, as in R-CNN."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from frcnn_jax.models.layers import flatten, pool
from frcnn_jax.models.pixels import CAFFE_PIXELS, PixelNormalization, normalize_images


class WindowNetwork(nn.Module):
    """Trunk, the last max pooling if any, and the layers below the classifier.

    Parameters have the detector's names, so that a detector's parameters fit: `network.apply({"params": params},
    windows)`. Windows have the size that the network was trained on.
    """

    backbone: nn.Module
    head: nn.Module  # maps pooled features to the vector before the classifier
    pooling: tuple[int, int] | None  # size and stride of the last max pooling; None: no pooling
    pixels: PixelNormalization = CAFFE_PIXELS
    regression_pooling: tuple[int, int] | None = None  # the same, before box regressors only

    def __call__(
        self, windows: Float[Array, "B H W 3"] | UInt8[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B F"]:
        """The vector before the classifier: fc7 after its ReLU, or the mean over the cells of the last stage.

        Args:
            windows: floating: network input as `normalize_images` makes it; uint8: RGB pixels, normalised here.
            train: apply dropout, from the "dropout" random stream.
        """
        return self.head(self.pool5(windows), train=train)

    def pool5(self, windows: Float[Array, "B H W 3"] | UInt8[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """The last pooled features, which fc6 takes in row-major order; without pooling, the trunk's features."""
        dtype = self.backbone.dtype
        if jnp.issubdtype(windows.dtype, jnp.integer):
            windows = normalize_images(windows, None, self.pixels, dtype)
        features, _ = self.backbone(windows.astype(dtype), None)
        return features if self.pooling is None else pool(features, None, *self.pooling)[0]

    def regression_features(self, pooled: Float[Array, "B h w C"]) -> Float[Array, "B D"]:
        """The features that R-CNN's box regressors take, one row per window."""
        if self.regression_pooling is not None:
            pooled, _ = pool(pooled, None, *self.regression_pooling)
        return flatten(pooled)
