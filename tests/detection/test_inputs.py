"""Batches of the user's own images and boxes: by hand, several at once, through the loss, and error messages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection.inputs import make_batch, single_pyramid
from frcnn_jax.training.losses.batch_loss import loss_fn
from tests.training.cases import SAMPLING, least_model, random_params, small_batch


def gray(height, width, value=9):
    return np.full((height, width, 3), value, np.uint8)


def test_one_image_by_hand():
    batch = make_batch(gray(60, 80), [[1, 2, 3, 4], [90, 2, 95, 4]], [[5, 6, 30, 40]], [2])
    assert batch.images.shape == (1, 64, 96, 3)
    assert batch.images[:, :60, :80].sum() == batch.images.sum() == 9 * 3 * 60 * 80
    np.testing.assert_array_equal(batch.image_sizes, [[60, 80]])
    np.testing.assert_array_equal(batch.original_sizes, [[60, 80]])
    assert (batch.scales.tolist(), batch.image_mask.tolist(), batch.image_index.tolist()) == ([1], [True], [0])
    assert batch.proposals.shape == (1, 64, 4)
    np.testing.assert_array_equal(batch.proposals[0, :2], [[1, 2, 3, 4], [90, 2, 95, 4]])
    assert np.flatnonzero(batch.proposal_mask[0]).tolist() == [0]  # the second is outside
    assert batch.gt_boxes.shape == (1, 8, 4)
    np.testing.assert_array_equal(batch.gt_boxes[0, 0], [5, 6, 30, 40])
    assert (batch.gt_labels[0, 0], batch.gt_labels.sum(), batch.gt_mask.sum()) == (2, 2, 1)
    assert not batch.gt_difficult.any()
    dtypes = [x.dtype.name for x in jax.tree.leaves(batch)]
    assert dtypes == [x.dtype.name for x in jax.tree.leaves(small_batch())]


def test_resized_by_hand_and_without_objects():
    batch = make_batch(gray(60, 80), np.array([[1, 2, 3, 4]], np.uint16), scale=30, max_size=64)
    assert batch.images.shape == (1, 32, 64, 3)
    assert batch.images.sum() == 9 * 3 * 30 * 40
    np.testing.assert_array_equal(batch.image_sizes, [[30, 40]])
    np.testing.assert_array_equal(batch.original_sizes, [[60, 80]])
    assert batch.scales == [0.5]
    np.testing.assert_array_equal(batch.proposals[0, 0], [1, 2, 3, 4])
    assert not batch.gt_mask.any()
    assert make_batch(gray(60, 80), [], scale=600, max_size=40).image_sizes.tolist() == [[30, 40]]


def test_several_images_share_one_shape():
    images = [gray(60, 80, 1), gray(100, 40, 2)]
    boxes = [np.array([[0, 0, 9, 9]] * 70), []]
    batch = make_batch(images, boxes, [[[0, 0, 9, 9], [1, 1, 9, 9]], []], [[3, 1], []])
    assert batch.images.shape == (2, 128, 96, 3)
    assert (batch.images[1, :100, :40] == 2).all()
    assert batch.image_sizes.tolist() == [[60, 80], [100, 40]]
    assert batch.proposal_mask.sum(axis=1).tolist() == [70, 0]
    assert batch.proposals.shape == (2, 128, 4)
    assert batch.gt_mask.sum(axis=1).tolist() == [2, 0]
    stacked = make_batch(np.stack([images[0]] * 2), [[], []])
    assert stacked.images.shape == (2, 64, 96, 3)
    resized = make_batch(images, boxes, scale=32, max_size=64)
    assert resized.image_sizes.tolist() == [[32, 43], [64, 26]]
    assert resized.images.shape == (2, 64, 64, 3)


def test_the_loss_of_images_together_is_that_of_each_alone():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 96), (50, 70))]
    objects = [np.array([[5, 5, 40, 40], [50, 20, 90, 60]]), np.array([[9, 9, 50, 40]])]
    labels = [[1, 2], [2]]
    proposals = [np.concatenate([b + 2, b - 2, [[0, 0, 30, 20]]]) for b in objects]
    model, params = least_model(), random_params(least_model())
    run = jax.jit(jax.grad(partial(loss_fn, model=model, sampling=SAMPLING, train=False), has_aux=True))
    _, both = run(params, make_batch(images, proposals, objects, labels), jax.random.key(0))
    assert int(both["foreground"] + both["background"]) > 4
    assert np.isfinite(both["loss"])
    one = make_batch(images[0], proposals[0], objects[0], labels[0])
    gradient, alone = run(params, one, jax.random.key(0))
    masked = make_batch(images, proposals, objects, labels).replace(image_mask=np.array([True, False]))
    other_gradient, other = run(params, masked, jax.random.key(0))
    np.testing.assert_allclose(alone["loss"], other["loss"], rtol=1e-5)
    close = jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3, atol=1e-5), gradient, other_gradient)
    assert jax.tree.all(close)


BOX = [[1, 1, 5, 5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((gray(8, 8).astype(float), BOX), r"the image must be uint8 \[H, W, 3\], not float64"),
        (
            (gray(8, 8) / 255, BOX),
            r"float64 \[8, 8, 3\]: for values from 0 to 1, as by \(255 \* image\)\.astype\(np\.uint8\)",
        ),
        ((gray(8, 8)[:, :, 0], BOX), r"uint8 \[8, 8\]: make a gray image RGB, as by np\.dstack\(\[image\] \* 3\)$"),
        ((gray(8, 8)[:, :, :1], BOX), r"uint8 \[8, 8, 1\]: make a gray image RGB, as by np\.dstack\(\[image\] \* 3\)$"),
        ((np.zeros((8, 8, 4), np.uint8), BOX), r"\[8, 8, 4\]: leave out its transparency, as by image\[:, :, :3\]$"),
        (
            (np.zeros((3, 8, 9), np.uint8), BOX),
            r"\[3, 8, 9\]: put its channels last, as by image\.transpose\(1, 2, 0\)$",
        ),
        ((None, BOX), r"not object \[\]: it is None, as of cv2\.imread where it finds no image that it can read$"),
        (([gray(8, 8), None], [BOX] * 2), r"not object \[\]: it is None, as of cv2\.imread"),
        (([], []), "at least one image"),
        (([gray(8, 8)] * 2, [BOX]), "2 images but boxes of 1"),
        (([gray(8, 8)] * 2, [BOX] * 2, [BOX], [[1]] * 2), "2 images but gt_boxes of 1"),
        ((gray(8, 8), BOX, BOX), "needs gt_boxes and gt_labels, or neither"),
        ((gray(8, 8), [[5, 1, 1, 5]]), r"boxes must be x1 y1 x2 y2 .* box 0 is \[5.0, 1.0, 1.0, 5.0\]"),
        ((gray(8, 8), BOX, [[5, 1, 1, 5]], [1]), r"gt_boxes must be x1 y1 x2 y2 .* look like x y w h"),
        ((gray(8, 8), BOX, [[1, 2, 3]], [1]), r"gt_boxes must be \[P, 4\], not \[1, 3\]"),
        ((gray(8, 8), BOX, [[9, 1, 12, 5]], [1]), r"gt_boxes: box 0, .* is empty inside the image of 8 x 8"),
        ((gray(8, 8), BOX, BOX, [0]), r"gt_labels must be integers of 1 \.\.\. K.* from 0"),
        ((gray(8, 8), BOX, BOX, [1.0]), r"gt_labels must be integers .* not float64 \[1\]"),
        ((gray(8, 8), BOX, BOX, [1, 2]), r"gt_labels .* one for each of 1 gt_boxes, not int64 \[2\]"),
        ((gray(8, 8), BOX, BOX, [2**32 + 1]), r"gt_labels must be of 1 \.\.\. 2147483647, not 4294967297"),
        ((gray(8, 8), [["1", "1", "5", "5"]]), r"boxes must be real numbers, not <U1: convert them, as by np\.float32"),
        ((gray(8, 8), np.array(BOX) + 1j), r"boxes must be real numbers, not complex128"),
        ((gray(8, 8), [[1, 1, None, 5]]), r"boxes must be real numbers, not object"),
        ((gray(8, 8), [[1, 1, 5, 5], [1]]), r"boxes must be \[P, 4\], all rows with four numbers: "),
        ((gray(8, 8), [[1, 1, 5, 1e300]]), r"boxes must be finite; box 0 is not"),
        ((gray(8, 8), BOX, np.array(BOX, bytes), [1]), r"gt_boxes must be real numbers, not \|S1"),
        ((gray(8, 8), BOX, BOX, []), r"one for each of 1 gt_boxes, not int32 \[0\]"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_batch(*arguments)


def test_objects_that_are_difficult_or_crowds():
    both = partial(make_batch, [gray(8, 8)] * 2, [BOX] * 2, [BOX * 2, BOX], [[1, 2], [1]])
    batch = both(gt_difficult=[[False, True], [True]], gt_crowd=[np.array([True, False]), [False]])
    padding = [False] * 6
    assert batch.gt_difficult.tolist() == [[False, True, *padding], [True, False, *padding]]
    assert batch.gt_crowd.tolist() == [[True, False, *padding], [False, False, *padding]]
    assert both().gt_crowd is None
    assert not both().gt_difficult.any()
    assert make_batch(gray(8, 8), BOX, BOX, [1], gt_crowd=[True]).gt_crowd.tolist() == [[True, *[False] * 7]]
    assert make_batch(gray(8, 8), BOX, np.zeros((0, 4)), [], gt_difficult=[]).gt_difficult.sum() == 0
    for name in ("gt_difficult", "gt_crowd"):
        for marks, shown in (([1], r"int64 \[1\]"), ([True, False], r"bool \[2\]"), ([], r"bool \[0\]")):
            with pytest.raises(ValueError, match=f"^{name} must be True or False for each of 1 gt_boxes, not {shown}"):
                make_batch(gray(8, 8), BOX, BOX, [1], **{name: marks})
        with pytest.raises(ValueError, match=f"2 images but {name} of 1"):
            both(**{name: [[False, True]]})
        with pytest.raises(ValueError, match=f"^{name} must be True or False for each of 0 gt_boxes"):
            make_batch(gray(8, 8), BOX, **{name: [True]})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scale", "max_size"),
    [(0, 1000), (NAN, 1000), (600, NAN), (600, INF), (INF, 1000), (True, 1000), (600, np.True_)],
)
def test_lengths_must_be_positive_and_finite(scale, max_size):
    message = f"scale {scale!r} and max_size {max_size!r} must be at least 1 and finite"
    with pytest.raises(ValueError, match=message):
        make_batch(gray(8, 8), BOX, scale=scale, max_size=max_size)
    with pytest.raises(ValueError, match=message):
        single_pyramid(gray(8, 8), BOX, scales=(scale,), max_size=max_size, spatial_scale=1 / 16)


def test_labels_above_the_models_classes():
    make = partial(make_batch, gray(16, 16), BOX, BOX, num_classes=3)
    assert make([2]).gt_labels[0, 0] == 2
    with pytest.raises(ValueError, match=r"gt_labels must be of 1 \.\.\. num_classes - 1 = 2, not 3"):
        make([3])
    model = least_model()
    run = partial(loss_fn, random_params(model), model=model, sampling=SAMPLING, key=jax.random.key(0))
    for label in (3, 99, 0):
        batch = small_batch()
        batch.gt_labels[1, 1] = label
        with pytest.raises(ValueError, match=rf"gt_labels: {label} is not of 1 \.\.\. 2, .* num_classes = 3 counts"):
            run(batch)
    batch = small_batch()
    batch.gt_labels[1, 2] = 99  # padding
    assert jax.eval_shape(run, batch)[0].shape == ()
    assert jax.eval_shape(lambda: run(batch))[0].shape == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, jnp.bfloat16, object])
def test_numbers_of_every_kind_are_boxes(dtype):
    assert make_batch(gray(8, 8), np.array(BOX).astype(dtype)).proposals[0, 0].tolist() == BOX[0]


@pytest.mark.parametrize("stride", [8, 24, 32])
def test_sides_are_whole_cells_of_the_models_stride(stride):
    pyramid = single_pyramid(gray(100, 133), [[0, 0, 90, 90]], scales=(50, 100), max_size=150, spatial_scale=1 / stride)
    (level,) = pyramid.levels
    assert level.images.shape[1:3] == (-(-100 // stride) * stride, -(-134 // stride) * stride)
