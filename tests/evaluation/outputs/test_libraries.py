"""Detections as columns of a table, and as supervision's record."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.evaluation.outputs.libraries import detections_table, to_supervision
from tests.evaluation.records import detections

FOUND = detections(([0, 1, 10, 20], 0.9, 2), ([5, 5, 6, 6], 0.8, 1), ([2, 2, 4, 5], 0.5, 1), mask=[True, False, True])
NAMES = ("cat", "dog")


def test_columns_of_one_image():
    columns = detections_table(FOUND, NAMES)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "class": ["dog", "cat"],
        "label": [2, 1],
        "score": np.float32([0.9, 0.5]).tolist(),
        "x1": [0, 2],
        "y1": [1, 2],
        "x2": [10, 4],
        "y2": [20, 5],
    }
    assert {columns[name].dtype for name in ("score", "x1", "y2")} == {np.dtype("float32")}


def test_columns_of_several_images():
    columns = detections_table({"a": FOUND, "b": detections(), "c": detections(([1, 1, 2, 2], 0.1, 1))}, NAMES)
    assert columns["image"].tolist() == ["a", "a", "c"]
    assert columns["class"].tolist() == ["dog", "cat", "cat"]
    assert {len(column) for column in columns.values()} == {3}


@pytest.mark.parametrize("nothing", [{}, {"a": detections()}, detections()])
def test_columns_without_detections(nothing):
    assert {len(column) for column in detections_table(nothing, NAMES).values()} == {0}


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"image 'a': detections\.labels: 2 is outside 1 \.\.\. 1"):
        detections_table({"a": FOUND}, ["cat"])


def check_record(record):
    assert record.xyxy.tolist() == [[0, 1, 10, 20], [2, 2, 4, 5]]
    assert record.confidence.tolist() == np.float32([0.9, 0.5]).tolist()
    assert record.class_id.tolist() == [1, 0]
    assert [NAMES[number] for number in record.class_id] == list(record.data["class_name"]) == ["dog", "cat"]


def test_supervision_is_imported_only_where_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    check_record(to_supervision(FOUND, NAMES))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="to_supervision needs supervision: pip install supervision"):
        to_supervision(FOUND, NAMES)


@pytest.mark.long
def test_supervisions_own_record():
    supervision = pytest.importorskip("supervision")
    record = to_supervision(FOUND, NAMES)
    assert isinstance(record, supervision.Detections)
    check_record(record)
    assert len(record[record.confidence > 0.6]) == 1
    assert to_supervision(detections(), NAMES).is_empty()
    canvas = supervision.BoxAnnotator().annotate(np.zeros((30, 30, 3), np.uint8), record)
    assert canvas.any()


@pytest.mark.parametrize("convert", [detections_table, to_supervision])
def test_one_text_is_no_list_of_names(monkeypatch, convert):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace())
    with pytest.raises(ValueError, match=r"class_names: 'cat' is one text, expected a sequence of names such as"):
        convert(FOUND, "cat")
