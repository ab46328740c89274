"""Images, proposals, classes and samples at the ends of what there can be."""

import io
import struct
import zlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from frcnn_jax.config import DataConfig, SamplingConfig
from frcnn_jax.data.images import check_image, decode_image, image_size
from frcnn_jax.data.prepared.content import _changed_settings
from frcnn_jax.data.prepared.load import load_images
from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.detection.detect import detect
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.ops.losses import multi_task_loss
from frcnn_jax.training.losses.batch_loss import loss_fn, sample_batch
from frcnn_jax.training.statistics import box_statistics
from frcnn_jax.types import GroundTruth
from tests.data.voc_files import pixels
from tests.weights.detectors import random_params, small_model

HUGE = (10_000, 20_000)  # height, width: 200 million pixels


def part(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png() -> bytes:
    size = struct.pack(">IIBBBBB", HUGE[1], HUGE[0], 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


def huge_jpeg() -> bytes:
    data = cv2.imencode(".jpg", pixels())[1].tobytes()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", *HUGE) + data[at + 4 :]


def huge_bmp() -> bytes:
    """Run lengths pack it, so that its pixels need not be there."""
    head = struct.pack("<IiiHHIIiiII", 40, HUGE[1], HUGE[0], 1, 8, 1, 4, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + head + bytes(4)


@pytest.mark.parametrize("make", [huge_png, huge_jpeg, huge_bmp])
def test_too_many_pixels_are_told_before_they_are_decoded(tmp_path, monkeypatch, make):
    def never(*_):
        pytest.fail("it is decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    data = make()
    assert image_size(data) == HUGE
    wanted = (
        r"20000 x 10000 pixels, more than data\.max_pixels = 150000000: reduce it, or set "
        r"--data\.max-pixels 200000000, for which 0\.6 GB of memory are needed$"
    )
    with pytest.raises(ValueError, match=wanted):
        check_image(data)
    (tmp_path / "a.jpg").write_bytes(data)
    records = SplitRecords((ImageRecord("a", tmp_path / "a.jpg", "a.xml"),))
    (fault,) = load_images([records], tmp_path, "a folder")["a"].faults
    assert (fault.kind, fault.file) == ("unreadable_image", "a.jpg")
    assert "--data.max-pixels 200000000" in fault.message


def test_the_limit_of_pixels_is_a_setting():
    data = cv2.imencode(".png", pixels())[1].tobytes()
    assert check_image(data, 1200) == (30, 40)
    with pytest.raises(ValueError, match=r"40 x 30 pixels, more than data\.max_pixels = 1199"):
        check_image(data, 1199)
    # What is prepared depends on it, and is made anew where it changes.
    assert _changed_settings(DataConfig()) == []
    assert _changed_settings(DataConfig(max_pixels=1199)) == [{"max_pixels": 1199}]
    with pytest.raises(ValueError, match=r"data\.max_pixels must be at least 1, not 0"):
        DataConfig(max_pixels=0)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits(kind):
    deep = pixels().astype(np.uint16) * 257 + 3
    data = cv2.imencode(f".{kind}", deep)[1].tobytes()
    assert check_image(data) == (30, 40)
    np.testing.assert_array_equal(decode_image(data), pixels()[..., ::-1])


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LA", "RGBA", "I;16"])
def test_colours_of_other_kinds(mode):
    image = Image.fromarray(pixels()[..., ::-1])
    file = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(file, "png")
    else:
        image.convert(mode).save(file, "jpeg" if mode in ("CMYK", "L") else "png", quality=98)
    assert check_image(file.getvalue()) == (30, 40)
    decoded = decode_image(file.getvalue())
    assert decoded.shape == (30, 40, 3)
    assert decoded.dtype == np.uint8
    shown = Image.fromarray(pixels()[..., 0]) if mode == "I;16" else image.convert(mode)
    wanted = np.asarray(shown.convert("RGB"))
    assert np.abs(decoded.astype(int) - wanted).mean() < 6


@pytest.fixture(scope="module")
def detector():
    model = small_model()
    return model, random_params(model)


def boxes_in(count: int, size: tuple[int, int]) -> np.ndarray:
    """Random boxes in an image of height and width `size`."""
    random = np.random.default_rng(count)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1) * [size[1], size[0]]
    return corners.reshape(-1, 4).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, pytest.param(2000, marks=pytest.mark.long), 100_000])
def test_any_number_of_proposals(detector, count):
    found = detect(*detector, pixels(1, 48, 64), boxes_in(count, (48, 64)), scale=48, max_size=64, per_class=20)
    assert (len(found.boxes) > 0) == (count > 0)
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.scores).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [64, 48, 64, 48]).all()
    assert len(found.boxes) <= 3 * 20


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_of_one_row_or_column(detector, size):
    height, width = size
    boxes = np.array([[0, 0, width, height], [0, 0, 1, 1], [width // 2, height // 2, width, height]], np.float32)
    batch = make_batch(pixels(1, *size), boxes, boxes[:1], np.array([1]), scale=48, max_size=320)
    assert batch.image_sizes[0].tolist() == [max(round(height * 0.064), 1), max(round(width * 0.064), 1)]
    assert batch.gt_mask.sum() == 1
    if height == 1:  # compiled for one of the two
        found = detect(*detector, pixels(1, *size), boxes, scale=48, max_size=320, score_threshold=0.0)
        assert len(found.boxes)
        assert (found.boxes <= [width, height, width, height]).all()


def batch_of(boxes, objects, labels, **options):
    return make_batch(pixels(1, 48, 64), boxes, objects, np.array(labels, np.int32), **options)


EMPTY = np.zeros((0, 4), np.float32)


@jax.jit
def sampled_loss(batch, outputs):
    """The sample of 16 RoIs of the one image, the loss of any outputs for it, and their gradient."""
    config = SamplingConfig(rois_per_image=16, background_iou=(0.0, 0.5))
    sample = jax.tree.map(lambda x: x[0], sample_batch(batch, jax.random.key(0), config=config))

    def value(outputs):
        place = sample.rois, sample.labels, sample.gt_boxes, sample.mask
        return multi_task_loss(*outputs, *place, jnp.zeros((4, 4)), jnp.ones((4, 4)))

    return sample, jax.value_and_grad(value, has_aux=True)(outputs)


@pytest.mark.parametrize("case", ["all background", "fewer than R", "none at all"])
def test_samples_that_run_short(case):
    far = np.array([[0, 0, 8, 8], [30, 30, 40, 40], [0, 20, 9, 44]], np.float32)
    boxes, objects, labels, wanted = {
        "all background": (far, EMPTY, [], (0, 3)),
        "fewer than R": (far, far[:1], [2], (2, 2)),  # the object itself and the proposal on it
        "none at all": (EMPTY, EMPTY, [], (0, 0)),
    }[case]
    outputs = jnp.ones((16, 4)), jnp.ones((16, 4, 4))
    sample, ((total, parts), gradient) = sampled_loss(batch_of(boxes, objects, labels), outputs)
    assert sample.mask.shape == (16,)
    foreground = int((sample.labels > 0).sum())
    assert (foreground, int(sample.mask.sum()) - foreground) == wanted
    assert np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    assert (parts["localization"] > 0) == (foreground > 0)
    assert (total == 0) == (case == "none at all")


def test_a_class_without_objects():
    box, label = np.array([[0, 0, 10, 10]], np.float32), np.array([2], np.int32)
    truth = GroundTruth(boxes=box, labels=label, difficult=np.array([False]))
    found = box_statistics([np.array([[1, 0, 10, 11], [0, 1, 9, 10]], np.float32)], [truth], 5)
    for label in (0, 1, 3, 4):
        assert found.mean[label].tolist() == [0] * 4
        assert found.std[label].tolist() == [1] * 4
    assert (found.std > 0).all()


def test_a_thousand_classes():
    model = small_model(1001)
    params = random_params(model)
    boxes = boxes_in(60, (48, 64))
    found = detect(model, params, pixels(1, 48, 64), boxes, scale=48, max_size=64, score_threshold=0.0, per_class=3)
    labels = set(found.labels.tolist())
    assert labels <= set(range(1, 1001))
    assert len(labels) > 900
    assert 1000 in labels
    assert np.bincount(found.labels).max() <= 3
    assert batch_of(boxes, boxes[:2], [1, 1000], num_classes=1001).gt_labels[0, :2].tolist() == [1, 1000]


def test_labels_above_the_classes_are_refused_wherever_they_are_seen(detector):
    model, params = detector
    boxes = boxes_in(3, (48, 64))
    with pytest.raises(ValueError, match=r"gt_labels.*4"):
        batch_of(boxes, boxes[:1], [4], num_classes=4)
    with pytest.raises(ValueError, match=r"batch\.gt_labels: 4 is not of 1 \.\.\. 3"):
        loss_fn(params, batch_of(boxes, boxes[:1], [4]), jax.random.key(0), model=model)
