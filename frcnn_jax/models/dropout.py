"""Dropout that depends on an image's position in the batch, for any number of devices."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Int


def dropout_by_image(places: Int[Array, " N"]) -> AbstractContextManager:
    """Makes every `nn.Dropout` applied in the block draw each image with its own key.

    The first dimension of the layer's input must be that of images, as in a trunk, or of vectors grouped by image, as
    in a head.

    Args:
        places: positions of the images in the batch that all devices share.
    """
    return nn.intercept_methods(partial(_draw_by_image, places=places))


def _draw_by_image(
    call: Callable[..., Any], inputs: tuple, options: dict[str, Any], context: Any, *, places: Int[Array, " N"]
) -> Any:
    layer = context.module
    if not isinstance(layer, nn.Dropout) or context.method_name != "__call__":
        return call(*inputs, **options)
    given = dict(zip(("inputs", "deterministic", "rng"), inputs, strict=False)) | options
    deterministic = layer.deterministic if given.get("deterministic") is None else given["deterministic"]
    x, count = given["inputs"], len(places)
    by_image = count > 0 and x.shape[0] % count == 0
    if deterministic or layer.rate in (0, 1) or given.get("rng") is not None or not by_image:
        return call(*inputs, **options)
    key = layer.make_rng(layer.rng_collection)
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
    rows = x.reshape(count, x.shape[0] // count, *x.shape[1:])
    return jax.vmap(lambda x, key: call(x, deterministic=given.get("deterministic"), rng=key))(rows, keys).reshape(
        x.shape
    )
