"""Selective Search of one image."""

import dataclasses

import cv2
import numpy as np
import pytest

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.proposals import selective_search as module
from frcnn_jax.data.proposals.selective_search import rank_boxes, search_image, selective_search

SETTINGS = {"mode": "fast", "max_side": 0, "max_count": 2000, "min_side": 4.0}
MUTUAL = {**SETTINGS, "mode": "mutual"}


@pytest.fixture
def image():
    """A red and a blue rectangle on grey noise."""
    image = np.random.default_rng(0).integers(100, 140, (60, 90, 3), dtype=np.uint8)
    image[10:30, 10:40] = (220, 20, 20)
    image[35:55, 50:80] = (20, 20, 220)
    return image


def iou(box, boxes):
    common = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common)


@pytest.mark.parametrize("mode", ["fast", "quality", "mutual"])
@pytest.mark.parametrize("max_side", [0, 60])
def test_it_finds_the_rectangles(image, mode, max_side):
    boxes = selective_search(image, **{**SETTINGS, "mode": mode, "max_side": max_side})
    assert boxes.dtype == np.float32
    for box in ([10, 10, 40, 30], [50, 35, 80, 55]):
        # The segmentation blurs the image first, which moves an edge by a pixel or so.
        assert iou(np.array(box, np.float32), boxes).max() > 0.8


@pytest.mark.parametrize("settings", [SETTINGS, MUTUAL])
def test_boxes_are_inside_large_enough_and_distinct(image, settings):
    boxes = selective_search(image, **{**settings, "max_side": 70, "min_side": 20.5, "segment_scale": 20})
    assert len(boxes) > 20
    assert (boxes >= 0).all()
    assert (boxes <= [90, 60, 90, 60]).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 20.5
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    smaller = selective_search(image, **{**settings, "max_side": 70, "min_side": 1.0, "segment_scale": 20})
    assert len(smaller) > len(boxes)
    if settings is SETTINGS:  # near duplicates are left out in an order that other boxes change
        assert set(map(tuple, boxes)) < set(map(tuple, smaller))


@pytest.mark.parametrize("settings", [SETTINGS, MUTUAL])
def test_the_whole_image_is_a_proposal_at_any_scale(image, settings):
    for max_side in (0, 31, 77):
        boxes = selective_search(image, **{**settings, "max_side": max_side})
        assert [0, 0, 90, 60] in boxes.tolist()


@pytest.mark.parametrize("settings", [SETTINGS, MUTUAL])
def test_the_result_does_not_depend_on_what_ran_before(image, settings):
    # OpenCV's own order comes from the C library's rand(), whose state goes on from image to image.
    first = selective_search(image, **settings)
    selective_search(image[::-1], **settings)
    np.testing.assert_array_equal(selective_search(image, **settings), first)


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_fast_and_quality_are_those_of_opencv(image, mode):
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    getattr(search, f"switchToSelectiveSearch{mode.title()}")(30, 30)
    expected = search.process()
    expected[:, 2:] += expected[:, :2]
    settings = {"mode": mode, "max_side": 0, "max_count": 10_000, "min_side": 0, "segment_scale": 30}
    boxes = selective_search(image, **settings)
    assert len(boxes) == len(expected)
    assert set(map(tuple, boxes.astype(int))) == set(map(tuple, expected))


def test_mutual_groups_four_segmentations_in_the_colours_and_at_the_scales_stated(image, monkeypatch):
    made, seen = [], []
    create, process = cv2.ximgproc.segmentation.createGraphSegmentation, module.group_regions

    class Spy:
        def __init__(self, *settings):
            self._settings, self._search = settings, create(*settings)

        def processImage(self, colours):
            made.append((self._settings, colours.copy()))
            return self._search.processImage(colours)

    def spy(segmentations, groupings, area):
        seen.append((len(segmentations), groupings, area))
        return process(segmentations, groupings, area)

    monkeypatch.setattr(cv2.ximgproc.segmentation, "createGraphSegmentation", Spy)
    monkeypatch.setattr(module, "group_regions", spy)
    selective_search(image, **{**MUTUAL, "segment_scale": 30})
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    hsv, lab = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV), cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB)
    assert [settings for settings, _ in made] == [(0.8, k, 50) for k in (30, 120, 60, 120)]
    for (_, colours), expected in zip(made, (hsv, hsv, lab, lab), strict=True):
        np.testing.assert_array_equal(colours, expected)
    assert seen == [(4, ((1, 1, 1, 1), (0, 1, 1, 1), (0, 0, 1, 0), (0, 0, 0, 1)), 60 * 90)]


def test_mutual_leaves_out_near_duplicates(image, monkeypatch):
    settings = {**MUTUAL, "segment_scale": 20}
    boxes = selective_search(image, **settings)
    assert max(np.sort(iou(box, boxes))[-2] for box in boxes) <= 0.9
    monkeypatch.setattr(module, "_SAME_IOU", 1.0)
    more = selective_search(image, **settings)
    assert len(more) > len(boxes)
    assert all(iou(box, boxes).max() > 0.9 for box in more)


def test_mutual_finds_drawn_objects_among_clutter():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(4):
        image = cv2.GaussianBlur(rng.integers(60, 190, (150, 200, 3), dtype=np.uint8), (0, 0), 3)
        objects = []
        for column in range(3):
            x, y = 12 + 64 * column + rng.integers(0, 12), rng.integers(8, 70)
            width, height = rng.integers(24, 44), rng.integers(28, 70)
            cv2.ellipse(
                image, (int(x + width // 2), int(y + height // 2)), (int(width // 2), int(height // 2)), 0, 0, 360,
                rng.integers(0, 256, 3).tolist(), -1,
            )  # fmt: skip
            objects.append([x, y, x + width // 2 * 2 + 1, y + height // 2 * 2 + 1])
        boxes = selective_search(image, **{**MUTUAL, "segment_scale": 50})
        found += sum(iou(np.float32(box), boxes).max() > 0.8 for box in objects)
    assert found >= 11  # of 12


@pytest.mark.parametrize("settings", [SETTINGS, MUTUAL])
def test_max_count_keeps_the_first(image, settings):
    boxes = selective_search(image, **{**settings, "segment_scale": 20})
    np.testing.assert_array_equal(
        selective_search(image, **{**settings, "segment_scale": 20, "max_count": 9}), boxes[:9]
    )


def test_a_smaller_segment_scale_gives_more_boxes(image):
    counts = [len(selective_search(image, **{**SETTINGS, "segment_scale": k})) for k in (20, 300)]
    assert counts[0] > 2 * counts[1]


def test_the_order_is_mixed_with_small_boxes_ahead():
    side = np.arange(1, 2001, dtype=np.float32)
    boxes = np.stack([0 * side, 0 * side, side, side], axis=1)
    ranked = rank_boxes(boxes)
    assert sorted(map(tuple, ranked)) == sorted(map(tuple, boxes))
    first, last = ranked[:500, 2], ranked[-500:, 2]
    assert first.mean() < last.mean(), "small ones are preferred"
    assert first.max() > 1900, "but large ones are among the first"


def test_colours_are_read_as_rgb(image, monkeypatch):
    seen = []
    create = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation

    class Spy:
        def __init__(self):
            self._search = create()

        def setBaseImage(self, base):
            seen.append(base.copy())
            self._search.setBaseImage(base)

        def __getattr__(self, name):
            return getattr(self._search, name)

    monkeypatch.setattr(cv2.ximgproc.segmentation, "createSelectiveSearchSegmentation", Spy)
    selective_search(image, **SETTINGS)
    np.testing.assert_array_equal(seen[0], image[:, :, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 7)])
@pytest.mark.parametrize("mode", ["fast", "quality", "mutual"])
def test_tiny_and_plain_images(shape, mode):
    plain = np.full((*shape, 3), 128, np.uint8)
    boxes = selective_search(plain, **{**SETTINGS, "mode": mode, "min_side": 1.0, "max_side": 20})
    assert boxes.shape[1:] == (4,)
    frame = [shape[1], shape[0]] * 2
    assert (boxes <= frame).all()
    assert selective_search(plain, **{**SETTINGS, "min_side": 100.0}).shape == (0, 4)


def test_bad_arguments_are_named(image):
    with pytest.raises(ValueError, match="mode: expected 'fast', 'quality' or 'mutual', got 'slow'"):
        selective_search(image, **{**SETTINGS, "mode": "slow"})
    for name, number in (("max_side", -1), ("max_count", -1), ("min_side", float("nan")), ("segment_scale", 0)):
        with pytest.raises(ValueError, match=f"{name}: expected [01] or more, got {number}"):
            selective_search(image, **{**SETTINGS, name: number})
    with pytest.raises(ValueError, match=r"not the name of a file: read it, as by cv2.imread\('PHOTO.jpg'\)"):
        selective_search("PHOTO.jpg", **SETTINGS)
    for wrong in (image.astype(np.float32), image[:, :, 0], image[:0], image[:, :, :2]):
        with pytest.raises(ValueError, match=r"the image must be uint8 \[H, W, 3\], not"):
            selective_search(wrong, **SETTINGS)


def test_settings_come_from_the_config(image):
    config = ProposalConfig(
        method="selective_search_fast", max_side=70, segment_scale=30, max_count=25, min_side=5, workers=1
    )
    settings = {"mode": "fast", "max_side": 70, "max_count": 25, "min_side": 5.0, "segment_scale": 30}
    np.testing.assert_array_equal(search_image(image, config), selective_search(image, **settings))
    config = dataclasses.replace(config, method="selective_search_mutual")
    np.testing.assert_array_equal(
        search_image(image, config), selective_search(image, **{**settings, "mode": "mutual"})
    )
    with pytest.raises(ValueError, match="method is 'file'"):
        search_image(image, ProposalConfig(method="file"))
