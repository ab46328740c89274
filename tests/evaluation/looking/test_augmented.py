"""Pictures of augmentation: the original image and the augmented ones, in their places."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np

from frcnn_jax.config import AugmentConfig, InputConfig, load_config, override
from frcnn_jax.evaluation.drawing import PALETTE, draw_objects
from frcnn_jax.evaluation.looking.augmented import draw_augmented
from frcnn_jax.types import GroundTruth

ROOT = Path(__file__).parents[3]
CONFIG = InputConfig(scales=(40,), max_size=80, flip=False)


class Gray:
    """The parts of a `Dataset` that are read: two gray images of 40 x 60, with one object of the second class and with
    none.
    """

    name, image_ids, classes = "gray", ("a", "b"), ("x", "y")
    sizes = np.array([[40, 60], [40, 60]], np.int32)

    def __init__(self):
        boxes = np.array([[10, 8, 30, 28]], np.float32)
        labels, difficult = np.array([2], np.int32), np.zeros(1, bool)
        objects = GroundTruth(boxes=boxes, labels=labels, difficult=difficult)
        nothing = GroundTruth(boxes=boxes[:0], labels=labels[:0], difficult=difficult[:0])
        self.annotations = objects, nothing

    def __len__(self):
        return 2

    def read_image(self, index):
        return np.full((40, 60, 3), 128, np.uint8)


def tiles(sheet, count):
    """The pictures of a sheet, three in a row, 6 pixels apart."""
    places = [(46 * (k // 3), 66 * (k % 3)) for k in range(count)]
    found = [sheet[y : y + 40, x : x + 60] for y, x in places]
    rest = sheet.copy()
    for y, x in places:
        rest[y : y + 40, x : x + 60] = 255
    assert (rest == 255).all(), "between them and after the last one all is white"
    return found


def outline(box):
    """A gray image with the object of class 2 drawn around `box`."""
    objects = GroundTruth(boxes=np.array([box]), labels=np.array([2]), difficult=np.zeros(1, bool))
    return draw_objects(np.full((40, 60, 3), 128, np.uint8), objects)


def test_objects_are_drawn_by_class_and_crowds_dashed():
    picture = outline([10, 8, 30, 28])
    assert (picture[8, 10:30] == PALETTE[1]).all()
    assert (picture[27, 10:30] == PALETTE[1]).all()
    assert (picture[12:24, 14:26] == 128).all()
    crowd = GroundTruth(
        boxes=np.array([[10.0, 8, 30, 28]]), labels=np.array([2]), difficult=np.zeros(1, bool), crowd=np.ones(1, bool)
    )
    dashed = draw_objects(np.full((40, 60, 3), 128, np.uint8), crowd)
    assert {tuple(pixel) for pixel in dashed[8, 10:30].tolist()} == {(255, 255, 255), (60, 60, 60)}


def test_without_augmentation_all_are_alike():
    sheet = draw_augmented(Gray(), 0, CONFIG)
    assert sheet.shape == (86, 192, 3)
    for tile in tiles(sheet, 6):
        np.testing.assert_array_equal(tile, outline([10, 8, 30, 28]))


def test_flips_and_an_incomplete_row():
    first, *others = tiles(draw_augmented(Gray(), 0, dataclasses.replace(CONFIG, flip=True), count=9), 10)
    mirrored = outline([30, 8, 50, 28])
    np.testing.assert_array_equal(first, outline([10, 8, 30, 28]))
    flipped = [(tile == mirrored).all() for tile in others]
    assert 0 < sum(flipped) < 9
    assert all((tile == first).all() for tile, flip in zip(others, flipped, strict=True) if not flip)


def test_augmented_ones_follow_the_first():
    """Half of the size, padded with black."""
    config = dataclasses.replace(CONFIG, augment=AugmentConfig(scale_jitter=(0.5, 0.5)))
    first, *others = tiles(draw_augmented(Gray(), 0, config, count=2), 3)
    np.testing.assert_array_equal(first, outline([10, 8, 30, 28]))
    for tile in others:
        assert (tile[4, 5:15] == PALETTE[1]).all()
        assert (tile[1:3, :30] == 128).all()
        assert (tile[20:] == 0).all()
        assert (tile[:, 30:] == 0).all()


def test_an_image_without_objects_and_other_seeds():
    config = dataclasses.replace(CONFIG, augment=AugmentConfig(brightness=0.5))
    sheets = [draw_augmented(Gray(), 1, config, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert (sheets[0] != sheets[2]).any()
    assert len({int(tile[0, 0, 0]) for tile in tiles(sheets[0], 6)}) >= 5
    assert (draw_augmented(Gray(), 0, config) != draw_augmented(Gray(), 1, config)).any()


def test_the_guide_has_the_command_of_its_picture_and_every_setting():
    text = (ROOT / "docs/own_data.md").read_text("utf-8").split("\n## Augmentation\n")[1]
    assert (ROOT / "docs" / re.search(r"!\[.*\]\((.*)\)", text)[1]).stat().st_size < 60_000
    lines = text.replace("\\\n", " ").splitlines()
    (command,) = [line for line in lines if line.startswith("frcnn proposals")]
    _, _, _, name, *arguments = shlex.split(command)
    assert arguments[:1] == ["--augmented"]
    config = override(load_config(name), arguments[arguments.index("--out") + 2 :])
    for field in dataclasses.fields(AugmentConfig):
        assert f"`{field.name}`" in text
        assert getattr(config.input.augment, field.name) != field.default or field.name == "min_visible"
    assert "`sampling.foreground_balance`" in text
