"""Several data sets as one: images, boxes and ids in order, and images that they share."""

import numpy as np
import pytest

from frcnn_jax.data.joined import JoinedDataset, join_datasets
from tests.data.test_pipeline import Images


def test_joined_data_sets_read_as_one():
    parts = (Images("first", 2), Images("nothing", 0, objects=()), Images("second", 3))
    joined = join_datasets(parts)
    assert isinstance(joined, JoinedDataset)
    assert len(joined) == len(joined.sizes) == len(joined.annotations) == 5
    assert joined.image_ids == ("first/i0", "first/i1", "second/i0", "second/i1", "second/i2")
    assert joined.name == "first + nothing + second"
    for index, (part, k) in enumerate([(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]):
        np.testing.assert_array_equal(joined.read_image(index), parts[part].pixels[k])
        np.testing.assert_array_equal(joined.annotations[index].boxes, parts[part].annotations[k].boxes)
        np.testing.assert_array_equal(joined.sizes[index], parts[part].sizes[k])
    with pytest.raises(IndexError):
        joined.read_image(5)


def test_images_of_two_sets_are_counted(caplog):
    keys = {"first": "abb", "second": "bcd", "third": "ad"}
    parts = []
    for name, letters in keys.items():
        part = Images(name, len(letters))
        part.image_fingerprint = letters.__getitem__
        parts.append(part)
    join_datasets(parts)
    assert caplog.messages == [
        "first + second + third: 3 images are in more than one of these sets, and are used for each"
    ]


def test_one_data_set_is_left_as_it_is():
    dataset = Images()
    assert join_datasets([dataset]) is dataset


def test_data_sets_with_other_classes_do_not_join():
    dataset, other = Images(), Images("other", classes=("a", "c"))
    with pytest.raises(ValueError, match=r"images and other have different classes: \('a', 'b'\), \('a', 'c'\)"):
        join_datasets([dataset, other])


def test_orientations_that_differ_are_none():
    """A set that does not state one says nothing."""
    ways = {"turned": "apply", "stored": "ignore", "unknown": None}
    parts = {name: Images(name, 1) for name in ways}
    for name, way in ways.items():
        parts[name].orientation = way
    turned, stored, unknown = parts.values()
    assert JoinedDataset([turned, unknown, turned]).orientation == "apply"
    assert JoinedDataset([turned, unknown, stored]).orientation is None
    assert JoinedDataset([unknown, unknown]).orientation is None


def test_no_data_sets_do_not_join():
    with pytest.raises(ValueError, match="no data sets to join"):
        join_datasets([])
