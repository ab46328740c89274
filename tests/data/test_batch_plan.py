"""The scale rule, buckets, and plans of batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn_jax.config import InputConfig
from frcnn_jax.data.batch_plan import (
    BatchPlan,
    assign_buckets,
    choose_bucket,
    default_buckets,
    plan_training,
    resize_scale,
    resized_size,
)
from frcnn_jax.data.pipeline import training_plan

BUCKETS = ((64, 96), (96, 64))
# Seven landscapes and four portraits.
SIZES = np.array([[64, 96]] * 7 + [[96, 64]] * 4)


def plan(steps=100, batch_size=2, sizes=SIZES, **changes):
    settings = {"scales": (64,), "longest": 96, "buckets": BUCKETS, "flip": True, "flip_vertical": False, "seed": 0}
    return plan_training(sizes, steps, batch_size, **(settings | changes))


def test_600_by_1000_rule_by_hand():
    assert resize_scale((375, 500), 600, 1000) == pytest.approx(1.6)
    assert resized_size((375, 500), 1.6) == (600, 800)
    assert resize_scale((500, 333), 600, 1000) == pytest.approx(600 / 333)
    assert resized_size((500, 333), 600 / 333) == (901, 600)
    assert resize_scale((100, 500), 600, 1000) == 2.0  # the longer side decides
    assert resized_size((100, 500), 2.0) == (200, 1000)
    assert resize_scale((1200, 2400), 600, 1000) == pytest.approx(1000 / 2400)
    assert resized_size((1, 5000), 0.2) == (1, 1000)  # never nothing


def test_batches_are_those_of_earlier_versions():
    """Else a run that goes on would see other images."""
    found = plan(8, flip_vertical=True, seed=3, scales=(64, 80))
    assert found.images.tolist() == [[5, 2], [6, 0], [3, 2], [7, 9], [4, 1], [10, 8], [1, 3], [4, 0]]
    assert found.flipped.ravel().nonzero()[0].tolist() == [2, 3, 5, 7, 10, 14, 15]
    assert found.flipped_vertical.ravel().nonzero()[0].tolist() == [0, 1, 3, 4, 7, 9, 11, 12, 13]
    assert found.buckets[:, 0].tolist() == [64, 64, 64, 96, 64, 96, 64, 64]


def test_scales_and_buckets_of_a_plan_follow_the_rules_for_one_image():
    sizes = np.random.default_rng(0).integers(1, 700, (60, 2))
    buckets = default_buckets((47, 64), 96, 16)
    found = plan(200, sizes=sizes, scales=(47, 64), buckets=buckets)
    columns = found.images.ravel(), found.scales.ravel(), found.buckets.repeat(2, 0)
    for image, scale, bucket in zip(*columns, strict=True):
        assert scale in [resize_scale(sizes[image], shorter, 96) for shorter in (47, 64)]
        assert tuple(bucket) == buckets[choose_bucket(resized_size(sizes[image], scale), buckets)]


def test_default_buckets_by_hand():
    landscapes = {(608, 800), (608, 912), (608, 1008)}  # 600 * 1.51 = 906
    assert set(default_buckets((600,), 1000, 16)) == landscapes | {(width, height) for height, width in landscapes}
    assert set(default_buckets((600,), 700, 16)) == {(608, 704), (704, 608)}
    assert default_buckets((64,), 64, 16) == ((64, 64),)


@pytest.mark.parametrize(("scale", "longest"), [(600, 1000)] + [(s, 2000) for s in (480, 576, 688, 864, 1200)])
@pytest.mark.parametrize("size", [(375, 500), (333, 500), (332, 500), (331, 500), (500, 375), (500, 333)])
def test_the_usual_sizes_of_voc_are_padded_little(size, scale, longest):
    """At the scales of training: no more than the next multiple of 16 on each side and the slack of 3:2."""
    buckets = default_buckets((scale,), longest, 16)
    height, width = resized_size(size, resize_scale(size, scale, longest))
    index = choose_bucket((height, width), buckets)
    assert buckets[index][0] * buckets[index][1] < 1.05 * height * width


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    scales=st.sets(st.integers(16, 1200), min_size=1, max_size=3),
    longest=st.integers(16, 2000),
)
def test_default_buckets_hold_every_image(size, scales, longest):
    buckets = default_buckets(sorted(scales), longest, 16)
    assert all(side % 16 == 0 for bucket in buckets for side in bucket)
    for shorter in scales:
        resized = resized_size(size, resize_scale(size, shorter, longest))
        assert max(resized) <= longest
        assert choose_bucket(resized, buckets) is not None


def test_the_smallest_bucket_that_holds_the_image():
    buckets = ((100, 200), (100, 100), (300, 300))
    assert choose_bucket((100, 100), buckets) == 1
    assert choose_bucket((100, 101), buckets) == 0
    assert choose_bucket((101, 100), buckets) == 2
    assert choose_bucket((301, 1), buckets) is None


def test_an_image_that_fits_nowhere_is_named():
    sizes, scales = np.array([[10, 10], [50, 200], [60, 300]]), np.array([1.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"2 images fit in none of input.buckets .*the first is b, 100 x 400"):
        assign_buckets(sizes, scales, BUCKETS, ("a", "b", "c"))
    with pytest.raises(ValueError, match="the first is number 1"):
        assign_buckets(sizes, scales, BUCKETS)


def test_every_image_once_an_epoch_and_buckets_apart():
    """An epoch is 4 batches of landscapes, one of them filled up, and 2 of portraits."""
    batches = plan(steps=18)
    assert batches.images.shape == (18, 2)
    orders = set()
    for epoch in range(3):
        part = slice(6 * epoch, 6 * epoch + 6)
        images, buckets = batches.images[part], batches.buckets[part]
        counts = np.bincount(images.ravel(), minlength=11)
        assert counts.min() == 1
        assert counts.sum() == 12
        assert (counts[7:] == 1).all()
        for row, bucket in zip(images, buckets, strict=True):
            np.testing.assert_array_equal(SIZES[row], [bucket, bucket])
        orders.add(tuple(images.ravel()))
    assert len(orders) == 3
    np.testing.assert_array_equal(batches.scales, 1)
    assert {tuple(bucket) for bucket in batches.buckets[:3]} != {BUCKETS[0]}  # buckets are mixed within the epoch


def test_more_steps_change_nothing_before():
    short, long = plan(steps=10), plan(steps=50)
    for name in ("images", "scales", "flipped", "flipped_vertical", "buckets"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[:10])
    assert len(short) == 10


def test_the_work_grows_with_the_number_of_epochs_and_not_with_its_square(monkeypatch):
    counts, length = [], BatchPlan.__len__
    monkeypatch.setattr(BatchPlan, "__len__", lambda self: counts.append(1) or length(self))
    assert plan(200, sizes=SIZES[:2]).images.shape == (200, 2)
    assert len(counts) < 1000


def test_the_seed_decides():
    np.testing.assert_array_equal(plan(seed=3).images, plan(seed=3).images)
    assert (plan(seed=3).images != plan(seed=4).images).any()


def test_the_seed_of_a_run_decides():
    class Images:
        sizes, image_ids = np.full((20, 2), 64), tuple(map(str, range(20)))

    config = InputConfig(batch_size=2, scales=(64,), max_size=96)
    first, other = (training_plan(Images, config, 10, seed, 16) for seed in (0, 1))
    assert (first.images != other.images).any()
    np.testing.assert_array_equal(first.images, training_plan(Images, config, 10, 0, 16).images)


def test_flips_are_drawn_for_half_of_the_images_if_wanted():
    both = plan(steps=500, flip=True, flip_vertical=True)
    for coins in (both.flipped, both.flipped_vertical):
        assert coins.mean() == pytest.approx(0.5, abs=0.06)
    assert np.corrcoef(both.flipped.ravel(), both.flipped_vertical.ravel())[0, 1] == pytest.approx(0, abs=0.1)
    one = plan(steps=20, flip=False, flip_vertical=True)
    assert not one.flipped.any()
    assert one.flipped_vertical.any()


def test_one_of_several_scales_is_drawn_for_each_image():
    batches = plan(steps=300, scales=(32, 48, 64), buckets=default_buckets((32, 48, 64), 96, 16))
    scales, counts = np.unique(batches.scales, return_counts=True)
    np.testing.assert_allclose(scales, [0.5, 0.75, 1.0])
    assert counts.min() > 150
    for row, factors, bucket in zip(batches.images, batches.scales, batches.buckets, strict=True):
        for image, factor in zip(row, factors, strict=True):
            assert (SIZES[image] * factor <= bucket).all()


def test_a_batch_larger_than_the_data_set():
    batches = plan(steps=3, batch_size=5, sizes=SIZES[:2])
    assert all({0, 1} <= set(row) for row in batches.images)


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="no images to train on"):
        plan(sizes=np.zeros((0, 2), int))
