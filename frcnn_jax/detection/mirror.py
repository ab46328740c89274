"""The second view of a test with `flip`: images and boxes mirrored left to right, and the mean of both outputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real, UInt8

from frcnn_jax.ops.precision import as_array, widen
from frcnn_jax.types import BoxStatistics

# Class logits and box offsets of each RoI.
Outputs = tuple[Float[Array, "N R K1"], Float[Array, "N R K1 4"]]


def mirror_images(images: UInt8[Array, "N H W 3"], image_sizes: Int[Array, "N 2"]) -> UInt8[Array, "N H W 3"]:
    """The valid top-left part of each image mirrored; padding stays in its place."""
    column = jnp.arange(images.shape[2])[None]
    width = as_array(image_sizes)[:, 1:]
    source = jnp.where(column < width, width - 1 - column, column)
    return jax.vmap(lambda image, columns: image[:, columns])(images, source)


def mirror_boxes(boxes: Real[Array, "N B 4"], original_sizes: Int[Array, "N 2"]) -> Float[Array, "N B 4"]:
    """The boxes in the mirrored images of these heights and widths, in float32 at least."""
    x1, y1, x2, y2 = jnp.moveaxis(widen(boxes), -1, 0)
    width = as_array(original_sizes)[:, 1:].astype(x1.dtype)
    return jnp.stack([width - x2, y1, width - x1, y2], axis=-1)


def mean_of_views(plain: Outputs, mirrored: Outputs, statistics: BoxStatistics) -> Outputs:
    """Outputs whose class probabilities and box offsets are the means of both views'.

    Args:
        mirrored: the outputs for the mirrored RoIs; the horizontal offset of their centres changes its sign.
        statistics: of the offsets, which are normalised: the sign changes before the normalisation.
    """
    (logits, deltas), (other_logits, other_deltas) = (tuple(map(widen, outputs)) for outputs in (plain, mirrored))
    logits = jnp.logaddexp(jax.nn.log_softmax(logits), jax.nn.log_softmax(other_logits)) - jnp.log(2.0)
    mean, std = as_array(statistics.mean), as_array(statistics.std)
    turned = other_deltas.at[..., 0].set(-other_deltas[..., 0] - (2 * mean[:, 0] / std[:, 0])[None, None])
    return logits, (deltas + turned) / 2
