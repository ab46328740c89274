"""Batches: pixels and boxes under resizing and flips, padding and masks, and restored positions."""

import dataclasses

import cv2
import numpy as np
import pytest

from frcnn_jax.config import InputConfig
from frcnn_jax.data.batch_plan import BatchPlan
from frcnn_jax.data.pipeline import (
    BatchSource,
    flip_boxes,
    iterate,
    padded_count,
    resize_image,
    training_buckets,
    training_source,
)
from frcnn_jax.types import GroundTruth

CONFIG = InputConfig(scales=(48,), max_size=96, max_objects=3, workers=0)


@dataclasses.dataclass
class Images:
    """The parts of a `Dataset` that the pipeline reads. Images have different sizes."""

    name: str = "images"
    count: int = 5
    classes: tuple = ("a", "b")
    objects: tuple = (2, 0, 1, 3, 1)
    reads: int = 0

    def __post_init__(self):
        random = np.random.default_rng(len(self.name))
        self.image_ids = tuple(f"i{k}" for k in range(self.count))
        self.sizes = np.array([[48, 64 + k] for k in range(self.count)], np.int32).reshape(-1, 2)
        self.pixels = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in self.sizes]
        self.annotations = tuple(self._objects(random, k) for k in range(self.count))

    def _objects(self, random, k):
        corners = random.integers(0, 20, (self.objects[k], 2))
        return GroundTruth(
            boxes=np.concatenate([corners, corners + random.integers(5, 25, corners.shape)], 1).astype(np.float32),
            labels=random.integers(1, 3, self.objects[k]).astype(np.int32),
            difficult=random.random(self.objects[k]) < 0.5,
        )

    def __len__(self):
        return self.count

    def image_fingerprint(self, index):
        return f"{self.name} {index}"

    def read_image(self, index):
        self.reads += 1
        return self.pixels[index].copy()


def proposals_of(dataset, counts=(4, 70, 0, 1, 2)):
    random = np.random.default_rng(1)
    corners = [random.uniform(0, 20, (count, 2)) for count in counts[: len(dataset)]]
    return [np.concatenate([c, c + 10], axis=1).astype(np.float32) for c in corners]


def same(a, b):
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@pytest.fixture(scope="module")
def dataset():
    return Images()


@pytest.fixture(scope="module")
def proposals(dataset):
    return proposals_of(dataset)


def one_pass(dataset, batch_size=1, scale=1.0, bucket=(48, 96)):
    """A plan of every image once; the last batch is filled up with the first images."""
    order = np.resize(np.arange(len(dataset)), (-(-len(dataset) // batch_size), batch_size))
    no_flip = np.zeros(order.shape, bool)
    buckets = np.tile(bucket, (len(order), 1))
    return BatchPlan(order, np.full(order.shape, scale), no_flip, no_flip, buckets)


def test_batches_hold_each_image_as_it_is(dataset, proposals):
    """At scale 1, so that every pixel can be told."""
    source = BatchSource(dataset, proposals, one_pass(dataset, 3), max_objects=3)
    seen = []
    for batch in (source[step] for step in range(len(source))):
        assert batch.images.dtype == np.uint8
        assert batch.proposals.shape == (3, 128, 4)  # 70 proposals at most, in multiples of 64
        assert batch.image_mask.all()
        for n in range(3):
            k = int(batch.image_index[n])
            seen.append(k)
            height, width = dataset.sizes[k]
            assert (batch.images.shape[1:3] >= dataset.sizes[k]).all()
            np.testing.assert_array_equal(batch.images[n, :height, :width], dataset.pixels[k])
            assert batch.images[n, height:].sum() == 0
            assert batch.images[n, :, width:].sum() == 0
            assert tuple(batch.image_sizes[n]) == tuple(batch.original_sizes[n]) == (height, width)
            assert batch.scales[n] == 1
            for values, mask, expected in (
                (batch.proposals, batch.proposal_mask, proposals[k]),
                (batch.gt_boxes, batch.gt_mask, dataset.annotations[k].boxes),
                (batch.gt_labels, batch.gt_mask, dataset.annotations[k].labels),
                (batch.gt_difficult, batch.gt_mask, dataset.annotations[k].difficult),
            ):
                np.testing.assert_array_equal(values[n, : len(expected)], expected)
                np.testing.assert_array_equal(values[n, len(expected) :], 0)
                np.testing.assert_array_equal(mask[n], np.arange(mask.shape[1]) < len(expected))
    assert seen == [0, 1, 2, 3, 4, 0]


def one(dataset, proposals, *, flip=False, flip_vertical=False, scale=1.0, index=0, **more):
    """The batch of a single image."""
    plan = one_pass(dataset, scale=scale)
    plan = dataclasses.replace(
        plan,
        flipped=np.full_like(plan.flipped, flip),
        flipped_vertical=np.full_like(plan.flipped_vertical, flip_vertical),
    )
    return BatchSource(dataset, proposals, plan, max_objects=3, **more)[index]


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flips_move_pixels_and_boxes_together(dataset, proposals, horizontal, vertical):
    plain = one(dataset, proposals)
    flipped = one(dataset, proposals, flip=horizontal, flip_vertical=vertical)
    height, width = dataset.sizes[0]
    order = (slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1))
    np.testing.assert_array_equal(flipped.images[0, :height, :width], plain.images[0, :height, :width][order])
    for name, mask in (("gt_boxes", plain.gt_mask), ("proposals", plain.proposal_mask)):
        for before, after in zip(getattr(plain, name)[mask], getattr(flipped, name)[mask], strict=True):
            x1, y1, x2, y2 = before
            expected = [width - x2 if horizontal else x1, height - y2 if vertical else y1,
                        width - x1 if horizontal else x2, height - y1 if vertical else y2]  # fmt: skip
            np.testing.assert_allclose(after, expected, atol=1e-5)
        np.testing.assert_array_equal(getattr(flipped, name)[~mask], 0)
    x1, y1, x2, y2 = plain.gt_boxes[0, 0].astype(int)
    cut = plain.images[0, y1:y2, x1:x2]
    x1, y1, x2, y2 = flipped.gt_boxes[0, 0].astype(int)
    np.testing.assert_array_equal(flipped.images[0, y1:y2, x1:x2], cut[order])


def test_flipped_boxes_by_hand():
    boxes = np.array([[1, 2, 4, 8]], np.float32)
    for (horizontal, vertical), expected in {
        (False, False): [1, 2, 4, 8],
        (True, False): [6, 2, 9, 8],
        (False, True): [1, 12, 4, 18],
        (True, True): [6, 12, 9, 18],
    }.items():
        flips = {"horizontal": horizontal, "vertical": vertical}
        flipped = flip_boxes(boxes, (20, 10), **flips)
        np.testing.assert_array_equal(flipped, [expected])
        np.testing.assert_array_equal(flip_boxes(flipped, (20, 10), **flips), boxes)
        assert flip_boxes(np.zeros((0, 4), np.float32), (20, 10), **flips).shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float16])
def test_boxes_of_other_types_flip_as_numbers(dtype):
    """A corner over the border becomes negative, which no unsigned type holds; half precision has no 2049."""
    boxes = np.array([[1, 2, 12, 8]], dtype)
    flipped = flip_boxes(boxes, (20, 10), horizontal=True, vertical=False)
    assert flipped.dtype == np.float32
    np.testing.assert_array_equal(flipped, [[-2, 2, 9, 8]])
    np.testing.assert_array_equal(flip_boxes(boxes, (20, 2050), horizontal=True, vertical=False), [[2038, 2, 2049, 8]])


@pytest.mark.parametrize(("horizontal", "vertical"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("scale", [0.777, 1.0, 1.3])
def test_pixels_are_resized_flipped_and_padded_with_zeros(dataset, proposals, horizontal, vertical, scale):
    """Written straight into a batch that is wider and higher, they equal what is made step by step."""
    plan = dataclasses.replace(
        one_pass(dataset, 5, scale, (96, 112)),
        flipped=np.full((1, 5), horizontal),
        flipped_vertical=np.full((1, 5), vertical),
    )
    batch = BatchSource(dataset, proposals, plan, max_objects=3)[0]
    for n, index in enumerate(batch.image_index):
        expected = cv2.resize(dataset.pixels[index], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        expected = expected[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        height, width = batch.image_sizes[n]
        assert expected.shape[:2] == (height, width)
        expected = np.pad(expected, [(0, 96 - height), (0, 112 - width), (0, 0)])
        np.testing.assert_array_equal(batch.images[n], expected)


def test_resized_images_keep_boxes_in_the_original_frame(dataset, proposals):
    plain, half = one(dataset, proposals), one(dataset, proposals, scale=0.5)
    assert tuple(half.image_sizes[0]) == (24, 32)
    assert tuple(half.original_sizes[0]) == (48, 64)
    assert half.scales[0] == 0.5
    expected = dataset.pixels[0].reshape(24, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(half.images[0, :24, :32], expected, atol=0.51)
    np.testing.assert_array_equal(half.proposals, plain.proposals)
    np.testing.assert_array_equal(half.gt_boxes, plain.gt_boxes)


@pytest.mark.parametrize("size", [(37, 53), (1, 300), (3, 1000)])
@pytest.mark.parametrize("scale", [0.1, 0.5, 0.777, 1.0, 1.6, 2.5])
def test_resized_size_is_what_opencv_makes(size, scale):
    image = resize_image(np.full((*size, 3), 7, np.uint8), scale)
    height, width = image.shape[:2]
    assert (height, width) == tuple(max(round(side * scale), 1) for side in size)
    assert (image == 7).all()
    around = np.full((height + 2, width + 3, 3), 9, np.uint8)
    part = around[1:-1, 1:-2]
    assert resize_image(np.full((*size, 3), 7, np.uint8), scale, out=part) is part
    assert (part == 7).all()
    assert (around == 9).sum() == around.size - part.size


def test_room_for_proposals():
    assert [padded_count([np.zeros((n, 4))]) for n in (0, 1, 64, 65)] == [64, 64, 64, 128]
    assert padded_count([]) == 64


def test_too_many_objects_is_an_error(dataset, proposals):
    with pytest.raises(ValueError, match=r"images: image i\d has 3 objects.* --input\.max-objects 3"):
        training_source(dataset, proposals, dataclasses.replace(CONFIG, max_objects=2), 4, 0, 16)


@pytest.mark.parametrize("stride", [16, 32])
def test_batches_are_padded_to_the_stride(dataset, proposals, stride):
    """Images of 48 x 64 to 48 x 68 to the least multiples of 48 x 64 and 48 x 73, which are 4:3 and 3:2."""
    source = training_source(dataset, proposals, CONFIG, 9, 0, stride)
    shapes = {source[step].images.shape[1:3] for step in range(9)}
    assert shapes == {16: {(48, 64), (48, 80)}, 32: {(64, 64), (64, 96)}}[stride]
    assert all(side % stride == 0 for bucket in training_buckets(CONFIG, stride) for side in bucket)
    given = dataclasses.replace(CONFIG, buckets=((50, 70),))
    assert training_buckets(given, stride) == ((50, 70),)


def test_proposals_of_another_data_set_are_an_error(dataset, proposals):
    with pytest.raises(ValueError, match="images has 5 images but there are proposals for 4"):
        training_source(dataset, proposals[:4], CONFIG, 4, 0, 16)


def test_an_image_that_fits_no_bucket_is_named(dataset, proposals):
    with pytest.raises(ValueError, match=r"2 images fit in none of input.buckets .*the first is i3, 48 x 67"):
        training_source(dataset, proposals, dataclasses.replace(CONFIG, buckets=((48, 66),)), 4, 0, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_iterator_goes_on_with_the_same_batches(dataset, proposals, workers):
    def start(steps=9):
        return iterate(training_source(dataset, proposals, CONFIG, steps, 3, 16), workers)

    iterator = start()
    expected = [next(iterator) for _ in range(9)]
    with pytest.raises(StopIteration):
        next(iterator)
    iterator = start()
    for _ in range(4):
        next(iterator)
    position = iterator.get_state()
    longer = start(steps=12)
    longer.set_state(position)
    for batch in expected[4:]:
        same(next(longer), batch)
    next(longer)


def test_training_batches_are_repeatable_and_differ(dataset, proposals):
    one, again = (training_source(dataset, proposals, CONFIG, 6, 0, 16) for _ in range(2))
    for step in (5, 0, 3):  # in any order
        same(one[step], again[step])
    assert (one[0].image_index != one[1].image_index).any()


def test_cache_gives_the_same_and_reads_once():
    dataset = Images()
    proposals = proposals_of(dataset)
    config = dataclasses.replace(CONFIG, scales=(32, 48))
    plain = training_source(dataset, proposals, config, 12, 0, 16)
    expected = [plain[step] for step in range(12)]
    dataset.reads = 0
    cached = training_source(dataset, proposals, dataclasses.replace(config, cache_decoded=True), 12, 0, 16)
    for _ in range(2):
        for step in range(12):
            same(cached[step], expected[step])
    assert dataset.reads == 5
