"""Colours: single changes by hand, all together against a plain loop, and invariants."""

import cmath
import math

import numpy as np
import pytest

from frcnn_jax.config import AugmentConfig
from frcnn_jax.data.augment.color import changes_colors, color_map, jitter_colors

ALL = AugmentConfig(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.1)
MIDDLE = np.full(4, 0.5)  # a factor of 1 for each


def pixels(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def mapped(matrix, color):
    return (matrix @ [*color, 1]).tolist()


def gray(color):
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def test_factors_by_hand():
    color = [100, 50, 200]  # its gray is 29.9 + 29.35 + 22.8 = 82.05
    assert mapped(color_map(), color) == pytest.approx(color)
    assert mapped(color_map(brightness=1.5), color) == pytest.approx([150, 75, 300])
    assert mapped(color_map(contrast=0.5, mean=90), color) == pytest.approx([95, 70, 145])
    assert mapped(color_map(saturation=0), color) == pytest.approx([82.05] * 3)
    assert mapped(color_map(saturation=2), color) == pytest.approx([117.95, 17.95, 317.95])


def test_hues_by_hand():
    """A third of a turn is red to green, at the gray of red: 255 x 0.299 = 76.245, where green has 149.685."""
    low = 76.245 - 149.685
    assert mapped(color_map(hue=1 / 3), [255, 0, 0]) == pytest.approx([low, 255 + low, low])
    assert mapped(color_map(hue=-1 / 3), [255, 0, 0]) == pytest.approx([76.245 - 29.07] * 2 + [255 + 76.245 - 29.07])
    # The opposite of red is cyan, (0, 255, 255), less colourful by a third: its channels' mean is that of red.
    red, opposite = np.array([255, 0, 0]), np.array(mapped(color_map(hue=0.5), [255, 0, 0]))
    np.testing.assert_allclose(opposite - opposite.mean(), red.mean() - red, atol=1e-9)
    for hue in (0.05, 0.3, -0.45):
        assert mapped(color_map(hue=hue), [80, 80, 80]) == pytest.approx([80] * 3)
        np.testing.assert_allclose(color_map(hue=hue)[:, :3] @ color_map(hue=-hue)[:, :3], np.eye(3), atol=1e-12)
        assert gray(mapped(color_map(hue=hue), [10, 200, 90])) == pytest.approx(gray([10, 200, 90]))


def changed_in_a_loop(image, chance, settings):
    """Pixel by pixel, change by change; the hue as a complex number's angle."""
    brightness, contrast, saturation = (
        1 + (2 * c - 1) * getattr(settings, name)
        for c, name in zip(chance, ("brightness", "contrast", "saturation"), strict=False)
    )
    turn = cmath.exp(2j * math.pi * (2 * chance[3] - 1) * settings.hue)
    mean = np.mean([gray(color) for row in image for color in row.astype(float)])
    result = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape[:2]):
        red, green, blue = image[y, x].astype(float)
        before = gray((red, green, blue))
        color = turn * complex(red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue))
        # The three channels' parts of that number, and the gray put back.
        parts = [2 / 3 * (color * cmath.exp(-2j * math.pi * k / 3)).real for k in range(3)]
        parts = [part + before - gray(parts) for part in parts]
        parts = [before + saturation * (part - before) for part in parts]
        parts = [mean + contrast * (part - mean) for part in parts]
        result[y, x] = [brightness * part for part in parts]
    return np.clip(result, 0, 255)


@pytest.mark.parametrize("seed", range(4))
def test_all_together_agree_with_a_plain_loop(seed):
    chance, image = np.random.default_rng(seed).random(4), pixels(seed=seed)
    expected = changed_in_a_loop(image, chance, ALL)
    jitter_colors(image, chance, ALL)
    np.testing.assert_allclose(image, expected, atol=1.1)  # OpenCV's fixed point, and rounding
    assert np.abs(image - expected).mean() < 0.4
    assert len(np.unique(image)) > 30


def test_nothing_changes_in_the_middle_of_the_ranges_or_without_them():
    for settings, chance in ((ALL, MIDDLE), (AugmentConfig(), np.array([0.1, 0.9, 0.3, 0.7]))):
        image = pixels()
        jitter_colors(image, chance, settings)
        np.testing.assert_array_equal(image, pixels())
    assert not changes_colors(AugmentConfig(crop=0.5))
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert changes_colors(AugmentConfig(**{name: 0.1}))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_setting_has_a_number_of_its_own(name):
    place = ["brightness", "contrast", "saturation", "hue"].index(name)
    settings, results = AugmentConfig(**{name: 0.4}), []
    for moved in range(4):
        image, chance = pixels(), MIDDLE.copy()
        chance[moved] = 0.8
        jitter_colors(image, chance, settings)
        results.append((image != pixels()).any())
    assert results == [moved == place for moved in range(4)]


def test_the_ends_of_the_ranges():
    """Brightness 0.3 is 0.7 to 1.3, and what is too bright is white."""
    for chance, expected in ((0.0, [70, 140, 0]), (0.99999, [130, 255, 0])):
        image = np.tile(np.array([100, 200, 0], np.uint8), (3, 4, 1))
        jitter_colors(image, np.array([chance, 0.5, 0.5, 0.5]), AugmentConfig(brightness=0.3))
        assert image.tolist() == [[expected] * 4] * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1)])
def test_a_part_of_a_larger_array_and_single_pixels(size):
    around = np.full((size[0] + 2, size[1] + 3, 3), 9, np.uint8)
    part = around[1:-1, 1:-2]
    jitter_colors(part, np.array([0.9, 0.5, 0.5, 0.5]), AugmentConfig(brightness=1.0))
    assert (part == 16).all()  # 9 x 1.8
    assert (around == 9).sum() == around.size - part.size
