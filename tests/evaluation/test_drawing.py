"""Boxes, names and ground truth drawn on images."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.commands.show_proposals import draw_some
from frcnn_jax.evaluation import drawing
from frcnn_jax.evaluation.analysis.matches import match_dataset
from frcnn_jax.evaluation.drawing import PALETTE, box_pixels, draw_detections, draw_objects, draw_rois
from frcnn_jax.evaluation.looking.samples import _crop
from frcnn_jax.evaluation.outputs.voc_xml import write_voc_xml
from frcnn_jax.evaluation.pages.gallery import choose_images
from frcnn_jax.evaluation.report import write_image
from frcnn_jax.types import GroundTruth
from tests.evaluation.records import detections, pixels, truth

GREY = np.full((500, 600, 3), 128, np.uint8)


def ink(image):
    """White letters with most of their soft edges."""
    return (image > 180).all(axis=2)


def test_boxes_are_drawn_where_they_are():
    image = GREY.copy()
    drawn = draw_detections(image, detections(([100, 200, 300, 400], 0.9, 2)), ["a", "b"])
    np.testing.assert_array_equal(image, GREY)
    assert drawn.shape == image.shape
    edge = pixels(drawn, PALETTE[1])
    for y, x in ((200, 200), (399, 200), (300, 100), (300, 299)):
        assert edge[y, x]
    rows, columns = np.nonzero(pixels(drawn, (128, 128, 128)) == 0)
    assert rows.max() <= 401  # nothing beyond the line below and beside the box
    assert columns.min() >= 98
    assert columns.max() <= 301
    assert pixels(drawn, (128, 128, 128))[205:395, 105:295].all()
    assert edge[170:195, 100:150].mean() > 0.2  # the plate of the text stands above


def test_every_picture_has_the_same_pixels_of_a_box():
    boxes = np.float32([[2.5, 3.5, 120.5, 119.5]])
    truth = GroundTruth(boxes=boxes, labels=np.array([1]), difficult=np.zeros(1, bool))
    image = np.full((130, 130, 3), 128, np.uint8)
    assert box_pixels(boxes[0], image.shape) == (3, 4, 120, 119)
    assert box_pixels([-9, 7, 9999, 7.2], image.shape) == (0, 7, 129, 7)
    tile = _crop(boxes[0], 1, 0.25)(image)  # the whole image, not resized
    for picture in (draw_objects(image, truth), draw_rois(image, boxes, np.array([1])), draw_some(image, boxes), tile):
        rows, columns = np.nonzero((picture != image).any(axis=2))
        middle = [(int(values.min()) + int(values.max())) / 2 for values in (columns, rows)]
        assert middle == [61.5, 61.5]  # of lines of any width


def test_only_real_detections_with_enough_score_are_drawn():
    both = detections(([100, 200, 300, 400], 0.5, 1), ([20, 200, 80, 400], 0.499, 2))
    drawn = draw_detections(GREY, both, ["a", "b"], min_score=0.5)
    assert pixels(drawn, PALETTE[0]).any()
    assert not pixels(drawn, PALETTE[1]).any()
    masked = both.replace(mask=np.array([False, True]))
    np.testing.assert_array_equal(draw_detections(GREY, masked, ["a", "b"]), GREY)


@pytest.mark.parametrize("score", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_a_score_of_the_network_equal_to_the_least_is_enough(tmp_path, score):
    """Scores as float32 may be a little below the same number of Python's."""
    found, blank = detections(([2, 2, 30, 30], score)), np.zeros((40, 40, 3), np.uint8)
    assert draw_detections(blank, found, ["cat"], min_score=score).any()
    assert not draw_detections(blank, found, ["cat"], min_score=score + 1e-6).any()
    xml = write_voc_xml(tmp_path, "a", "a.png", (40, 40), found, ["cat"], min_score=score).read_text()
    assert "<name>cat</name>" in xml
    matches = match_dataset([detections()] * 3 + [found] + [detections()] * 4, [truth()] * 8)
    assert choose_images(matches, 8, 1, score) == [3]


def test_text_stays_inside_the_image():
    height, width = GREY.shape[:2]
    for box in (
        [0, 0, 40, 30],
        [width - 20, 0, width, 30],
        [width - 9, height - 9, width, height],
        [0, 0, width, height],
    ):
        drawn = draw_detections(GREY, detections((box, 0.9, 1)), ["aeroplane"])
        letters = ink(drawn)
        rows, columns = np.nonzero(letters)
        assert letters.sum() > 50
        assert rows.min() > 0
        assert columns.min() > 0
        assert rows.max() < height - 1
        assert columns.max() < width - 1


def test_texts_of_overlapping_boxes_do_not_cover_each_other():
    box = [200, 200, 400, 400]
    alone = pixels(draw_detections(GREY, detections((box, 0.9, 1)), ["name", "name"]), PALETTE[0])[150:199].sum()
    drawn = draw_detections(GREY, detections((box, 0.9, 1), (box, 0.8, 2)), ["name", "name"])
    assert pixels(drawn, PALETTE[0])[150:199].sum() == alone > 200
    assert pixels(drawn, PALETTE[1]).sum() > 0.9 * alone


def test_lines_and_text_grow_with_the_image():
    def text_height(factor):
        image = np.full((500 * factor, 600 * factor, 3), 128, np.uint8)
        box = [200 * factor, 200 * factor, 400 * factor, 400 * factor]
        rows, _ = np.nonzero(ink(draw_detections(image, detections((box, 0.9, 1)), ["H"])))
        return rows.max() - rows.min() + 1

    assert text_height(1) >= 10
    assert 3 < text_height(4) / text_height(1) < 5


def test_small_images_are_enlarged_with_their_boxes():
    image = np.full((20, 30, 3), 128, np.uint8)
    drawn = draw_detections(image, detections(([10, 5, 20, 15], 0.9, 1)), ["a"])
    assert drawn.shape == (320, 480, 3)
    edge = pixels(drawn, PALETTE[0])
    assert edge[239, 240]
    assert edge[160, 160]
    assert edge[160, 319]
    assert draw_detections(np.zeros((1, 1, 3), np.uint8), detections(), []).shape == (480, 480, 3)
    long = draw_detections(np.zeros((2, 900, 3), np.uint8), detections(([0, 0, 900, 2], 0.9, 1)), ["a"])
    assert long.shape == (2, 900, 3)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_ground_truth_is_dashed_and_visible_on_any_background(background):
    image = np.full((500, 600, 3), background, np.uint8)
    truth = GroundTruth(boxes=np.array([[100, 200, 300, 400.0]]), labels=np.ones(1, int), difficult=np.zeros(1, bool))
    drawn = draw_detections(image, detections(), ["a"], ground_truth=truth)
    for side in (drawn[200, 100:300], drawn[399, 100:300], drawn[200:400, 100], drawn[200:400, 299]):
        white = (side == 255).all(axis=1)
        assert 0.4 < white.mean() < 0.8
        assert np.abs(np.diff(white.astype(int))).sum() > 10
    assert (drawn[205:395, 105:295] == background).all()


def test_more_classes_than_colors():
    drawn = draw_detections(GREY, detections(([100, 200, 300, 400], 0.9, 21)), [str(i) for i in range(21)])
    assert pixels(drawn, PALETTE[0]).any()
    assert len(set(PALETTE)) == len(PALETTE) == 20


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 4), (0, 5, 3), "float"])
def test_wrong_images_are_refused(tmp_path, shape):
    image = np.zeros((5, 5, 3), np.float32) if shape == "float" else np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"the image must be uint8 \[H, W, 3\], not "):
        inspect.unwrap(draw_detections)(image, detections(), [])
    with pytest.raises(ValueError, match=r"the image must be uint8 \[H, W, 3\], not "):
        inspect.unwrap(write_image)(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_only_what_is_drawn_is_computed(monkeypatch):
    boxes = []
    monkeypatch.setattr(drawing, "box_pixels", lambda box, shape: boxes.append(box) or box_pixels(box, shape))
    draw_detections(GREY, detections(([1, 2, 30, 40], 0.9), *[([1, 2, 30, 40], 0.1)] * 9), ["a"])
    assert len(boxes) == 1


def test_an_image_that_was_not_found_is_named():
    with pytest.raises(
        ValueError, match=r"the image must be .*, not object .*: it is None, as of cv2\.imread where it finds no image"
    ):
        inspect.unwrap(draw_detections)(None, detections(), [])


def test_unnamed_class_is_refused():
    with pytest.raises(ValueError, match=r"labels: 2 is outside 1 ... 1"):
        draw_detections(GREY, detections(([1, 2, 3, 4], 0.9, 2)), ["a"])
    with pytest.raises(ValueError, match=r"class_names: 'cat' is one text, expected a sequence of names such as"):
        draw_detections(np.zeros((9, 9, 3), np.uint8), detections(([0, 0, 5, 5], 0.9)), "cat")


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, "bfloat16"])
def test_boxes_of_any_numeric_type_are_drawn_alike(dtype):
    """Including the corner 0, from which nothing may be subtracted in an unsigned type, and an enlarged image."""
    image = np.full((200, 240, 3), 128, np.uint8)
    found = detections(([0, 0, 100, 80], 0.9, 1), ([96, 40, 240, 200], 0.8, 2))
    truth = GroundTruth(boxes=found.boxes, labels=found.labels, difficult=np.zeros(2, bool))
    names, dtype = ["a", "b"], jnp.dtype(dtype)
    expected = draw_detections(image, found, names, ground_truth=truth)
    other = draw_detections(
        image,
        found.replace(boxes=found.boxes.astype(dtype)),
        names,
        ground_truth=dataclasses.replace(truth, boxes=truth.boxes.astype(dtype)),
    )
    np.testing.assert_array_equal(other, expected)
