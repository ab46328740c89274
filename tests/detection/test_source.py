"""Batches of a test set: every image once, like shapes together, room for RoIs, one compilation of each shape."""

import dataclasses
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import InputConfig
from frcnn_jax.detection import stages
from frcnn_jax.detection.pyramid import PyramidShape
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.detection.source import PyramidSource
from frcnn_jax.detection.stages import detect_pyramid
from frcnn_jax.types import BoxStatistics
from tests.weights.detectors import random_params, small_model

CONFIG = InputConfig(test_scale=32, test_max_size=48, test_batch_size=2)


class Images:
    """Images of one colour each, three of them portraits, without objects."""

    name = "made"

    def __init__(self, *sizes):
        self.sizes = np.array(sizes or [(30, 40), (40, 30), (30, 41), (40, 31), (40, 40), (33, 30)])
        self.image_ids = tuple(f"im{i}" for i in range(len(self.sizes)))

    def __len__(self):
        return len(self.sizes)

    def read_image(self, index):
        return np.full((*self.sizes[index], 3), 10 + index, np.uint8)


def proposals_of(dataset, counts):
    """So many distinct boxes for each image, each of them twice."""
    grid = np.stack(np.meshgrid(np.arange(0, 3200, 32), np.arange(0, 3200, 32)), axis=-1).reshape(-1, 2)
    boxes = [np.concatenate([grid[:n], grid[:n] + 20], axis=1).astype(np.float32) for n in counts]
    return [np.concatenate([b, b]) for b in boxes]


def test_every_image_once_with_those_of_its_shape():
    dataset = Images()
    proposals = proposals_of(dataset, (3, 70, 0, 200, 1, 2))
    source = PyramidSource(dataset, proposals, CONFIG, 1 / 16)
    batches = [source[step] for step in range(len(source))]
    # Landscapes go to 32 x 48, portraits to 48 x 32; the square and the fifth fit into the first as well.
    assert [b.levels[0].images.shape[1:3] for b in batches] == [(32, 48), (32, 48), (48, 32), (48, 32)]
    assert [b.image_index[b.image_mask].tolist() for b in batches] == [[0, 2], [4], [1, 3], [5]]
    for batch in batches:
        (level,) = batch.levels
        portrait = level.images.shape[1] == 48
        # The most distinct RoIs of a shape are 3 and 200; the most proposals of all are 400.
        assert level.rois.shape == (2, 256 if portrait else 64, 4)
        assert batch.num_rois == level.rois.shape[1]
        assert batch.proposals.shape == (2, 448, 4)
        for n in np.flatnonzero(batch.image_mask):
            index = int(batch.image_index[n])
            height, width = level.image_sizes[n]
            assert (level.images[n, :height, :width] == 10 + index).all()
            assert level.images[n].sum() == 3 * height * width * (10 + index)
            assert (height, width) == tuple(np.round(dataset.sizes[index] * level.scales[n]))
            np.testing.assert_array_equal(batch.original_sizes[n], dataset.sizes[index])
            count = len(proposals[index])
            assert batch.proposal_mask[n].sum() == count
            np.testing.assert_array_equal(batch.proposals[n, :count], proposals[index])
            # Each proposal is on the cells of its RoI, here its own twin.
            np.testing.assert_array_equal(level.rois[n][batch.roi_index[n, :count]], proposals[index])


def test_a_level_of_each_scale():
    dataset = Images((30, 40))
    boxes = np.float32([[0, 0, 38, 28], [1, 1, 11, 11], [0, 0, 38, 27.9]])
    # 38 x 28 has 26600 pixels at factor 5 and 179816 at 13; 10 x 10 has 2500 and 16900.
    config = dataclasses.replace(CONFIG, test_scales=(150, 32, 390), test_max_size=1000)
    batch = PyramidSource(dataset, [boxes], config, 1 / 16)[0]
    first, last = batch.levels
    assert [level.image_sizes[0].tolist() for level in batch.levels] == [[150, 200], [390, 520]]
    assert first.images.shape == (2, 160, 208, 3)
    np.testing.assert_array_equal(first.rois[0, 0], boxes[0])
    np.testing.assert_array_equal(last.rois[0, 0], boxes[1])
    assert batch.roi_index[0, :3].tolist() == [0, 1, 0]


def test_buckets_of_the_config_are_used_and_must_hold_every_image():
    dataset = Images()
    none = [np.zeros((0, 4), np.float32)] * 6
    square = PyramidSource(dataset, none, dataclasses.replace(CONFIG, buckets=((64, 64),)), 1 / 16)
    assert len(square) == 3
    assert square[0].levels[0].images.shape == (2, 64, 64, 3)
    with pytest.raises(ValueError, match=r"3 images fit in none of input.buckets .* the first is im1"):
        PyramidSource(dataset, none, dataclasses.replace(CONFIG, buckets=((32, 48),)), 1 / 16)
    with pytest.raises(ValueError, match="made has 6 images but there are proposals for 5"):
        PyramidSource(dataset, none[:5], CONFIG, 1 / 16)


def test_no_images():
    dataset = Images()
    dataset.sizes, dataset.image_ids = np.zeros((0, 2), int), ()
    assert len(PyramidSource(dataset, [], CONFIG, 1 / 16)) == 0


def test_each_shape_is_compiled_once():
    dataset, model = Images(), small_model()
    params, statistics = random_params(model), BoxStatistics(mean=jnp.zeros((4, 4)), std=jnp.ones((4, 4)))
    source = PyramidSource(dataset, proposals_of(dataset, (3, 70, 0, 130, 1, 2)), CONFIG, 1 / 16)
    compiled = (stages._features, stages._pool, stages._outputs, stages._select)
    before = np.array([stage._cache_size() for stage in compiled])
    for step in range(len(source)):
        jax.block_until_ready(
            detect_pyramid(params, statistics, source[step], model=model, settings=DetectionSettings())
        )
    assert (np.array([stage._cache_size() for stage in compiled]) - before).tolist() == [2, 2, 2, 1]
    assert len({shape for shape, _ in source._steps}) == 2
    assert all(isinstance(shape, PyramidShape) for shape, _ in source._steps)


def test_memory_grows_with_the_images_and_not_with_their_proposals():
    dataset = Images(*[(30, 40)] * 40)
    boxes = proposals_of(dataset, [2000])[0]  # 4000 of them, 64 kB

    def held(proposals):
        tracemalloc.start()
        source = PyramidSource(dataset, proposals, CONFIG, 1 / 16)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size, source

    small, _ = held([boxes[:1]] * 40)
    large, source = held([boxes] * 40)
    assert large < small + boxes.nbytes * 8
    assert source[0].proposal_mask.sum() == 2 * 4000
