"""RoI sampling: counts by hand for every shortage, thresholds, chance, invariances, the degenerate."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops.sampling import sample_rois
from tests.ops import reference

# One object 100 x 100. A proposal as wide and h high has IoU h / 100 with it, so its kind can be read off its height:
# 50 ... 100 foreground, 10 ... 49 background, 1 ... 9 neither.
OBJECT = [0, 0, 100, 100]
ROIS, PROPOSALS, OBJECTS = 16, 128, 3  # a quarter of 16 is 4

draw = jax.jit(partial(sample_rois, rois_per_image=ROIS))


def key(seed):
    return jax.random.key(seed)


def image(heights, objects=((OBJECT, 7),), *, room=PROPOSALS, object_room=OBJECTS, filler=0.0, shuffle=None):
    """Arguments of `sample_rois` after the key, padded to `room` and `object_room` with `filler`."""
    proposals = np.full((room, 4), filler, np.float32)
    proposals[: len(heights)] = [[0, 0, 100, h] for h in heights] or np.zeros((0, 4))
    mask = np.arange(room) < len(heights)
    boxes = np.full((object_room, 4), filler, np.float32)
    boxes[: len(objects)] = [box for box, _ in objects] or np.zeros((0, 4))
    labels = np.array([label for _, label in objects] + [99] * (object_room - len(objects)), np.int32)
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(room)
        proposals, mask = proposals[order], mask[order]
    return proposals, mask, boxes, labels, np.arange(object_room) < len(objects)


def heights_of(sample):
    """Heights of the foreground and of the background drawn."""
    real, labels, rois = (np.asarray(a) for a in (sample.mask, sample.labels, sample.rois))
    return [rois[real & kind, 3].tolist() for kind in (labels > 0, labels == 0)]


@pytest.mark.parametrize("foreground", [0, 2, 3, 4, 40])
@pytest.mark.parametrize("background", [0, 5, 12, 13, 40])
def test_counts_for_every_shortage(foreground, background):
    # The object itself is always one more foreground. "Neither" is always there in plenty.
    heights = [50 + h for h in range(foreground)] + [10 + h for h in range(background)] + list(range(1, 10))
    sample = draw(key(foreground * 100 + background), *image(heights, shuffle=background))
    want_foreground = min(foreground + 1, ROIS // 4)
    want_background = min(background, ROIS - want_foreground)
    want = want_foreground + want_background
    np.testing.assert_array_equal(sample.mask, np.arange(ROIS) < want)
    np.testing.assert_array_equal(sample.labels, [7] * want_foreground + [0] * (ROIS - want_foreground))
    fg, bg = heights_of(sample)
    assert all(h >= 50 for h in fg)
    assert all(10 <= h < 50 for h in bg)
    assert len(set(fg + bg)) == want  # nothing twice
    rois, targets = np.asarray(sample.rois), np.asarray(sample.gt_boxes)
    np.testing.assert_array_equal(targets[:want_foreground], [OBJECT] * want_foreground)
    np.testing.assert_array_equal(targets[want_foreground:], rois[want_foreground:])
    np.testing.assert_array_equal(rois[want:], np.zeros((ROIS - want, 4)))


def test_thresholds_belong_to_the_upper_kind():
    # Exactly 0.5 is foreground, exactly 0.1 background; a hair less is background, or nothing.
    fg, bg = heights_of(draw(key(0), *image([50, 10, 49.999, 9.999], [(OBJECT, 7)])))
    assert sorted(fg) == [50, 100]
    np.testing.assert_allclose(sorted(bg), [10, 49.999])


def test_the_papers_numbers_are_the_defaults():
    """Of 64 RoIs a quarter with an IoU of 0.5 or more; the rest has one from 0.1 up to, but not with, 0.5."""
    heights = [*np.linspace(50, 100, 30), *np.linspace(10, 49, 60), *np.linspace(1, 9, 30)]
    sample = jax.jit(sample_rois)(key(0), *image(heights))
    fg, bg = heights_of(sample)
    assert (len(fg), len(bg)) == (16, 48)
    assert min(fg) >= 50
    assert min(bg) >= 10
    assert max(bg) < 50


def test_a_gap_between_the_thresholds_is_left_out():
    options = {"foreground_iou": 0.7, "background_iou": (0.2, 0.4), "foreground_fraction": 0.5}
    draw_other = jax.jit(partial(sample_rois, rois_per_image=ROIS, **options))
    fg, bg = heights_of(draw_other(key(0), *image([70, 69, 40, 39, 20, 19])))
    assert sorted(fg) == [70, 100]
    assert sorted(bg) == [20, 39]
    fg, bg = heights_of(draw_other(key(0), *image(range(20, 101))))
    assert (len(fg), len(bg)) == (8, 8)


def test_background_down_to_zero_admits_what_touches_nothing():
    draw_any = jax.jit(partial(sample_rois, rois_per_image=ROIS, background_iou=(0.0, 0.5)))
    without_objects = draw_any(key(0), *image(range(1, 11), []))
    np.testing.assert_array_equal(without_objects.mask, np.arange(ROIS) < 10)
    np.testing.assert_array_equal(without_objects.labels, np.zeros(ROIS))
    np.testing.assert_array_equal(without_objects.gt_boxes, without_objects.rois)
    # An empty object overlaps nothing, itself included: it is background here and can never be foreground.
    empty_object = draw_any(key(0), *image([5], [([3, 3, 3, 3], 7)]))
    np.testing.assert_array_equal(empty_object.mask, np.arange(ROIS) < 2)
    np.testing.assert_array_equal(empty_object.labels, np.zeros(ROIS))


def test_boxes_that_are_not_finite_are_never_drawn():
    # Their overlap with anything is 0, which is background here. As an object, such a box is no candidate either.
    proposals, mask, boxes, labels, gt_mask = image([20, 30, 40, 60], [(OBJECT, 7), (OBJECT, 5)], room=4, object_room=2)
    anywhere = jax.jit(partial(sample_rois, rois_per_image=ROIS, background_iou=(0.0, 0.5)))
    for wrong in (np.nan, np.inf, -np.inf):
        proposals[0, 3] = proposals[1, 0] = boxes[1, 2] = wrong
        sample = anywhere(key(0), proposals, mask, boxes, labels, gt_mask)
        assert [sorted(heights) for heights in heights_of(sample)] == [[60, 100], [40]]
        assert np.isfinite(sample.rois).all()
        assert np.isfinite(sample.gt_boxes).all()


@pytest.mark.parametrize("seed", range(5))
def test_every_draw_agrees_with_a_plain_loop(seed):
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 30, (PROPOSALS, 2))
    proposals = np.concatenate([corners, corners + generator.integers(0, 25, (PROPOSALS, 2))], axis=1).astype(
        np.float32
    )
    proposal_mask = generator.uniform(size=PROPOSALS) < 0.8
    objects = proposals[generator.choice(PROPOSALS, OBJECTS)] + generator.integers(-2, 3, (OBJECTS, 4)).astype(
        np.float32
    )
    gt_mask, gt_labels = np.array([seed != 4, False, True]), np.array([5, 6, 7], np.int32)
    sample = jax.tree.map(np.asarray, draw(key(seed), proposals, proposal_mask, objects, gt_labels, gt_mask))

    kinds = {"foreground": [], "background": []}
    for box in [*proposals[proposal_mask], *objects[gt_mask]]:
        overlaps = [
            reference.iou(box, gt) if real else np.float32(-1) for gt, real in zip(objects, gt_mask, strict=True)
        ]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= np.float32(0.5):
            kinds["foreground"].append((*box, gt_labels[best], *objects[best]))
        elif overlaps[best] >= np.float32(0.1):
            kinds["background"].append((*box, 0, *box))
    foreground = min(len(kinds["foreground"]), ROIS // 4)
    background = min(len(kinds["background"]), ROIS - foreground)
    assert sample.mask.sum() == foreground + background
    for r in range(foreground + background):
        row = (*sample.rois[r], sample.labels[r], *sample.gt_boxes[r])
        assert row in kinds["foreground" if r < foreground else "background"]


def test_the_label_is_that_of_the_best_object_and_of_the_first_among_equals():
    near, nearer = [0, 0, 100, 80], [0, 0, 100, 90]
    sample = draw(key(0), *image([91], [(near, 3), (nearer, 4), (nearer, 5)]))
    rows = {
        tuple(np.asarray(roi)): (int(label), tuple(np.asarray(box)))
        for roi, label, box in zip(sample.rois[:4], sample.labels[:4], sample.gt_boxes[:4], strict=True)
    }
    assert rows[(0, 0, 100, 91)] == (4, tuple(nearer))
    assert rows[tuple(nearer)] == (4, tuple(nearer))
    assert rows[tuple(near)] == (3, tuple(near))


def test_masked_objects_and_proposals_take_no_part():
    proposals, proposal_mask, boxes, labels, _ = image(range(10, 101), [(OBJECT, 7), (OBJECT, 8), (OBJECT, 9)])
    for real in range(3):
        only = np.arange(3) == real
        sample = draw(key(real), proposals, proposal_mask, boxes, labels, only)
        assert set(np.asarray(sample.labels).tolist()) == {0, 7 + real}
    nobody = draw(key(0), proposals, proposal_mask, boxes, labels, np.zeros(3, bool))
    assert not nobody.mask.any()
    assert not nobody.labels.any()
    assert not nobody.rois.any()
    assert not nobody.gt_boxes.any()
    # With no proposal real, the objects alone are drawn.
    alone = draw(key(0), proposals, np.zeros(PROPOSALS, bool), boxes, labels, np.array([True, False, False]))
    np.testing.assert_array_equal(alone.mask, np.arange(ROIS) < 1)
    np.testing.assert_array_equal(alone.rois[0], OBJECT)


@pytest.mark.parametrize("filler", [0.0, np.nan, np.inf, 50.0])
def test_padding_changes_nothing(filler):
    heights = np.random.default_rng(0).permutation(np.arange(1, 100))
    want = draw(key(3), *image(heights))
    for room, object_room in ((128, 3), (200, 7), (99, 1)):
        got = draw(key(3), *image(heights, room=room, object_room=object_room, filler=filler))
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_key_decides():
    arguments = image(range(10, 101))
    first, again, other = (draw(key(seed), *arguments) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for a, b in zip(heights_of(first), heights_of(other), strict=True):
        assert set(a) != set(b)


def test_every_candidate_is_drawn_equally_often():
    # 4 of 21 foreground (20 proposals and the object) and 12 of 40 background, 2000 times. The counts' variances are
    # those of a draw without replacement, and the bound is a chi-square of five standard deviations.
    draws = 2000
    heights = [*range(50, 70), *range(10, 50)]
    keys = jax.random.split(key(5), draws)
    samples = jax.jit(jax.vmap(lambda k, *a: draw(k, *a), in_axes=(0, *[None] * 5)))(keys, *image(heights))
    drawn = np.asarray(samples.rois)[..., 3].astype(int)
    assert samples.mask.all()
    for kind, take in (([*range(50, 70), 100], 4), (list(range(10, 50)), 12)):
        counts = np.array([(drawn == height).sum() for height in kind])
        share = take / len(kind)
        assert counts.sum() == draws * take
        chi_square = ((counts - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (len(kind) - 1) / len(kind)
        free = len(kind) - 1
        assert abs(chi_square - free) < 5 * (2 * free) ** 0.5
    # Every place of the sample sees every candidate: no order is preferred.
    assert all(len(set(drawn[:, place])) == 21 for place in range(4))
    assert all(len(set(drawn[:, place])) == 40 for place in range(4, 16))


def test_vmap_equals_a_loop():
    images = [image(range(10, 101)), image([60, 20]), image([], [])]
    keys = jax.random.split(key(6), 3)
    batched = jax.jit(jax.vmap(partial(sample_rois, rois_per_image=ROIS)))(
        keys, *map(np.stack, zip(*images, strict=True))
    )
    for n in range(3):
        one = jax.tree.map(lambda a: a[n], batched)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, one, draw(keys[n], *images[n]))


def test_no_gradient_flows_through_the_sample():
    proposals, *rest = image(range(10, 101))

    def total(proposals, boxes):
        sample = draw(key(0), proposals, rest[0], boxes, *rest[2:])
        return sample.rois.sum() + sample.gt_boxes.sum()

    for slope in jax.grad(total, argnums=(0, 1))(proposals, rest[1]):
        np.testing.assert_array_equal(slope, np.zeros(slope.shape))


@pytest.mark.parametrize(("room", "object_room"), [(0, 0), (0, 2), (2, 0), (3, 1)])
def test_arrays_without_entries_or_shorter_than_the_sample(room, object_room):
    objects = [(OBJECT, 7)][:object_room]
    sample = draw(key(0), *image([60, 20][:room], objects, room=room, object_room=object_room))
    assert sample.rois.shape == sample.gt_boxes.shape == (ROIS, 4)
    assert sample.labels.dtype == jnp.int32
    found = (room > 0) * 2 + 1 if objects else 0
    assert int(sample.mask.sum()) == found
    assert np.isfinite(sample.rois).all()


def test_numpy_arrays_beside_a_traced_key():
    arguments = image([60, 30, 20])
    sample = jax.vmap(lambda key: inspect.unwrap(sample_rois)(key, *arguments, rois_per_image=ROIS))(key(0)[None])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[0], sample), draw(key(0), *arguments))


def test_fractions_of_nothing_and_of_everything():
    arguments = image(range(10, 101))
    for fraction, foreground in ((0.0, 0), (1.0, ROIS)):
        sample = jax.jit(partial(sample_rois, rois_per_image=ROIS, foreground_fraction=fraction))(key(0), *arguments)
        assert [len(kind) for kind in heights_of(sample)] == [foreground, ROIS - foreground]


@pytest.mark.parametrize(
    "options",
    [
        {"rois_per_image": 0},
        {"foreground_fraction": 1.5},
        {"foreground_fraction": -0.1},
        {"background_iou": (0.5, 0.1)},
        {"background_iou": (-0.1, 0.5)},
        {"background_iou": (0.1, 0.6)},
        {"foreground_iou": 1.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="RoI sampling needs"):
        inspect.unwrap(sample_rois)(key(0), *image([20]), **options)


@pytest.mark.parametrize(("rois", "fraction"), [(1, 0.25), (2, 0.25), (1, 0.5), (64, 0.001)])
def test_a_fraction_that_rounds_to_no_foreground_is_refused(rois, fraction):
    message = (
        f"^foreground_fraction {fraction} of rois_per_image {rois} rounds to no foreground: "
        f"give a fraction of {1 / rois:g} or above, or 0$"
    )
    options = {"rois_per_image": rois, "foreground_fraction": fraction}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(sample_rois)(key(0), *image([20]), **options)
