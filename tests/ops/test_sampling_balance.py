"""Foreground shared equally by classes or by objects: counts by hand, a plain loop, chance, and what stays as it is."""

import inspect
from functools import partial

import jax
import numpy as np
import pytest

from frcnn_jax.ops.sampling import sample_rois

# Objects of 100 x 100 side by side, far apart; a proposal in place k, h high, has IoU h / 100 with object k.
ROIS, PROPOSALS, OBJECTS = 16, 128, 4
EARLIER = [56, 100, 89, 59, 47, 26, 49, 28, 17, 31, 24, 23, 43, 39, 29, 20]
DRAWS = {
    name: jax.jit(
        partial(sample_rois, rois_per_image=ROIS, foreground_fraction=0.5, background_iou=(0.0, 0.5),
                foreground_balance=name)
    )
    for name in ("none", "class", "object")
}  # fmt: skip


def key(seed):
    return jax.random.key(seed)


def box(place, height):
    return [1000 * place, 0, 1000 * place + 100, height]


def image(counts, labels, *, background=20, room=PROPOSALS, object_room=OBJECTS, filler=0.0, shuffle=0):
    """Arguments of `sample_rois` after the key: `counts[k]` proposals of the kth object, and some background."""
    boxes = [box(k, 60 + 40 * i / max(count, 1)) for k, count in enumerate(counts) for i in range(count)]
    boxes += [box(9, 50 + i) for i in range(background)]
    proposals = np.full((room, 4), filler, np.float32)
    proposals[: len(boxes)] = np.random.default_rng(shuffle).permutation(np.array(boxes, np.float32).reshape(-1, 4))
    objects = np.full((object_room, 4), filler, np.float32)
    objects[: len(labels)] = [box(k, 100) for k in range(len(labels))]
    padded_labels = np.array([*labels, *[labels[0]] * (object_room - len(labels))], np.int32)
    masks = np.arange(room) < len(boxes), np.arange(object_room) < len(labels)
    return proposals, masks[0], objects, padded_labels, masks[1]


def places(sample):
    """The object of each foreground RoI."""
    return [int(roi[0]) // 1000 for roi in np.asarray(sample.rois)[np.asarray(sample.labels) > 0]]


def counts_of(sample, objects):
    return np.bincount(places(sample), minlength=objects).tolist()


@pytest.mark.parametrize(
    ("balance", "counts", "labels", "expected"),
    [
        ("class", [40, 40], [1, 2], [4, 4]),
        ("class", [60, 3], [1, 2], [4, 4]),  # three proposals and the object itself
        ("class", [60, 1], [1, 2], [6, 2]),
        ("class", [0, 0], [1, 2], [1, 1]),
        ("object", [60, 3], [1, 1], [4, 4]),
        ("object", [50, 9, 9, 0], [1, 1, 1, 2], None),  # one of the last, 7 of the others
        ("object", [30, 30, 30, 3], [1, 2, 3, 4], [2, 2, 2, 2]),
    ],
)
def test_equal_numbers_while_they_last(balance, counts, labels, expected):
    for seed in range(3):
        sample = DRAWS[balance](key(seed), *image(counts, labels))
        found = counts_of(sample, len(labels))
        if expected is None:
            assert sorted(found[:3]) == [2, 2, 3]
            assert found[3] == 1
        else:
            assert found == expected
        np.testing.assert_array_equal(sample.labels[: sum(found)], [labels[k] for k in places(sample)])
        assert len({tuple(roi) for roi in np.asarray(sample.rois)[np.asarray(sample.mask)].tolist()}) == ROIS


def test_objects_of_a_class_share_its_part():
    """40, 40 and 3 proposals of classes 5, 5 and 7: four RoIs for each class."""
    for seed in range(5):
        found = counts_of(DRAWS["class"](key(seed), *image([40, 40, 3], [5, 5, 7])), 3)
        assert found[2] == 4
        assert found[0] + found[1] == 4
    uneven = [counts_of(DRAWS["none"](key(seed), *image([40, 40, 3], [5, 5, 7])), 3)[2] for seed in range(20)]
    assert np.mean(uneven) < 1


def plain_rounds(available, most):
    """Numbers taken of each group, the last round's in any order: how many rounds are full, and how many more."""
    taken, left = [0] * len(available), most
    while left and any(a > t for a, t in zip(available, taken, strict=True)):
        some = [k for k, a in enumerate(available) if a > taken[k]]
        if len(some) > left:
            return taken, left, some
        for k in some:
            taken[k] += 1
            left -= 1
    return taken, 0, []


@pytest.mark.parametrize("seed", range(8))
def test_counts_agree_with_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    counts, labels = random.integers(0, 12, OBJECTS).tolist(), random.integers(1, 4, OBJECTS).tolist()
    for balance in ("class", "object"):
        groups = labels if balance == "class" else list(range(OBJECTS))
        names = sorted(set(groups))
        available = [sum(c + 1 for c, g in zip(counts, groups, strict=True) if g == name) for name in names]
        taken, more, some = plain_rounds(available, ROIS // 2)
        sample = DRAWS[balance](key(seed), *image(counts, labels, shuffle=seed))
        found = [sum(groups[k] == name for k in places(sample)) for name in names]
        extra = np.subtract(found, taken)
        assert extra.sum() == more
        assert set(np.flatnonzero(extra)) <= set(some)
        assert set(extra) <= {0, 1}


def test_chance_decides_within_a_group_and_who_is_first():
    """8 places and 3 objects: each gets its third RoI as often as another; each of its proposals is equally often."""
    draws = 1500
    arguments = image([60, 11, 5], [1, 2, 3])
    keys = jax.random.split(key(3), draws)
    samples = jax.jit(jax.vmap(lambda k: DRAWS["object"](k, *arguments)))(keys)
    rois, labels = np.asarray(samples.rois), np.asarray(samples.labels)
    thirds = [((labels == k).sum(axis=1) == 3).sum() for k in (1, 2, 3)]
    assert sum(thirds) == 2 * draws  # 8 = 3 + 3 + 2
    np.testing.assert_allclose(thirds, 2 * draws / 3, atol=5 * (draws * 2 / 9) ** 0.5)
    for label, count in ((2, 12), (3, 6)):
        heights, times = np.unique(rois[labels == label][:, 3], return_counts=True)
        assert len(heights) == count
        expected = (labels == label).sum() / count
        np.testing.assert_allclose(times, expected, atol=5 * expected**0.5)


def test_a_single_group_is_drawn_as_without():
    for counts, labels, balance in (([40], [3], "object"), ([40, 2, 9], [3, 3, 3], "class"), ([], [], "class")):
        arguments = image(counts, labels) if labels else (*image([0], [1])[:4], np.zeros(OBJECTS, bool))
        for seed in range(3):
            want = DRAWS["none"](key(seed), *arguments)
            jax.tree.map(np.testing.assert_array_equal, DRAWS[balance](key(seed), *arguments), want)


def test_background_is_drawn_as_without():
    arguments = image([40, 3], [1, 2])
    want, got = (DRAWS[name](key(1), *arguments) for name in ("none", "class"))
    background = np.asarray(want.mask & (want.labels == 0))
    np.testing.assert_array_equal(want.rois[background], got.rois[background])
    assert background.sum() == 8


@pytest.mark.parametrize("filler", [0.0, np.nan, 50.0])
def test_padding_changes_nothing(filler):
    for balance in ("class", "object"):
        want = DRAWS[balance](key(2), *image([30, 3, 9], [1, 2, 1]))
        padded = image([30, 3, 9], [1, 2, 1], room=200, object_room=9, filler=filler)
        jax.tree.map(np.testing.assert_array_equal, DRAWS[balance](key(2), *padded), want)


def test_crowds_and_masked_objects_have_no_share():
    proposals, mask, boxes, labels, gt_mask = image([30, 9, 9], [1, 2, 3])
    sample = DRAWS["class"](key(0), proposals, mask, boxes, labels, gt_mask, np.array([False, True, False, False]))
    assert counts_of(sample, 3) == [4, 0, 4]
    sample = DRAWS["class"](key(0), proposals, mask, boxes, labels, gt_mask & np.array([True, False, True, True]))
    assert counts_of(sample, 3) == [4, 0, 4]
    # The first of a class is masked: the others still are one group.
    proposals, mask, boxes, labels, gt_mask = image([20, 20, 20, 3], [1, 1, 1, 2])
    sample = DRAWS["class"](key(0), proposals, mask, boxes, labels, gt_mask & np.array([False, True, True, True]))
    assert counts_of(sample, 4)[3] == 4


def test_vmap_equals_a_loop():
    images = [image([30, 3], [1, 2]), image([2, 2, 50], [1, 2, 2]), image([0], [1], background=0)]
    keys = jax.random.split(key(6), 3)
    for balance in ("class", "object"):
        batched = jax.jit(jax.vmap(DRAWS[balance]))(keys, *map(np.stack, zip(*images, strict=True)))
        for n in range(3):
            one = jax.tree.map(lambda a: a[n], batched)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, one, DRAWS[balance](keys[n], *images[n]))


@pytest.mark.parametrize(
    ("balance", "room", "object_room"), [("class", 0, 0), ("object", 0, 2), ("class", 2, 0), ("class", 3, 1)]
)
def test_arrays_without_entries(balance, room, object_room):
    proposals, mask, boxes, labels, gt_mask = image([3, 0], [1, 2], background=0)
    sample = DRAWS[balance](
        key(0), proposals[:room], mask[:room], boxes[:object_room], labels[:object_room], gt_mask[:object_room]
    )
    assert sample.rois.shape == (ROIS, 4)
    assert np.isfinite(sample.rois).all()
    assert int((sample.labels > 0).sum()) == {(0, 0): 0, (0, 2): 2, (2, 0): 0, (3, 1): 4}[room, object_room]


def test_the_draw_without_balance_is_that_of_earlier_versions():
    """Heights drawn of 0 ... 100 by the version before there was a balance."""
    heights = np.arange(100, dtype=np.float32)
    proposals = np.stack([0 * heights, 0 * heights, 0 * heights + 100, heights], axis=1)
    whole = np.array([[0, 0, 100, 100]], np.float32)
    arguments = proposals, np.ones(100, bool), whole, np.array([1], np.int32), np.ones(1, bool)
    sample = jax.jit(partial(sample_rois, rois_per_image=ROIS))(key(11), *arguments)
    assert np.asarray(sample.rois)[:, 3].astype(int).tolist() == EARLIER


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="foreground_balance must be none, class or object, not 'classes'"):
        inspect.unwrap(sample_rois)(key(0), *image([3], [1]), foreground_balance="classes")


def test_a_masked_object_is_no_first_one_of_its_class():
    """Whatever the label of masked ground truth before the real ones, the draw is the same."""
    proposals, real, objects, labels, mask = image([40, 20, 9], [1, 2, 3])
    mask = np.array([False, True, True, True])
    objects, labels = np.roll(objects, 1, axis=0), np.roll(labels, 1)
    for seed in range(6):
        draws = [DRAWS["class"](key(seed), proposals, real, objects, np.array([first, *labels[1:]], np.int32), mask)
                 for first in range(4)]  # fmt: skip
        for other in draws[1:]:
            jax.tree.map(np.testing.assert_array_equal, other, draws[0])
