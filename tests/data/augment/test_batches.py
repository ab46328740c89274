"""Augmented batches: boxes stay with their pixels; batches are the same in any order and with any number of workers."""

import dataclasses

import numpy as np
import pytest

from frcnn_jax.config import AugmentConfig, InputConfig
from frcnn_jax.data.batch_plan import BatchPlan
from frcnn_jax.data.pipeline import BatchSource, iterate, training_source
from frcnn_jax.types import GroundTruth

CUTS = AugmentConfig(crop=0.5, scale_jitter=(0.6, 1.6), min_visible=0.4)
COLORS = AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03)
ALL = dataclasses.replace(CUTS, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03)
CONFIG = InputConfig(scales=(48, 64), max_size=96, max_objects=3, workers=0, flip_vertical=True)


class Rectangles:
    """The parts of a `Dataset` that are read: images of noise with a red rectangle, which is the object, and a blue
    one.
    """

    name, classes = "rectangles", ("red",)
    image_ids = tuple(f"i{k}" for k in range(6))
    sizes = np.array([[60, 80], [80, 60], [64, 64], [50, 100], [7, 9], [1, 1]], np.int32)

    def __init__(self):
        self.annotations, self.pixels, self.proposals = [], [], []
        for k, (height, width) in enumerate(self.sizes.tolist()):
            random = np.random.default_rng(k)
            image = random.integers(60, 100, (height, width, 3)).astype(np.uint8)
            boxes, proposals = np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)
            if height > 10:
                red = [width // 2, height // 3, width // 2 + 24, height // 3 + 16]
                blue = [4, height // 2, 20, height // 2 + 20]
                for (x1, y1, x2, y2), color in ((red, (250, 0, 0)), (blue, (0, 0, 250))):
                    image[y1:y2, x1:x2] = color
                boxes, proposals = np.array([red], np.float32), np.array([blue, red], np.float32)
            self.pixels.append(image)
            self.proposals.append(proposals)
            count = len(boxes)
            self.annotations.append(
                GroundTruth(boxes=boxes, labels=np.ones(count, np.int32), difficult=np.zeros(count, bool))
            )

    def __len__(self):
        return len(self.pixels)

    def read_image(self, index):
        return self.pixels[index].copy()


@pytest.fixture(scope="module")
def data():
    return Rectangles()


def source(data, augment, *, steps=40, seed=0, **changes):
    config = dataclasses.replace(CONFIG, augment=augment, **changes)
    return training_source(data, data.proposals, config, steps, seed, 16)


def same(a, b, names=None):
    for name in names or [field.name for field in dataclasses.fields(a)]:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def found_in(image, color):
    """The corners of the pixels of that colour, which is that of one channel."""
    others = [channel for channel in range(3) if channel != color]
    ys, xs = np.nonzero((image[..., color] > 150) & (image[..., others].max(axis=-1) < 110))
    return None if len(ys) == 0 else np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("augment", [AugmentConfig(), CUTS, ALL], ids=["none", "cuts", "all"])
def test_boxes_lie_where_their_pixels_are(data, augment):
    batches = source(data, augment, steps=60)
    seen = {"object": 0, "region": 0, "proposal": 0}
    for batch in (batches[step] for step in range(60)):
        for n in range(2):
            height, width = batch.image_sizes[n]
            shown = batch.images[n, :height, :width]
            assert (batch.images[n, height:] == 0).all()
            assert (batch.images[n, :, width:] == 0).all()
            np.testing.assert_allclose(batch.original_sizes[n] * batch.scales[n], (height, width), atol=0.51)
            red, blue = found_in(shown, 0), found_in(shown, 2)
            boxes = batch.gt_boxes[n][batch.gt_mask[n]]
            if len(boxes):
                np.testing.assert_allclose(boxes[0] * batch.scales[n], red, atol=1 + batch.scales[n] / 2)
                seen["region" if batch.gt_crowd is not None and batch.gt_crowd[n, 0] else "object"] += 1
            else:
                assert red is None
            proposals = batch.proposals[n][batch.proposal_mask[n]] * batch.scales[n]
            expected = [box for box in (blue, red) if box is not None and (box[2:] - box[:2]).min() > 3]
            assert len(proposals) >= len(expected)
            for box in expected:
                assert np.abs(proposals - box).max(axis=1).min() <= 1 + batch.scales[n] / 2
                seen["proposal"] += 1
    assert seen["object"] > 60
    assert seen["proposal"] > 120
    if augment == AugmentConfig():
        assert seen["region"] == 0


def test_a_region_that_is_left_is_a_crowd(data):
    """Of objects of 24 x 16 and 16 x 20 pixels, with nine tenths to be seen."""
    marks = [source(data, CUTS)[step].gt_crowd for step in range(40)]
    assert all(mark is not None for mark in marks)
    half = AugmentConfig(crop=0.3, min_visible=0.9)
    two = Rectangles()
    for k, truth in enumerate(two.annotations):
        if len(truth.boxes):
            boxes = np.concatenate([truth.boxes, data.proposals[k][:1]])
            two.annotations[k] = GroundTruth(boxes=boxes, labels=np.array([1, 1]), difficult=np.zeros(2, bool))
    batches = [source(two, half)[step] for step in range(40)]
    crowds = sum(int(batch.gt_crowd.sum()) for batch in batches)
    objects = sum(int((batch.gt_mask & ~batch.gt_crowd).sum()) for batch in batches)
    assert crowds > 5
    assert objects > crowds
    for batch in batches:
        areas = np.prod(batch.gt_boxes[..., 2:] - batch.gt_boxes[..., :2], axis=-1)
        assert (areas[batch.gt_mask & ~batch.gt_crowd] >= 0.9 * 320 - 1e-3).all()
        assert (areas[batch.gt_crowd] < 0.9 * 384).all()
        assert not (batch.gt_crowd & ~batch.gt_mask).any()
        # One object at least is left of an image that had some.
        some = np.array([len(two.annotations[i].boxes) > 0 for i in batch.image_index])
        np.testing.assert_array_equal((batch.gt_mask & ~batch.gt_crowd).any(axis=1), some)


def test_no_setting_is_no_change(data):
    plain = source(data, AugmentConfig())
    plan = plain._plan
    by_hand = BatchSource(data, data.proposals, plan, max_objects=3)
    least = source(data, AugmentConfig(min_visible=0.9))
    for step in range(40):
        same(plain[step], by_hand[step])
        same(plain[step], least[step])
        assert plain[step].gt_crowd is None


def test_the_plan_is_the_same_with_and_without(data):
    """The same images come in the same batches, padded to the same sizes, flipped in the same way."""
    plain, augmented = source(data, AugmentConfig())._plan, source(data, ALL)._plan
    for field in dataclasses.fields(BatchPlan):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(augmented, field.name))


def test_colors_move_nothing_and_cuts_do_not_depend_on_them(data):
    plain, colors, cuts, everything = (source(data, augment) for augment in (AugmentConfig(), COLORS, CUTS, ALL))
    names = [field.name for field in dataclasses.fields(plain[0]) if field.name != "images"]
    for step in range(20):
        same(plain[step], colors[step], names)
        same(cuts[step], everything[step], names)
    assert any((plain[step].images != colors[step].images).any() for step in range(20))
    assert any((cuts[step].images != everything[step].images).any() for step in range(20))


def test_colors_and_cuts_are_drawn_apart():
    data = Rectangles()
    data.pixels = [np.full_like(image, 100) for image in data.pixels]
    both = source(data, AugmentConfig(brightness=0.5, scale_jitter=(0.5, 1.0)), steps=100, scales=(48,))
    plain = source(data, AugmentConfig(), steps=100, scales=(48,))
    drawn = []
    for step in range(100):
        batch, factors = both[step], both[step].scales / plain[step].scales
        for n in range(2):
            height, width = batch.image_sizes[n]
            drawn.append((factors[n], batch.images[n, height // 2, width // 2, 0]))
    factors, grays = np.array(drawn).T
    assert grays.min() < 60
    assert grays.max() > 140
    assert abs(np.corrcoef(factors, grays)[0, 1]) < 0.2


def test_each_cut_alone_and_its_range(data):
    plain = source(data, AugmentConfig(), scales=(48,))
    smaller = source(data, AugmentConfig(scale_jitter=(0.5, 0.8)), scales=(48,))
    parts = source(data, AugmentConfig(crop=0.5, min_visible=0.01), scales=(48,))
    shares = []
    for step in range(40):
        same(plain[step], smaller[step], ["original_sizes", "gt_boxes", "proposals"])
        ratio = smaller[step].scales / plain[step].scales
        assert ((ratio >= 0.5) & (ratio <= 0.8)).all()
        assert (parts[step].scales >= plain[step].scales - 1e-6).all()
        large = plain[step].original_sizes.min(axis=1) > 10
        shares += (parts[step].original_sizes / plain[step].original_sizes)[large].tolist()
    assert np.min(shares) < 0.6
    assert np.min(shares) > 0.49
    assert np.max(shares) > 0.95
    assert abs(np.mean(shares) - 0.75) < 0.05


def test_the_same_in_any_order_and_a_little_later(data):
    one, again, longer = source(data, ALL), source(data, ALL), source(data, ALL, steps=90)
    for step in (7, 0, 39, 7):
        same(one[step], again[step])
        same(one[step], longer[step])
    other = source(data, ALL, seed=1)
    assert any((one[step].scales != other[step].scales).any() for step in range(4))


def test_an_image_is_changed_anew_each_time_and_at_each_place(data):
    order = np.zeros((8, 2), int)
    no_flip = np.zeros(order.shape, bool)
    plan = BatchPlan(order, np.full(order.shape, 0.8), no_flip, no_flip, np.tile((64, 64), (8, 1)))
    batches = BatchSource(data, data.proposals, plan, max_objects=3, augment=CUTS, seed=5)
    boxes = {tuple(box) for step in range(8) for box in batches[step].gt_boxes[:, 0].tolist()}
    assert len(boxes) == 16


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_restored_iterator_goes_on_with_the_same_batches(data, workers):
    expected = [source(data, ALL)[step] for step in range(12)]
    iterator = iterate(source(data, ALL), workers)
    for batch in expected[:5]:
        same(next(iterator), batch)
    position = iterator.get_state()
    resumed = iterate(source(data, ALL, steps=60), 2 - min(workers, 2))
    resumed.set_state(position)
    for batch in expected[5:]:
        same(next(resumed), batch)


def test_kept_images_are_not_changed(data):
    plain, kept = source(data, ALL), source(data, ALL, cache_decoded=True)
    for step in [*range(10), *range(10)]:
        same(plain[step], kept[step])
