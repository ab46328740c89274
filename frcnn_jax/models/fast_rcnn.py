"""The detector: trunk, RoI pooling and head in one module (section 2)."""

from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real, UInt8

from frcnn_jax.models.layers import Sizes, mask_outside
from frcnn_jax.models.pixels import CAFFE_PIXELS, PixelNormalization, normalize_images
from frcnn_jax.ops.arguments import check_integers
from frcnn_jax.ops.precision import as_array, as_int32, widen
from frcnn_jax.ops.roi_pool.pool import project_rois, roi_max_pool
from frcnn_jax.ops.shapes import check_shapes


class FastRCNN(nn.Module):
    """Fast R-CNN (section 2): features once per image, then pooling and head per RoI. Each part is a method, so that it
    can be called alone: `model.apply({"params": params}, images, sizes, method="features")`. Detection calls the parts,
    training the whole: a subclass overrides `features`, `pool` and `head`, not `__call__`.
    """

    backbone: nn.Module
    head: nn.Module
    pixels: PixelNormalization = CAFFE_PIXELS
    output_size: tuple[int, int] = (7, 7)
    spatial_scale: float = 1 / 16  # feature cells per pixel; 1 / stride for a named architecture
    roi_pooling: str = "auto"  # implementation of `roi_max_pool`
    architecture: str = ""  # the name given to `create_model`

    @property
    def stride(self) -> int:
        """Pixels from one feature cell to the next."""
        return round(1 / self.spatial_scale)

    @property
    def shares_rois(self) -> bool:
        """True if boxes with corners on the same feature cells are pooled alike, so that detection pools one of them.

        False for a subclass with its own `pool`, which may not round corners to cells; one that does can return True.
        """
        return type(self).pool is FastRCNN.pool

    def __call__(
        self,
        images: Float[Array, "N H W 3"] | UInt8[Array, "N H W 3"],
        rois: Real[Array, "N R 4"],
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
            image_sizes: rows and columns of each image, the rest being padding, as integers of any kind; no padding if
                None. Beyond the padded images they count as far as these.
            train: apply dropout, from the "dropout" random stream.

        Raises:
            ValueError: a shape does not fit, for example because the axis of images is missing, or the sizes are not
                integers.
        """
        images, rois, scales, image_sizes = map(_given, (images, rois, scales, image_sizes))
        check_shapes(
            "the model",
            "images [N, H, W, 3], rois [N, R, 4], scales [N], image_sizes [N, 2]",
            *(images, rois, scales, image_sizes),
        )
        features, feature_sizes = self.features(images, image_sizes)
        pooled = self.pool(features, rois, scales, feature_sizes)
        logits, deltas = self.head(pooled.reshape(-1, *pooled.shape[2:]), train=train)
        shape = rois.shape[:2]
        return logits.reshape(*shape, *logits.shape[1:]), deltas.reshape(*shape, *deltas.shape[1:])

    def features(
        self, images: Float[Array, "N H W 3"] | UInt8[Array, "N H W 3"], image_sizes: Sizes = None
    ) -> tuple[Float[Array, "N h w C"], Sizes]:
        """The trunk's feature maps, and the rows and columns of each that are not padding.

        Raises:
            TypeError: the trunk does not return a pair, or no sizes though it got some.
            ValueError: a shape does not fit, the sizes are not integers, or the map has far more or fewer cells than
                `spatial_scale` says, so that RoIs would be pooled from other places.
        """
        images, image_sizes = map(_given, (images, image_sizes))
        check_shapes("the model", "images [N, H, W, 3], image_sizes [N, 2]", images, image_sizes)
        if image_sizes is not None:
            image_sizes = _within(image_sizes, images.shape[1:3])
        dtype = self.backbone.dtype
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = normalize_images(images, image_sizes, self.pixels, dtype)
        output = self.backbone(mask_outside(images.astype(dtype), image_sizes), image_sizes)
        self._check_trunk(output, images.shape, has_sizes=image_sizes is not None)
        return output

    def _check_trunk(self, output: Any, shape: tuple[int, ...], *, has_sizes: bool) -> None:
        """Raises an error if a trunk's output is not a pair, or its map does not fit images of `shape`."""
        name = type(self.backbone).__name__
        if not isinstance(output, tuple) or len(output) != 2 or (has_sizes and output[1] is None):
            raise TypeError(f"{name} must return the features and their sizes (None if it gets None), as a pair")
        cells, pixels = output[0].shape[1:3], shape[1:3]
        expected = [self.spatial_scale * side for side in pixels]
        # Networks without padding lose a few cells at the borders.
        if any(abs(side - wanted) > max(2, wanted / 4) for side, wanted in zip(cells, expected, strict=True)):
            raise ValueError(
                f"{name} gives {cells[0]} x {cells[1]} cells for {pixels[0]} x {pixels[1]} pixels, but spatial_scale "
                f"{self.spatial_scale:g} means a stride of {self.stride}: set it, as in model.clone(spatial_scale=1 / "
                f"{max(round(pixels[0] / max(cells[0], 1)), 1)})"
            )

    def pool(
        self,
        features: Float[Array, "N h w C"],
        rois: Real[Array, "N R 4"],
        scales: Float[Array, " N"] | None = None,
        feature_sizes: Sizes = None,
    ) -> Float[Array, "N R PH PW C"]:
        """RoI max pooling of each image's RoIs (half-open, original pixels) from its features.

        Raises:
            ValueError: a shape does not fit, or the sizes are not integers.
        """
        features, rois, scales, feature_sizes = map(_given, (features, rois, scales, feature_sizes))
        check_shapes(
            "the model",
            "features [N, h, w, C], rois [N, R, 4], scales [N], feature_sizes [N, 2]",
            *(features, rois, scales, feature_sizes),
        )
        rois, n = widen(rois), rois.shape[0]
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


def _given(x: Any) -> Any:
    """`x` as an array; None stays."""
    return None if x is None else as_array(x)


def _within(sizes: Int[Array, "N 2"], limit: tuple[int, int]) -> Int[Array, "N 2"]:
    """Sizes of images in 32 bits and at most `limit`, so that no cell is counted that a padded image does not have."""
    check_integers("the model", "image_sizes", sizes)
    return jnp.clip(as_int32(sizes), 0, jnp.array(limit, jnp.int32)[None])


def init_params(model: FastRCNN, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters: {"backbone": ..., "head": ...}.

    Raises:
        ValueError: the model has variables that are not parameters, such as running means of batch normalisation, which
            no step would update, or parameters outside of its backbone and head; or its trunk has another stride than
            `spatial_scale` says.
    """
    side = max(32, 2 * model.stride)
    images = jnp.zeros((1, side, side, 3), model.backbone.dtype)
    rois = jnp.zeros((1, 1, 4))
    # Parameters do not depend on the pooling; XLA's traces fastest, and anywhere.
    variables = jax.jit(model.clone(roi_pooling="xla").init)(key, images, rois)
    others = sorted(variables.keys() - {"params"})
    if others:
        raise ValueError(
            f"the model has variables besides parameters, {', '.join(others)}, which detection and training do not "
            "keep: replace for example nn.BatchNorm by nn.GroupNorm, or by a fixed scale and shift"
        )
    outside = sorted(variables["params"].keys() - {"backbone", "head"})
    if outside:
        raise ValueError(
            f"the model has parameters outside of its backbone and head, {', '.join(outside)}: put them into the head, "
            "which gets the pooled features, as pooling has none"
        )
    if type(model).features is FastRCNN.features:
        _check_stride(model, side)
    return variables["params"]


def _check_stride(model: FastRCNN, side: int) -> None:
    """Raises ValueError if larger images do not have one more row and column of features for each stride."""
    # So many that trunks whose strides differ by one differ by two cells or more, whatever they lose at the borders.
    cells = 4 * model.stride
    pixels = cells * model.stride
    try:
        more = _added_cells(model, side, pixels)
    except TypeError:  # a model that cannot be hashed
        more = _added_cells.__wrapped__(model, side, pixels)
    if (abs(more - model.spatial_scale * pixels) >= 1).any():
        raise ValueError(
            f"{type(model.backbone).__name__} gives {more[0]} x {more[1]} more cells for {pixels} x {pixels} more "
            f"pixels, but spatial_scale {model.spatial_scale:g} means {cells} x {cells}: set it, as in "
            f"model.clone(spatial_scale=1 / {max(round(pixels / max(more[0], 1)), 1)})"
        )


@lru_cache
def _added_cells(model: FastRCNN, side: int, pixels: int) -> np.ndarray:
    """Rows and columns that the features of an image with so many more pixels a side have more."""

    def map_size(side: int) -> np.ndarray:
        images = jax.ShapeDtypeStruct((1, side, side, 3), model.backbone.dtype)
        key = jax.eval_shape(jax.random.key, 0)
        features = jax.eval_shape(partial(model.init_with_output, method="features"), key, images)[0][0]
        return np.array(features.shape[1:3])

    return map_size(side + pixels) - map_size(side)
