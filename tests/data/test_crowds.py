"""Crowd marks from a folder to a batch; data without crowds are unchanged."""

import dataclasses
import importlib
import sys

import cv2
import numpy as np
import pytest

from frcnn_jax.data.batch_plan import BatchPlan
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.formats.table import FORMATS
from frcnn_jax.data.pipeline import BatchSource
from frcnn_jax.data.prepared.index import decode_objects
from frcnn_jax.data.proposals.recall import proposal_recall
from frcnn_jax.training.data_record import record_data
from frcnn_jax.types import GroundTruth
from tests.data.formats.test_table import ROWS, csv_folder
from tests.data.memory import MemoryDataset
from tests.data.voc_files import pixels


@pytest.fixture
def csv_format():
    module = importlib.import_module("tests.data.csv_format")
    yield module
    FORMATS.pop("my_csv")
    sys.modules.pop(module.__name__)


def truth(crowd=None):
    boxes, labels = np.array([[1, 2, 11, 12], [3, 4, 30, 20]], np.float32), np.array([1, 2], np.int32)
    return GroundTruth(boxes=boxes, labels=labels, difficult=np.array([False, True]), crowd=crowd)


def dataset(tmp_path, *annotations):
    files = tuple(cv2.imencode(".jpg", pixels(seed))[1].tobytes() for seed in range(len(annotations)))
    return MemoryDataset("mine", tmp_path, ("a", "b"), tuple("xyz"[: len(files)]), files, annotations)


def batch(data):
    no_flip = np.zeros((1, len(data)), bool)
    plan = BatchPlan(np.arange(len(data))[None], np.ones((1, len(data))), no_flip, no_flip, np.array([[64, 64]]))
    return BatchSource(data, [np.zeros((0, 4), np.float32)] * len(data), plan, max_objects=3)[0]


def test_no_object_is_a_crowd_unless_it_is_said():
    assert truth().crowd.tolist() == [False, False]
    assert dataclasses.replace(truth(), labels=np.array([2, 2], np.int32)).crowd.dtype == np.bool_


def test_a_hash_without_crowds_is_what_it_was(tmp_path):
    images = dataclasses.replace(dataset(tmp_path, truth(), truth()), files=(b"first", b"second"))
    before = "cb4b2498ee562bbf3c13d7e5f309ac7a7406fceb13dbe1ee77dee94042946e18"
    assert content_fingerprint(images) == before
    crowds = [truth(np.array(marks)) for marks in ([True, False], [False, True], [True, True])]
    hashes = {content_fingerprint(dataclasses.replace(images, annotations=(truth(), crowd))) for crowd in crowds}
    hashes.add(content_fingerprint(dataclasses.replace(images, annotations=(crowds[0], truth()))))
    assert len(hashes | {before}) == 5


def test_the_record_of_a_run_tells_crowd_marks(tmp_path):
    plain, marked = (record_data(dataset(tmp_path, truth(crowd)), ()) for crowd in (None, np.array([True, False])))
    assert (plain.digests != marked.digests).any(axis=2).tolist() == [[False, False, False, True]]


def test_batches_have_the_marks_where_the_data_set_has_some(tmp_path):
    assert batch(dataset(tmp_path, truth(), truth())).gt_crowd is None
    marked = batch(dataset(tmp_path, truth(), truth(np.array([False, True]))))
    assert marked.gt_crowd.tolist() == [[False] * 3, [False, True, False]]
    assert marked.gt_mask.tolist() == [[True, True, False]] * 2, "a crowd is there, and marked"


def test_recall_is_of_objects_alone():
    proposals = [np.array([[1, 2, 11, 12]], np.float32)]
    plain = dataclasses.replace(truth(), difficult=np.zeros(2, bool))
    assert proposal_recall(proposals, [plain], "ab")[0.5]["overall"] == 0.5
    marked = dataclasses.replace(plain, crowd=np.array([False, True]))
    assert proposal_recall(proposals, [marked], "ab")[0.5]["overall"] == 1


def test_prepared_marks_are_read_again_from_the_index(tmp_path, csv_format):
    config = csv_folder(tmp_path / "mine", *ROWS, "train,a.jpg,bee,2,1,20,20,crowd")
    first, again = (open_dataset("folder/train", config) for _ in range(2))
    for data in (first, again):
        assert [t.crowd.tolist() for t in data.annotations] == [[False, False, True], []]
    assert first.fingerprint == again.fingerprint
    with np.load(first.directory / "frcnn_index_train.npz") as arrays:
        assert arrays["crowd"].tolist() == [False, False, True]


def test_an_index_without_crowds_is_what_it_was(tmp_path, csv_format):
    data = open_dataset("folder/train", csv_folder(tmp_path / "mine"))
    with np.load(data.directory / "frcnn_index_train.npz") as arrays:
        assert sorted(arrays) == ["boxes", "difficult", "digests", "format", "labels", "sizes", "starts"]


def test_records_of_earlier_versions_have_no_crowds():
    objects = {"box": [[1, 2, 3, 4]], "label": [0], "is_difficult": [True]}
    assert decode_objects({"objects": objects}, (9, 9)).crowd.tolist() == [False]
    assert decode_objects({"objects": objects | {"is_crowd": [True]}}, (9, 9)).crowd.tolist() == [True]
