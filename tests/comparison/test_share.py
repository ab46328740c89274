"""A share of the images: the same ones for all systems, in training and at test."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.comparison import fast_rcnn
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.stages import run, testing
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


def test_a_share_that_has_all_test_images_measures_no_map(data, tmp_path, monkeypatch):
    config, comparison = case(data)
    monkeypatch.setattr(testing, "detect_all", lambda *_: {})
    monkeypatch.setattr(testing, "write_evaluation", lambda *_, **__: {"map": 0.5, "ap": {}})
    for share, measured in ((0.9, {}), (1.0, {"map": 0.5, "ap": {}})):
        record = Record(tmp_path / "record.json", system="rcnn", model="tiny")
        settings = dataclasses.replace(comparison, share=share)
        dataset = run.open_dataset(config.data.test, config.data)
        positions = spread(len(dataset), share)
        assert len(positions) == len(dataset) == 4
        opened = run.Run(config, settings, tmp_path, dataset, positions, [np.zeros((2, 4))] * 4, [], record, {})
        assert testing.test_system(opened, None, None, None) == measured
        assert ("map" in record.content) == bool(measured)


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
