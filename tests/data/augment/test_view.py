"""Views of images and their boxes: numbers by hand, counted pixels, invariants, degenerate cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn_jax.config import AugmentConfig
from frcnn_jax.data.augment.view import (
    View,
    changes_views,
    choose_view,
    crop_boxes,
    crop_objects,
    view_at,
    visible_shares,
)
from frcnn_jax.data.batch_plan import resized_size
from frcnn_jax.types import GroundTruth

SIZE, SCALE = (100, 200), 2.0  # shown with 200 x 400 pixels
WINDOW = (10, 20, 50, 60)
CROP, JITTER = AugmentConfig(crop=0.5), AugmentConfig(scale_jitter=(0.5, 2.0))


def view(settings, *chance, size=SIZE, scale=SCALE):
    return view_at(np.array(chance), size, scale, settings)


def truth(*boxes, crowd=None):
    count = len(boxes)
    return GroundTruth(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(1, count + 1, dtype=np.int32),
        difficult=np.arange(count) % 2 == 1,
        crowd=None if crowd is None else np.array(crowd),
    )


def test_crops_by_hand():
    """From half to the whole of each side, and enlarged until one side fills the place of the whole."""
    assert view(CROP, 0, 0, 0, 0, 0) == View((0, 0, 100, 50), 4.0)
    assert view(CROP, 0.9, 0, 0, 0.999, 0.999) == View((100, 50, 200, 100), 4.0)
    assert view(CROP, 0, 0, 0, 0.5, 0.5) == View((50, 25, 150, 75), 4.0)
    # 0.5 + 0.6 / 2 = 0.8 of the height, which is then the side that fills: 100 / 80 times 2.
    assert view(CROP, 0, 0.6, 0, 0, 0) == View((0, 0, 100, 80), 2.5)
    assert view(CROP, 0, 0, 0.6, 0, 0) == View((0, 0, 160, 50), 2.5)


def test_scales_by_hand():
    """Between a half and twice, with 1 in the middle; what is larger than without is cut."""
    assert view(JITTER, 0, 0, 0, 0.5, 0.5) == View((0, 0, 200, 100), 1.0)
    assert view(JITTER, 0.25, 0, 0, 0.5, 0.5).scale == pytest.approx(2**0.5)
    assert view(JITTER, 0.5, 0, 0, 0.5, 0.5) == View((0, 0, 200, 100), 2.0)
    # At 2.828 times the image, 200 x 400 pixels are 70.7 x 141.4 of its own.
    larger = view(JITTER, 0.75, 0, 0, 0.5, 0.99)
    assert larger.scale == pytest.approx(8**0.5)
    assert larger.window == (59, 15, 200, 85)
    assert larger.size == (70, 141)
    twice = view(AugmentConfig(scale_jitter=(2.0, 2.0)), 0.3, 0, 0, 0, 0)
    assert twice == View((0, 0, 100, 50), 4.0)


def test_both_by_hand():
    """A half of each side would fill at 4.0; at half of that it is 100 x 200 pixels, and at twice that it is cut."""
    both = AugmentConfig(crop=0.5, scale_jitter=(0.5, 2.0))
    assert view(both, 0, 0, 0, 0, 0) == View((0, 0, 100, 50), 2.0)
    assert view(both, 0.99999999, 0, 0, 0, 0).size == (25, 50)
    # 80 x 100 pixels fill the height at 2.5; at 2.75 the height is cut, and of the width, 275 of 400, nothing.
    assert view(AugmentConfig(crop=0.5, scale_jitter=(1.1, 1.1)), 0, 0.6, 0, 0, 0).size == (72, 100)


def test_without_settings_the_view_is_the_whole():
    for size, scale in ((SIZE, SCALE), ((375, 500), 1.6), ((333, 500), 480 / 333), ((1, 3), 1000 / 3), ((1, 1), 600.0)):
        chance = np.random.default_rng(0).random(5)
        assert view_at(chance, size, scale, AugmentConfig()) == View((0, 0, size[1], size[0]), scale)
    assert not changes_views(AugmentConfig(hue=0.5, min_visible=0.1))
    assert changes_views(AugmentConfig(crop=0.99))
    assert changes_views(AugmentConfig(scale_jitter=(0.5, 1.0)))


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    shorter=st.integers(16, 1200),
    chance=st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
    crop=st.floats(0.01, 1),
    low=st.floats(0.1, 4),
    more=st.floats(1, 4),
)
def test_a_view_lies_in_the_image_and_takes_no_more_room(size, shorter, chance, crop, low, more):
    scale = min(shorter / min(size), 1000 / max(size))
    settings = AugmentConfig(crop=crop, scale_jitter=(low, low * more))
    found = view(settings, *chance, size=size, scale=scale)
    x1, y1, x2, y2 = found.window
    assert 0 <= x1 < x2 <= size[1]
    assert 0 <= y1 < y2 <= size[0]
    height, width = resized_size(found.size, found.scale)
    room = resized_size(size, scale)
    assert 1 <= height <= room[0]
    assert 1 <= width <= room[1]
    # Nothing is cut for a pixel's sake: with a factor of 1 or more one side is filled, up to the last pixel shown.
    if low >= 1 and 1 not in found.size:
        assert height >= room[0] - found.scale - 1 or width >= room[1] - found.scale - 1


def test_boxes_in_a_part_by_hand():
    whole = [12, 22, 20, 30]
    cut = [0, 30, 30, 50]  # 600 square pixels, 20 x 20 of them inside
    sliver = [49, 20, 99, 60]
    beside, corner = [50, 20, 60, 60], [0, 0, 10, 20]
    boxes = np.array([whole, cut, sliver, beside, corner], np.float32)
    np.testing.assert_allclose(visible_shares(boxes, WINDOW), [1, 2 / 3, 1 / 50, 0, 0])
    found = crop_objects(truth(*boxes), WINDOW, 0.5)
    np.testing.assert_array_equal(found.boxes, [[2, 2, 10, 10], [0, 10, 20, 30], [39, 0, 40, 40]])
    assert found.labels.tolist() == [1, 2, 3]
    assert found.difficult.tolist() == [False, True, False]
    assert found.crowd.tolist() == [False, False, True], "the sliver is a region to be left alone"
    np.testing.assert_array_equal(
        crop_boxes(boxes, WINDOW), [[2, 2, 10, 10], [0, 10, 20, 30], [39, 0, 40, 40]], "proposals are clipped alone"
    )


def test_the_bound_belongs_to_the_objects():
    half = truth([0, 20, 20, 40])
    assert not crop_objects(half, WINDOW, 0.5).crowd[0]
    assert crop_objects(half, WINDOW, 0.501).crowd[0]
    assert not crop_objects(half, WINDOW, 0.0).crowd[0]
    assert len(crop_objects(truth([0, 0, 10, 10]), WINDOW, 0.0).boxes) == 0, "outside is outside"


def test_a_crowd_stays_one():
    found = crop_objects(truth([0, 0, 49, 59], [0, 0, 10, 20], crowd=[True, True]), WINDOW, 0.5)
    assert found.crowd.tolist() == [True]
    np.testing.assert_array_equal(found.boxes, [[0, 0, 39, 39]])


@pytest.mark.parametrize("seed", range(3))
def test_shares_agree_with_counted_pixels(seed):
    random = np.random.default_rng(seed)
    corners = random.integers(0, 40, (60, 2))
    boxes = np.concatenate([corners, corners + random.integers(0, 30, (60, 2))], axis=1)
    expected, kept = [], []
    for x1, y1, x2, y2 in boxes.tolist():
        pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
        inside = {(x, y) for x, y in pixels if WINDOW[0] <= x < WINDOW[2] and WINDOW[1] <= y < WINDOW[3]}
        expected.append(len(inside) / max(len(pixels), 1))
        if inside:
            xs, ys = zip(*inside, strict=True)
            kept.append([min(xs) - 10, min(ys) - 20, max(xs) - 9, max(ys) - 19])
    np.testing.assert_allclose(visible_shares(boxes, WINDOW), expected, rtol=1e-6)
    assert 0 < len(kept) < 60
    np.testing.assert_array_equal(crop_boxes(boxes, WINDOW), kept)
    np.testing.assert_array_equal(crop_objects(truth(*boxes), WINDOW, 0.3).boxes, kept)


def test_a_part_of_a_pixel_is_no_proposal():
    boxes = np.array([[0, 30, 10.5, 40], [0, 30, 11, 40], [20, 59.1, 30, 80]], np.float32)
    np.testing.assert_array_equal(crop_boxes(boxes, WINDOW), [[0, 10, 1, 20]])


def test_the_whole_image_as_a_part_changes_no_box():
    boxes = np.array([[0, 0, 200, 100], [3.25, 4.5, 9.75, 10.125]], np.float32)
    np.testing.assert_array_equal(crop_boxes(boxes, (0, 0, 200, 100)), boxes)
    found = crop_objects(truth(*boxes, crowd=[False, True]), (0, 0, 200, 100), 1.0)
    np.testing.assert_array_equal(found.boxes, boxes)
    assert found.crowd.tolist() == [False, True]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64])
def test_boxes_of_other_types_are_numbers(dtype):
    """The left corner is moved by more than it is, which no unsigned type holds."""
    assert crop_boxes(np.array([[5, 30, 30, 40]], dtype), WINDOW).tolist() == [[0, 10, 20, 20]]
    assert visible_shares(np.array([[5, 30, 30, 40]], dtype), WINDOW).tolist() == pytest.approx([0.8])


def test_the_first_view_that_keeps_an_object():
    top_left, bottom_right = [0, 0, 0, 0, 0], [0, 0, 0, 0.999, 0.999]
    object_below = truth([150, 60, 190, 90])
    chances = np.array([top_left, top_left, bottom_right, top_left])
    assert choose_view(chances, SIZE, SCALE, object_below, CROP) == View((100, 50, 200, 100), 4.0)
    whole = View((0, 0, 200, 100), SCALE)
    assert choose_view(chances[:2], SIZE, SCALE, object_below, CROP) == whole
    large = truth([0, 0, 200, 100])  # a quarter of it is in any of them
    assert choose_view(chances, SIZE, SCALE, large, CROP) == whole
    quarter = AugmentConfig(crop=0.5, min_visible=0.25)
    assert choose_view(chances, SIZE, SCALE, large, quarter) == View((0, 0, 100, 50), 4.0)
    nothing = AugmentConfig(crop=0.5, min_visible=0.0)
    assert choose_view(chances[:2], SIZE, SCALE, object_below, nothing) == whole, "nothing of it is seen"


@pytest.mark.parametrize("objects", [truth(), truth([0, 0, 0, 0], crowd=[True])])
def test_without_objects_the_first_view_is_taken(objects):
    chances = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0.999, 0.999]])
    assert choose_view(chances, SIZE, SCALE, objects, CROP) == View((0, 0, 100, 50), 4.0)
    assert len(crop_objects(truth(), WINDOW, 0.5).boxes) == 0
    assert crop_boxes(np.zeros((0, 4), np.float32), WINDOW).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_images_of_few_pixels(size):
    scale = min(48 / min(size), 96 / max(size))
    for chance in np.random.default_rng(0).random((50, 5)):
        found = view_at(chance, size, scale, AugmentConfig(crop=0.1, scale_jitter=(0.2, 5.0)))
        assert min(found.size) >= 1
        assert np.all(np.array(resized_size(found.size, found.scale)) <= resized_size(size, scale))
