"""Pictures of a training image and its objects with random augmentation, several times."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.config import AugmentConfig, InputConfig
from frcnn_jax.data.batch_plan import BatchPlan, resize_scale, resized_size
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.pipeline import BatchSource
from frcnn_jax.evaluation.drawing import draw_objects
from frcnn_jax.evaluation.looking.objects import objects_in_batch
from frcnn_jax.types import Batch

__all__ = ["draw_augmented"]

_COLUMNS, _GAP = 3, 6  # pictures per row, pixels between them


def draw_augmented(
    dataset: Dataset, index: int, config: InputConfig, *, count: int = 5, seed: int = 0
) -> UInt8[np.ndarray, "H W 3"]:
    """The original image, followed by `count` random augmented versions, at the first of `config.scales`.

    Objects are drawn in the colour of their class; remains of cropped objects, where nothing is learned, are dashed in
    white. Black is padding.
    """
    size = tuple(int(side) for side in dataset.sizes[index])
    scale = resize_scale(size, config.scales[0], config.max_size)
    coins = np.random.default_rng(seed + index).random((2, 1, count)) < 0.5
    plain = BatchPlan(
        images=np.array([[index]]),
        scales=np.array([[scale]]),
        flipped=np.zeros((1, 1), bool),
        flipped_vertical=np.zeros((1, 1), bool),
        buckets=np.array([resized_size(size, scale)]),
    )
    drawn = dataclasses.replace(
        plain,
        images=np.full((1, count), index),
        scales=np.full((1, count), scale),
        flipped=coins[0] & config.flip,
        flipped_vertical=coins[1] & config.flip_vertical,
    )
    most = max(len(truth.labels) for truth in dataset.annotations)
    proposals, tiles = [np.zeros((0, 4), np.float32)] * len(dataset), []
    for plan, augment in ((plain, AugmentConfig()), (drawn, config.augment)):
        batch = BatchSource(dataset, proposals, plan, max_objects=most, augment=augment, seed=seed + index)[0]
        tiles += [_tile(batch, n) for n in range(len(batch.images))]
    rows = -(-len(tiles) // _COLUMNS)
    height, width = tiles[0].shape[0] + _GAP, tiles[0].shape[1] + _GAP
    sheet = np.full((rows * height - _GAP, min(len(tiles), _COLUMNS) * width - _GAP, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // _COLUMNS * height, place % _COLUMNS * width
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet


def _tile(batch: Batch, n: int) -> UInt8[np.ndarray, "H W 3"]:
    """The nth image of a batch with its objects."""
    return draw_objects(batch.images[n], objects_in_batch(batch, n, batch.scales[n]))
