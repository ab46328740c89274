"""The detector: trunk, RoI pooling and head in one module, and the constructors that people call."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from frcnn_jax.models.backbones import VGG16, VGGCNNM1024, CaffeNet
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.layers import Sizes, mask_outside
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.ops.roi_pool import project_rois, roi_max_pool


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """How 8-bit RGB pixels become what a network was trained on; it belongs to the weights and is kept with them."""

    mean: tuple[float, float, float]  # in the network's channel order, 0 ... 255
    std: tuple[float, float, float]
    order: str = "rgb"  # or "bgr"

    def __post_init__(self):
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"the order of pixels is 'rgb' or 'bgr', not {self.order!r}")


CAFFE_PIXELS = PixelNormalization((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")
TORCHVISION_PIXELS = PixelNormalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")
CENTERED_PIXELS = PixelNormalization((127.5, 127.5, 127.5), (64.0, 64.0, 64.0), "rgb")


def normalize_images(
    images: UInt8[Array, "N H W 3"], sizes: Sizes, pixels: PixelNormalization, dtype: Any = jnp.float32
) -> Float[Array, "N H W 3"]:
    """8-bit RGB images as network input: mean and deviation per channel, zero outside `sizes` (rows, columns)."""
    x = images[..., ::-1] if pixels.order == "bgr" else images
    wide = jnp.promote_types(dtype, jnp.float32)
    mean, std = (jnp.array(v, wide)[None, None, None] for v in (pixels.mean, pixels.std))
    return mask_outside((x.astype(wide) - mean) / std, sizes).astype(dtype)


class FastRCNN(nn.Module):
    """Fast R-CNN (section 2): features once for each image, then pooling and head for each RoI.

    Each part is a method of its own, so that it can be called alone:
    `model.apply({"params": params}, images, sizes, method="features")`.
    """

    backbone: nn.Module
    head: nn.Module
    pixels: PixelNormalization = CAFFE_PIXELS
    output_size: tuple[int, int] = (7, 7)
    spatial_scale: float = 1 / 16
    roi_pooling: str = "xla"  # implementation of `roi_max_pool`

    def __call__(
        self,
        images: Float[Array, "N H W 3"] | UInt8[Array, "N H W 3"],
        rois: Float[Array, "N R 4"],
        *,
        scales: Float[Array, " N"] | None = None,
        image_sizes: Int[Array, "N 2"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "N R K1"], Float[Array, "N R K1 4"]]:
        """Class logits and box offsets of each RoI.

        Args:
            images: floating: network input as `normalize_images` makes it; uint8: RGB pixels, normalised here.
            rois: half-open boxes in pixels of the image before it was resized by its scale.
            scales: resized size / original size; 1 if None.
            image_sizes: rows and columns of each image where the rest is padding; no padding if None.
            train: apply dropout, from the "dropout" random stream.
        """
        features, feature_sizes = self.features(images, image_sizes)
        pooled = self.pool(features, rois, scales, feature_sizes)
        logits, deltas = self.head(pooled.reshape(-1, *pooled.shape[2:]), train=train)
        shape = rois.shape[:2]
        return logits.reshape(*shape, *logits.shape[1:]), deltas.reshape(*shape, *deltas.shape[1:])

    def features(
        self, images: Float[Array, "N H W 3"] | UInt8[Array, "N H W 3"], image_sizes: Sizes = None
    ) -> tuple[Float[Array, "N h w C"], Sizes]:
        """The trunk's feature maps of stride 16, and the rows and columns of each that are no padding."""
        dtype = self.backbone.dtype
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = normalize_images(images, image_sizes, self.pixels, dtype)
        return self.backbone(mask_outside(images.astype(dtype), image_sizes), image_sizes)

    def pool(
        self,
        features: Float[Array, "N h w C"],
        rois: Float[Array, "N R 4"],
        scales: Float[Array, " N"] | None = None,
        feature_sizes: Sizes = None,
    ) -> Float[Array, "N R PH PW C"]:
        """RoI max pooling of each image's RoIs (half-open, original pixels) from its features."""
        n = rois.shape[0]
        scales = jnp.ones(n, rois.dtype) if scales is None else scales
        projected = jax.vmap(project_rois)(rois, scales.astype(rois.dtype))
        if feature_sizes is None:
            feature_sizes = jnp.tile(jnp.array(features.shape[1:3])[None], (n, 1))
        pool = partial(
            roi_max_pool,
            output_size=self.output_size,
            spatial_scale=self.spatial_scale,
            implementation=self.roi_pooling,
        )
        return jax.vmap(lambda f, r, s: pool(f, r, valid_size=s))(features, projected, feature_sizes)


# Trunk, widths of fc6 and fc7, RoI grid, and pixels, by name.
_ARCHITECTURES = {
    "caffenet": (CaffeNet, (4096, 4096), (6, 6), CAFFE_PIXELS),
    "vgg_cnn_m_1024": (VGGCNNM1024, (4096, 1024), (6, 6), CAFFE_PIXELS),
    "vgg16": (VGG16, (4096, 4096), (7, 7), CAFFE_PIXELS),
    "tiny": (TinyBackbone, (512, 256), (7, 7), CENTERED_PIXELS),
}


def create_model(
    name: str,
    num_classes: int,
    *,
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    pixels: PixelNormalization | None = None,
    fc6_rank: int | None = None,
    fc7_rank: int | None = None,
    roi_pooling: str = "xla",
) -> FastRCNN:
    """A detector by name: "caffenet", "vgg_cnn_m_1024", "vgg16" (the paper's S, M and L) or "tiny".

    Args:
        num_classes: classes including background: 21 for VOC.
        dropout: probability after fc6 and fc7.
        dtype: of activations; `param_dtype`: of parameters.
        pixels: normalisation of 8-bit images; the architecture's own if None.
        fc6_rank, fc7_rank: make two layers of fc6 or fc7, for weights compressed to that rank (section 3.1).
        roi_pooling: "xla", or "pallas" for kernels on GPUs (see `roi_max_pool`).

    Raises:
        ValueError: the name is not known, there is no class beside background, or a rank is not in 1 ... the smaller
            side of its layer.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"no model {name!r}; there are {', '.join(sorted(_ARCHITECTURES))}")
    if num_classes < 2:
        raise ValueError(f"num_classes counts background and must be at least 2, not {num_classes}")
    make_backbone, widths, output_size, default_pixels = _ARCHITECTURES[name]
    types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    backbone = make_backbone(**types)
    inputs = backbone.channels[-1] * output_size[0] * output_size[1]
    _check_rank("fc6_rank", fc6_rank, inputs, widths[0])
    _check_rank("fc7_rank", fc7_rank, *widths)
    return FastRCNN(
        backbone=backbone,
        head=FastRCNNHead(num_classes, widths, dropout, (fc6_rank, fc7_rank), **types),
        pixels=default_pixels if pixels is None else pixels,
        output_size=output_size,
        roi_pooling=roi_pooling,
    )


def _check_rank(argument: str, rank: int | None, inputs: int, outputs: int) -> None:
    if rank is not None and not 1 <= rank <= min(inputs, outputs):
        raise ValueError(f"{argument} {rank} is not in 1 ... {min(inputs, outputs)}: the layer is {inputs} x {outputs}")


def init_params(model: FastRCNN, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters: {"backbone": ..., "head": ...}."""
    images = jnp.zeros((1, 32, 32, 3), model.backbone.dtype)
    rois = jnp.zeros((1, 1, 4))
    return jax.jit(model.init)(key, images, rois)["params"]
