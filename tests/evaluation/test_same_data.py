"""One detector on one data set in several notations: the same objects, so the same measure to the last digit."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, EvalConfig, InputConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import FORMATS, register_format
from frcnn_jax.data.proposals.source import Proposals
from frcnn_jax.data.records import ImageRecord, ObjectRecord, SplitRecords
from frcnn_jax.evaluation.evaluate import detect_dataset
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.types import BoxStatistics
from tests.data.voc_files import HEIGHT, WIDTH, VocFiles, object_xml
from tests.weights.detectors import random_params, small_model

NAMES = ("one", "three", "two")
INPUT = InputConfig(test_scale=48, test_max_size=64, workers=0)
EVALUATE = EvalConfig(score_threshold=0.0, nms_iou=0.4, per_class=20)


def drawn():
    """Class and corners, 1-based and inclusive, of each image's objects; some reach the image's border."""
    random = np.random.default_rng(0)
    for _ in range(12):
        low = random.integers(1, (WIDTH - 12, HEIGHT - 12), (3, 2))
        high = np.minimum(low + random.integers(8, 40, (3, 2)), (WIDTH, HEIGHT))
        yield list(zip(random.choice(NAMES, 3).tolist(), np.concatenate([low, high], axis=1).tolist(), strict=True))


OBJECTS = {f"i{k}": rows for k, rows in enumerate(drawn())}


def side_lengths(xmin, ymin, xmax, ymax):
    """COCO's: as text, x y width height."""
    x, y, width, height = map(float, f"{xmin - 1} {ymin - 1} {xmax - xmin + 1} {ymax - ymin + 1}".split())
    return x, y, x + width, y + height


def shares(xmin, ymin, xmax, ymax):
    """YOLO's: center and sides as shares of the image, with 17 digits."""
    numbers = (xmin - 1 + xmax) / 2 / WIDTH, (ymin - 1 + ymax) / 2 / HEIGHT
    numbers += (xmax - xmin + 1) / WIDTH, (ymax - ymin + 1) / HEIGHT
    x, y, width, height = (float(f"{number:.17g}") for number in numbers)
    width, height = width * WIDTH, height * HEIGHT
    return x * WIDTH - width / 2, y * HEIGHT - height / 2, x * WIDTH + width / 2, y * HEIGHT + height / 2


def corners(xmin, ymin, xmax, ymax):
    """A table's: 0-based and half-open, with decimals."""
    return tuple(float(f"{value:.6f}") for value in (xmin - 1, ymin - 1, xmax, ymax))


@dataclasses.dataclass
class Reader:
    """The same objects as in the VOC folder beside it."""

    root: Path
    config: DataConfig

    layout, splits, notation = "nothing", ("test",), None

    @staticmethod
    def fits(root):
        return False

    def read(self, split):
        return SplitRecords(tuple(self.record(*item) for item in OBJECTS.items()))

    def record(self, name, rows):
        objects = tuple(ObjectRecord(i, kind, self.notation(*box)) for i, (kind, box) in enumerate(rows))
        return ImageRecord(name, self.root / f"JPEGImages/{name}.jpg", f"{name}.txt", objects=objects)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """(data set in VOC format, its settings, function that detects in a data set)."""
    files = VocFiles(tmp_path_factory.mktemp("data") / "set")
    for name, rows in OBJECTS.items():
        files.image(name, *(object_xml(kind, box) for kind, box in rows))
    files.split("test", *OBJECTS)
    config = DataConfig(root=str(files.root), tfds_dir=str(files.root.parent / "prepared"))
    model = small_model()
    statistics = BoxStatistics(mean=jnp.zeros((4, 4)), std=jnp.full((4, 4), 0.1))
    arguments = model, random_params(model), statistics

    def measure(dataset):
        random = np.random.default_rng(1)
        near = [np.repeat(truth.boxes, 4, axis=0) for truth in dataset.annotations]
        moved = [np.clip(boxes + random.normal(0, 3, boxes.shape), 0, (WIDTH, HEIGHT) * 2) for boxes in near]
        boxes = [np.sort(b.reshape(-1, 2, 2), axis=1).reshape(-1, 4).astype(np.float32) for b in moved]
        proposals = Proposals.from_arrays(boxes)
        found = detect_dataset(*arguments, dataset, proposals, input_config=INPUT, config=EVALUATE)
        truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
        return evaluate_voc(found, truth, class_names=dataset.classes)

    dataset = open_dataset("folder/test", config)
    return dataset, config, measure, measure(dataset)


@pytest.mark.parametrize("notation", [side_lengths, shares, corners], ids=lambda notation: notation.__name__)
def test_a_data_set_in_another_notation_has_the_same_measure(voc, monkeypatch, notation):
    dataset, config, measure, expected = voc
    monkeypatch.setattr(Reader, "notation", staticmethod(notation))
    register_format(notation.__name__, Reader)
    try:
        other = open_dataset("folder/test", dataclasses.replace(config, format=notation.__name__))
    finally:
        FORMATS.pop(notation.__name__)
    assert other.directory != dataset.directory
    assert other.fingerprint == dataset.fingerprint
    assert measure(other) == expected
    assert 0.001 < expected["map"] < 0.999
    assert len(set(expected["ap"].values())) == 3
