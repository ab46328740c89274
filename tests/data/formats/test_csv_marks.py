"""Columns of CSV files beside the box: difficult objects and groups."""

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from tests.data.formats.test_csv import one_file

HEADER = "filename,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("column", "field"),
    [("difficult", "difficult"), ("Is_Difficult", "difficult"), ("IsGroupOf", "crowd"), ("iscrowd", "crowd")],
)
def test_marks_of_objects(tmp_path, column, field):
    values = {"1": True, "True": True, "1.0": True, "0": False, "": False, "-1": False, "Unspecified": False}
    rows = [f"a_1.jpg,cat,1,1,20,{n},{value}" for n, value in enumerate(values, 5)]
    rows += [f"a_1.jpg,cat,1,1,20,4,{value}" for value in ("2", "x")]
    (record,) = one_file(tmp_path, *rows, header=f"{HEADER},{column}").records
    assert [getattr(item, field) for item in record.objects] == list(values.values())
    other = {"difficult": "crowd", "crowd": "difficult"}[field]
    assert not any(getattr(item, other) for item in record.objects)
    faults = [(fault.kind, fault.object, fault.field, fault.value) for fault in record.faults]
    assert faults == [("unreadable_annotation", 7, field, "2"), ("unreadable_annotation", 8, field, "x")]


def test_marks_are_prepared(tmp_path):
    one_file(
        tmp_path / "set", "a_1.jpg,cat,1,1,20,5,0,1", "a_1.jpg,cat,1,1,9,9,1,0", header=f"{HEADER},difficult,IsGroupOf"
    )
    data = open_dataset("folder/all", DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds")))
    (truth,) = data.annotations
    assert (truth.difficult.tolist(), truth.crowd.tolist()) == ([False, True], [True, False])
