"""Regions of a segmentation and their grouping in rounds of mutual nearest neighbours."""

import dataclasses

import numpy as np
import pytest

from frcnn_jax.data.proposals.grouping import _Grouping, describe_regions, gradient_planes, group_regions

COLOUR, TEXTURE, SIZE, FILL = np.eye(4).tolist()
GROUPINGS = [(1, 1, 1, 1), (0, 1, 1, 1), SIZE, FILL]


def described(labels, colours=None, gradients=None):
    labels = np.array(labels, np.int32)
    return describe_regions(
        labels,
        np.zeros((*labels.shape, 3), np.uint8) if colours is None else np.array(colours, np.uint8),
        np.zeros((8, *labels.shape), np.uint8) if gradients is None else np.array(gradients, np.uint8),
    )


def random_regions(seed, cells=6):
    """Blocks of 3 x 3 pixels, some of them joined, in random colours with random gradients."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, cells * cells // 2, (cells, cells))
    labels = np.unique(np.kron(coarse, np.ones((3, 3), int)), return_inverse=True)[1].reshape(3 * cells, 3 * cells)
    colours, gradients = (rng.integers(0, 256, shape, np.uint8) for shape in ((*labels.shape, 3), (8, *labels.shape)))
    return described(labels, colours, gradients), labels.size


def test_regions_are_described():
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0, 0], colours[1, 3] = (255, 0, 11), (0, 10, 21)
    regions = described([[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1]], colours)
    np.testing.assert_array_equal(regions.sizes, [4, 4, 4])
    np.testing.assert_array_equal(regions.boxes, [[0, 0, 2, 3], [2, 0, 4, 3], [1, 1, 3, 3]])
    np.testing.assert_array_equal(regions.pairs, [[0, 1], [0, 2], [1, 2]])
    # 25 bins of 10.24 values for each channel, 12 values in all for a region of four pixels.
    expected = np.zeros((3, 75))
    expected[:, [0, 25, 50]] = 4
    expected[0, [0, 24, 50, 51]] = 3, 1, 3, 1
    expected[1, [50, 52]] = 3, 1
    np.testing.assert_allclose(regions.colours, expected / 12, rtol=1e-6)
    np.testing.assert_allclose(regions.textures[:, ::10], 1 / 8)
    assert regions.textures.shape == (3, 80)


def test_neighbours_share_a_side_and_no_mere_corner():
    assert described([[0], [1], [2]]).pairs.tolist() == [[0, 1], [1, 2]]
    assert described([[2, 1], [0, 3]]).pairs.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_gradients_of_a_step():
    grey = np.zeros((5, 6), np.uint8)
    grey[:, 3:] = 80  # brighter to the right
    planes = gradient_planes(grey)
    assert (planes.shape, planes.dtype) == ((8, 5, 6), np.uint8)
    right, left, below, above = planes[:4]
    np.testing.assert_array_equal(right[2], [0, 0, 255, 255, 0, 0])
    for flat in (left, below, above):
        assert not flat.any()
    assert planes[4, 2, 2] == planes[6, 2, 2] == 255, "both diagonals"
    slope = gradient_planes(np.add.outer(np.arange(5), np.arange(6)).astype(np.uint8))[:, 1:-1, 1:-1]
    np.testing.assert_array_equal(slope.max(axis=(1, 2)), [255, 0, 255, 0, 255, 0, 0, 0])  # to the lower right


def test_the_smallest_pair_is_merged_first_where_size_decides():
    regions = described([[0, 0, 0, 0, 1, 2, 2]])
    boxes = group_regions([regions], [SIZE], 7)
    np.testing.assert_array_equal(
        boxes, [[0, 0, 4, 1], [4, 0, 5, 1], [5, 0, 7, 1], [4, 0, 7, 1], [0, 0, 7, 1]], strict=False
    )


def test_like_colours_are_merged_first_where_colour_decides():
    # The middle one is like the left one, but smaller together with the right one.
    colours = np.full((1, 7, 3), 200)
    colours[0, 5:] = 20
    regions = described([[0, 0, 0, 0, 1, 2, 2]], colours)
    assert group_regions([regions], [COLOUR], 7)[3].tolist() == [0, 0, 5, 1]
    assert group_regions([regions], [SIZE], 7)[3].tolist() == [4, 0, 7, 1]


def test_a_pair_that_fills_its_box_is_merged_first_where_fill_decides():
    # 0 and 1 together leave 2 pixels of their box empty, 1 and 2 none.
    regions = described([[0, 0, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3]])
    first = group_regions([regions], [FILL], 16)[4:]
    assert [0, 0, 2, 3] in first.tolist()[:2]


def test_mutual_pairs_are_merged_in_one_round_and_others_wait():
    # Sizes 1 1 8 1 1: the two pairs at the ends are mutual; the middle is nobody's nearest.
    regions = described([[0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]])
    boxes = group_regions([regions], [SIZE], 12)[5:]
    assert sorted(boxes[:2].tolist()) == [[0, 0, 2, 1], [10, 0, 12, 1]]
    assert len(boxes) == 4
    assert boxes[3].tolist() == [0, 0, 12, 1]


@pytest.mark.parametrize("weights", [*GROUPINGS, TEXTURE, (1, 0, 0.25, 0), (0.5, 2, 0.25, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_a_plain_loop(weights, seed):
    regions, area = random_regions(seed)
    expected = plain_grouping(regions, weights, area)
    np.testing.assert_array_equal(group_regions([regions], [weights], area), expected)


def plain_grouping(regions, weights, area):
    """The same, pair by pair, in float64."""
    rows = {
        i: [float(size), box.astype(float), colour.astype(float), texture.astype(float)]
        for i, (size, box, colour, texture) in enumerate(
            zip(regions.sizes, regions.boxes, regions.colours, regions.textures, strict=True)
        )
    }
    pairs = {tuple(pair) for pair in regions.pairs.tolist()}
    found = [row[1] for row in rows.values()]

    def joined(a, b):
        return np.concatenate([np.minimum(a[1][:2], b[1][:2]), np.maximum(a[1][2:], b[1][2:])])

    def similarity(pair):
        a, b = (rows[i] for i in pair)
        box = joined(a, b)
        empty = (box[2] - box[0]) * (box[3] - box[1]) - a[0] - b[0]
        parts = (
            np.minimum(a[2], b[2]).sum(),
            np.minimum(a[3], b[3]).sum(),
            1 - (a[0] + b[0]) / area,
            1 - max(empty, 0) / area,
        )
        # Rounded, so that what is equal in exact numbers is equal here; of equals the last pair counts.
        return round(float(np.dot(weights, parts)), 5), pair

    while pairs:
        values = {pair: similarity(pair) for pair in pairs}
        nearest = {i: max((values[p], p) for p in pairs if i in p)[1] for p in pairs for i in p}
        merged = sorted(p for p in pairs if nearest[p[0]] == nearest[p[1]] == p)
        target = {b: a for a, b in merged}
        for a, b in merged:
            one, other = rows[a], rows.pop(b)
            share = other[0] / (one[0] + other[0])
            rows[a] = [one[0] + other[0], joined(one, other), *(one[k] + share * (other[k] - one[k]) for k in (2, 3))]
            found.append(rows[a][1])
        moved = {tuple(sorted(target.get(i, i) for i in pair)) for pair in pairs}
        pairs = {pair for pair in moved if pair[0] != pair[1]}
    return np.array(found)


def test_several_groupings_are_those_of_each_alone():
    parts, area = [random_regions(seed)[0] for seed in range(2)], 324
    together = group_regions(parts, GROUPINGS, area)
    alone = [group_regions([part], [weights], area) for weights in GROUPINGS for part in parts]
    assert sorted(map(tuple, together)) == sorted(map(tuple, np.concatenate(alone)))


def test_small_objects_on_a_plain_background_take_a_bounded_number_of_rounds(monkeypatch):
    """Each round merges one of them with the background, and each has a box of its own from the start."""
    rounds = []
    original = _Grouping.merge_round
    monkeypatch.setattr(_Grouping, "merge_round", lambda self: rounds.append(1) or original(self))
    labels = np.zeros((45, 45), int)
    labels[1::3, 1::3] = np.arange(1, 226).reshape(15, 15)
    boxes = group_regions([described(labels)], [SIZE], labels.size)
    assert len(rounds) == 100
    assert len(boxes) == 226 + 100
    assert [1, 1, 2, 2] in boxes.tolist()


def test_the_regions_that_came_in_stay_as_they_are():
    regions, area = random_regions(0)
    before = {field.name: getattr(regions, field.name).copy() for field in dataclasses.fields(regions)}
    group_regions([regions], GROUPINGS, area)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(regions, name), value)


def test_one_region_is_its_own_box():
    np.testing.assert_array_equal(group_regions([described([[0, 0]])], GROUPINGS, 2), [[0, 0, 2, 1]] * 4)
