"""From an image to detections by both programs: they agree, and refuse bad input in one line."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.detection import outputs as outputs_module
from frcnn_jax.detection.detect import detect, detect_batch, trim
from frcnn_jax.detection.inputs import make_batch, single_pyramid
from frcnn_jax.detection.roi_plan import plan_rois
from frcnn_jax.detection.selection import select_detections
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.detection.stages import detect_pyramid
from frcnn_jax.evaluation.evaluate import detect_dataset
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.types import BoxStatistics, Detections
from tests.detection.test_selection import outputs, select
from tests.detection.test_source import Images
from tests.weights.detectors import (
    CONFIG,
    assert_same_detections,
    image_and_boxes,
    random_params,
    small_detector,
    small_model,
)


def test_detect_equals_the_batch_path():
    detector = small_detector()
    image, boxes = image_and_boxes()
    settings = {"nms_iou": 0.4, "score_threshold": 0.1, "per_class": 20}
    found = detector.detect(image, boxes)
    assert len(found.scores) > 3
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))
    assert set(found.labels) <= {1, 2, 3}
    batch = make_batch(image, boxes, scale=48, max_size=96)
    # Two images, of which the second only fills the batch.
    both = jax.tree.map(lambda x: np.concatenate([x, x]), batch).replace(image_mask=np.array([True, False]))
    together = detect_batch(detector.params, detector.statistics, both, model=detector.model, **settings)
    first, second = (trim(jax.tree.map(lambda x, i=i: x[i], together)) for i in range(2))
    assert len(second.scores) == 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(first), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    assert CONFIG.evaluate.nms_iou == 0.4  # the config's thresholds are the ones above


class ExactCorners(FastRCNN):
    """Pools the RoI's corners themselves, in place of the cells they are rounded to."""

    def pool(self, features, rois, scales=None, feature_sizes=None):
        pooled = super().pool(features, rois, scales, feature_sizes)
        return pooled + jnp.sin(rois).sum(-1)[..., None, None, None]


def test_pooling_of_a_subclass_sees_each_box():
    """Boxes on the same cells share an RoI only if pooling rounds their corners to cells, in an evaluation too."""
    detector, (_, boxes) = small_detector(), image_and_boxes()
    dataset = Images((60, 80))
    fields = {x.name: getattr(detector.model, x.name) for x in dataclasses.fields(FastRCNN)}
    model = ExactCorners(**{name: value for name, value in fields.items() if name not in ("parent", "name")})
    boxes = np.concatenate([boxes[:4], boxes[:4] + np.float32(0.25)])
    assert len(plan_rois(boxes, np.ones(1), 1 / 16).chosen) < len(boxes)
    settings = {"score_threshold": 0.0, "nms_iou": 1.0, "box_regression": False}
    found = detect(model, detector.params, dataset.read_image(0), boxes, scale=48, max_size=96, **settings)
    assert len(np.unique(found.scores)) == len(found.scores) == 3 * len(boxes)
    config = dataclasses.replace(CONFIG.evaluate, per_class=100, **settings)
    evaluated = detect_dataset(
        model, detector.params, detector.statistics, dataset, [boxes], input_config=CONFIG.input, config=config
    )["im0"]
    np.testing.assert_allclose(np.sort(evaluated.scores), np.sort(found.scores), rtol=1e-5)


def test_statistics_change_boxes_and_stand_for_none():
    detector = small_detector()
    image, boxes = image_and_boxes()
    run = functools.partial(detect, detector.model, detector.params, image, boxes, scale=48, max_size=96)
    none = BoxStatistics(mean=jnp.zeros((4, 4)), std=jnp.ones((4, 4)))
    np.testing.assert_array_equal(run().boxes, run(statistics=none).boxes)
    assert not np.array_equal(run().boxes[:3], run(statistics=detector.statistics).boxes[:3])


def test_no_boxes_give_no_detections():
    model = small_model()
    image, _ = image_and_boxes()
    for boxes in (np.zeros((0, 4), np.float32), []):
        found = detect(model, random_params(model), image, boxes, scale=48, max_size=96, score_threshold=0.0)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == (0,)


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), [[0, 0, 1, 1]], r"the image must be uint8 \[H, W, 3\], not float32"),
        ("a/b.jpg", [[0, 0, 1, 1]], r"not the name of a file: read it, as by cv2\.imread\('a/b\.jpg'\)\[:, :, ::-1\]"),
        (np.zeros((8, 8), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), [[0, 0, 1, 1]], r"not uint8 \[0, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 1]], r"boxes must be \[P, 4\], not \[1, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), [0, 0, 1, 1], r"boxes must be \[P, 4\], not \[4\]"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 1, 1], [0, 0, 1, np.nan]], "boxes must be finite; box 1 is not"),
    ],
)
def test_bad_input_is_named(image, boxes, message):
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, image, boxes)


@pytest.mark.parametrize("seed", range(3))
def test_both_programs_agree_on_random_models(seed):
    """Stage by stage as `detect` and evaluation run, and as the one program that is exported and timed."""
    model = small_model()
    params, statistics = random_params(model, seed), small_detector().statistics
    image, boxes = image_and_boxes((64, 96), count=40)
    settings = {"score_threshold": 0.02, "nms_iou": 0.5}
    found = detect(model, params, image, boxes, statistics=statistics, scale=64, max_size=96, **settings)
    batch = make_batch(image, boxes)
    together = detect_batch(params, statistics, batch, model=model, **settings)
    together = trim(jax.tree.map(lambda x: x[0], together))
    assert len(found.scores) > 20
    np.testing.assert_array_equal(found.labels, together.labels)
    np.testing.assert_allclose(found.scores, together.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.boxes, together.boxes, rtol=1e-5, atol=1e-5 * 96)


def test_the_one_program_in_jit_and_vmap():
    detector = small_detector()
    pictures = [image_and_boxes((48, 64), count=count) for count in (20, 30)]
    batches = [make_batch(*picture) for picture in pictures]
    run = functools.partial(detect_batch, model=detector.model, score_threshold=0.1)
    jitted = [jax.jit(run)(detector.params, detector.statistics, batch) for batch in batches]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
    mapped = jax.vmap(run, in_axes=(None, None, 0))(detector.params, detector.statistics, stacked)
    assert mapped.boxes.shape == (2, 1, 3 * 64, 4)
    for i, one in enumerate(jitted):
        first, second = (
            trim(jax.tree.map(lambda x: x[0], d)) for d in (one, jax.tree.map(lambda x, i=i: x[i], mapped))
        )
        assert_same_detections(first, second, 1e-5)
    # Without statistics, the weights stand alone.
    alone = jax.jit(run)(detector.params, None, batches[0])
    assert not np.array_equal(alone.boxes, jitted[0].boxes)


def test_what_cannot_be_traced_says_what_can():
    detector, (image, boxes) = small_detector(), image_and_boxes()
    run = functools.partial(detect, detector.model)
    for trace in (
        lambda: jax.jit(run)(detector.params, image, boxes),
        lambda: jax.jit(lambda b: run(detector.params, image, b))(boxes),
        lambda: jax.vmap(lambda i: run(detector.params, i, boxes))(image[None]),
        lambda: jax.jit(lambda p: run(p, image, boxes))(detector.params),
        lambda: jax.jit(detector.detect)(image, boxes),
    ):
        with pytest.raises(TypeError, match=r"cannot be traced .* trace frcnn\.detect_batch"):
            trace()


REVERSED = r"boxes must be x1 y1 x2 y2 \(half-open, in pixels\): box 1 is "


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[1, 1, 5, 5], [50, 10, 20, 40]],
            REVERSED + r"\[50.0, 10.0, 20.0, 40.0\], where x2 is less than x1; .* x y w h: ",
        ),
        ([[1, 1, 5, 5], [10, 50, 70, 49.5]], REVERSED + r"\[10.0, 50.0, 70.0, 49.5\], where y2 is less than y1$"),
        ([[1, 1, 5, 5], [50, 40, 0, 0]], REVERSED + r".* where x2 is less than x1$"),  # no width
        (np.array([[1, 1, 5, 5], [30, 10, 20, 40]], np.uint16), REVERSED + ".* x y w h: give x, y, x [+] w, y [+] h"),
    ],
)
def test_reversed_boxes_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, np.zeros((60, 80, 3), np.uint8), boxes)


def test_boxes_outside_the_image_are_dropped():
    detector, (image, boxes) = small_detector(), image_and_boxes()
    outside = np.float32([[80, 0, 90, 10], [-9, 4, 0, 9], [100, 100, 120, 130], [5, 60, 9, 70], [20, 20, 20, 40]])
    mixed = np.concatenate([boxes[:10], outside, boxes[10:]])
    for a, b in zip(*(jax.tree.leaves(detector.detect(image, b)) for b in (boxes, mixed)), strict=True):
        np.testing.assert_array_equal(a, b)
    run = functools.partial(detect, detector.model, detector.params, image, scale=48, max_size=96, score_threshold=0.0)
    assert len(run(outside).scores) == 0
    assert len(run(outside - [1, 0, 1, 0]).scores) > 0  # one of them reaches into the image by a pixel


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 0}, "per_class must be a whole number of at least 1, not 0"),
        ({"per_class": -1}, "per_class must be a whole number of at least 1, not -1"),
        ({"per_class": True}, "per_class must be a whole number of at least 1, not True"),
        ({"box_voting": False}, "detection takes box_voting in 0 ... 1, not False"),
        ({"nms_iou": np.True_}, "detection takes nms_iou in 0 ... 1, not (True|np.True_)"),
        ({"nms_iou": "0.3"}, "detection takes nms_iou in 0 ... 1, not '0.3'"),
        ({"box_voting": [0.5]}, r"detection takes box_voting in 0 ... 1, not \[0\.5\]"),
        ({"per_class": 2.5}, "per_class must be a whole number of at least 1, not 2.5"),
        ({"score_threshold": float("nan")}, r"detection takes score_threshold in 0 \.\.\. 1, not nan"),
        ({"score_threshold": 1.5}, r"detection takes score_threshold in 0 \.\.\. 1, not 1.5"),
        ({"nms_iou": float("nan")}, r"detection takes nms_iou in 0 \.\.\. 1, not nan"),
        ({"nms_iou": -0.1}, r"detection takes nms_iou in 0 \.\.\. 1, not -0.1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    image, boxes = image_and_boxes()
    with pytest.raises(ValueError, match=message):
        detect(small_model(), {}, image, boxes, **settings)
    with pytest.raises(ValueError, match=message):
        select(*outputs(), **settings)
    with pytest.raises(ValueError, match=message):
        detect_batch({}, None, make_batch(image, boxes), model=small_model(), **settings)


def test_defaults_are_the_papers_and_those_of_detect():
    default = lambda function: inspect.signature(function).parameters["score_threshold"].default  # noqa: E731
    assert (default(select_detections), default(detect), default(detect_batch)) == (0.0, 0.05, 0.05)


def test_trim_takes_one_image():
    found = Detections(boxes=np.zeros((2, 3, 4)), scores=np.ones((2, 3)), labels=np.ones((2, 3)), mask=np.ones((2, 3)))
    message = r"detections of one image, with boxes \[D, 4\], not \[2, 3, 4\]: take image i by jax\.tree\.map"
    with pytest.raises(ValueError, match=message):
        trim(found)
    assert len(trim(jax.tree.map(lambda x: x[1], found)).scores) == 3


def test_statistics_of_other_classes_are_named():
    model = small_model()
    image, boxes = image_and_boxes()
    batch = make_batch(image, boxes)
    params = random_params(model)
    pyramid = single_pyramid(image, boxes, scales=(48,), max_size=96, spatial_scale=1 / 16)
    good = np.ones((4, 4), np.float32)
    for name, other in (("mean", np.zeros((21, 4))), ("std", np.ones((4,)))):
        statistics = BoxStatistics(mean=good, std=good).replace(**{name: other})
        message = rf"statistics\.{name} must be \[4, 4\], as .* num_classes = 4, not \[{other.shape[0]}"
        for options in ({}, {"flip": True}, {"second_pass": 2}):
            with pytest.raises(ValueError, match=message):
                detect(model, params, image, boxes, statistics=statistics, scale=48, max_size=96, **options)
            with pytest.raises(ValueError, match=message):
                jax.eval_shape(functools.partial(detect_batch, model=model, **options), params, statistics, batch)
            with pytest.raises(ValueError, match=message):
                detect_pyramid(params, statistics, pyramid, model=model, settings=DetectionSettings(**options))


class Whole(FastRCNN):
    """Overrides what detection does not call."""

    def __call__(self, *arguments, **options):
        pytest.fail("detection calls the parts")


def test_the_one_program_calls_the_parts_of_a_model_too():
    detector = small_detector()
    fields = {x.name: getattr(detector.model, x.name) for x in dataclasses.fields(FastRCNN)}
    model = Whole(**{name: value for name, value in fields.items() if name not in ("parent", "name")})
    batch = make_batch(*image_and_boxes())
    jax.eval_shape(functools.partial(detect_batch, model=model), detector.params, detector.statistics, batch)


@pytest.mark.usefixtures("unchecked_types")
def test_one_length_as_scales_is_named():
    image, boxes = image_and_boxes()
    for second_pass in (0, 2):
        with pytest.raises(ValueError, match=r"^scales must be several lengths, .*, not 48: give one as scale$"):
            detect(small_model(), {}, image, boxes, scales=48, second_pass=second_pass)


@pytest.mark.usefixtures("unchecked_types")
def test_masks_of_numbers_count_by_value():
    """Two and one have no bit in common, and are both True."""
    batch = make_batch(*image_and_boxes((48, 64), count=5))
    numbers = batch.replace(proposal_mask=2 * batch.proposal_mask, image_mask=batch.image_mask.astype(np.int32))
    logits, deltas, statistics = jnp.ones((1, 64, 4)), jnp.zeros((1, 64, 4, 4)), small_detector().statistics
    settings = DetectionSettings(second_pass=2)
    for function in (outputs_module.select, outputs_module.second_boxes):
        want, found = (jax.tree.leaves(function(statistics, logits, deltas, x, settings)) for x in (batch, numbers))
        assert np.any(want[-1])
        for a, b in zip(found, want, strict=True):
            np.testing.assert_array_equal(a, b)


SETTINGS_AS_ARRAYS = {"nms_iou": jnp.float32(0.3), "per_class": jnp.int32(5), "box_regression": np.array(False),
                      "box_voting": jnp.float32(0.5)}  # fmt: skip


def test_settings_as_arrays_are_their_numbers_and_traced_ones_are_refused():
    model = small_model()
    image, boxes = image_and_boxes()
    params = random_params(model)
    programs = (
        functools.partial(detect_batch, params, None, make_batch(image, boxes), model=model),
        functools.partial(detect, model, params, image, boxes, scale=48, max_size=96),
    )
    numbers = {name: value.item() for name, value in SETTINGS_AS_ARRAYS.items()}
    for run in programs:
        assert jax.tree.all(jax.tree.map(np.array_equal, run(**SETTINGS_AS_ARRAYS), run(**numbers)))
        for name, value in SETTINGS_AS_ARRAYS.items():
            with pytest.raises(TypeError, match=rf"{name} must be a Python number, .* static_argnames of jax\.jit, or"):
                jax.jit(lambda value, run=run, name=name: run(**{name: value}))(value)


def test_make_batch_cannot_be_traced():
    image, boxes = image_and_boxes()
    with pytest.raises(TypeError, match=r"make_batch .* cannot be traced .*: call it before"):
        jax.jit(make_batch)(image, boxes)
