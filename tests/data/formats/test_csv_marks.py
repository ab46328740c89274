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
    values = dict.fromkeys(("1", "True", "1.0", "t", "Y"), True)
    values |= dict.fromkeys(("0", "", "-1", "Unspecified", "nan", "None", "f", "N"), False)
    rows = [f"a_1.jpg,cat,1,1,20,{n},{value}" for n, value in enumerate(values, 5)]
    (record,) = one_file(tmp_path, *rows, header=f"{HEADER},{column}").records
    assert [getattr(item, field) for item in record.objects] == list(values.values())
    other = {"difficult": "crowd", "crowd": "difficult"}[field]
    assert not any(getattr(item, other) for item in record.objects)
    assert record.faults == ()


def test_decimal_commas_in_marks(tmp_path):
    header = f"{HEADER},difficult".replace(",", ";")
    (record,) = one_file(tmp_path, *(f"a_1.jpg;cat;1;1;20;{n};{n % 2},0" for n in (5, 6)), header=header).records
    assert [item.difficult for item in record.objects] == [True, False]


@pytest.mark.parametrize("value", ["easy", "2"])
def test_a_column_of_other_values_is_not_read(tmp_path, caplog, value):
    rows = [f"a_1.jpg,cat,1,1,20,{n},{text}" for n, text in enumerate(("1", value), 5)]
    (record,) = one_file(tmp_path, *rows, header=f"{HEADER},difficult").records
    assert ([item.difficult for item in record.objects], record.faults) == ([False, False], ())
    assert f"column difficult is not read, as {value!r} is neither 0 nor 1" in caplog.text


def test_marks_are_prepared(tmp_path):
    one_file(
        tmp_path / "set", "a_1.jpg,cat,1,1,20,5,0,1", "a_1.jpg,cat,1,1,9,9,1,0", header=f"{HEADER},difficult,IsGroupOf"
    )
    data = open_dataset("folder/all", DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds")))
    (truth,) = data.annotations
    assert (truth.difficult.tolist(), truth.crowd.tolist()) == ([False, True], [True, False])
