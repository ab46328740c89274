"""A share of the images: the same ones for all systems, in training and at test."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.comparison import fast_rcnn
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.stages import run
from frcnn_jax.comparison.stages.share import spread
from tests.comparison.cases import case

pytestmark = pytest.mark.usefixtures("small")


def test_a_run_has_the_images_of_its_share(data, tmp_path):
    config, comparison = case(data)
    comparison = dataclasses.replace(comparison, share=0.4)
    arguments = config, comparison, tmp_path, "rcnn", comparison.rcnn
    for opened, positions in ((run.open_training(*arguments), [0, 2, 4, 7]), (run.open_test(*arguments), [0, 3])):
        with opened as found:
            assert spread(len(found.dataset), 0.4).tolist() == positions
            assert (found.num_images, found.share) == (len(positions), 0.5)
            assert list(found.image_ids) == [found.dataset.image_ids[i] for i in positions]
            whole = run.open_proposals if len(positions) == 2 else None
            for place, position in enumerate(positions):
                np.testing.assert_array_equal(found.images[place], found.dataset.read_image(position))
                assert found.annotations[place] is found.dataset.annotations[position]
                assert tuple(found.sizes[place]) == tuple(found.dataset.sizes[position])
            if whole is not None:
                boxes = whole(found.dataset, config.proposals, config.proposals.test_file)
                np.testing.assert_array_equal(found.proposals[1], boxes[3])


def test_fast_rcnn_is_timed_on_the_same_images(data, tmp_path, monkeypatch):
    config, comparison = case(data)
    seen = []

    def timed(detector):
        return lambda watch, image, boxes: seen.append(image)

    monkeypatch.setattr(fast_rcnn, "_timed", timed)
    detector = SimpleNamespace(config=config, step=1, params={}, statistics={})
    record = Record(tmp_path / "record.json", system="fast_rcnn", model="tiny")
    record.set(images=[8])
    fast_rcnn._test(detector, tmp_path, dataclasses.replace(comparison, share=0.4), record, "")
    dataset = fast_rcnn.open_dataset(config.data.test, config.data)
    for image, position in zip(seen, [0, 3], strict=True):
        np.testing.assert_array_equal(image, dataset.read_image(position))
