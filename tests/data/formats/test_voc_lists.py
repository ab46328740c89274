"""Lists of VOC folders as other tools than VOC's write them."""

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import write_text, write_voc


def lists_of(root, lists):
    """A VOC folder with these lists alone, and its reader."""
    write_voc(root)
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    for name, lines in lists.items():
        write_text(root / f"ImageSets/Main/{name}.txt", "".join(f"{line}\n" for line in lines))
    return open_reader(root, DataConfig())[1]


@pytest.mark.parametrize(
    "names", [("Train", "Validation", "Test"), ("TRAIN", "val", "TEST"), ("training", "Val", "test")]
)
def test_lists_are_of_the_split_that_they_name_in_any_case(tmp_path, names):
    ids = [["a_2", "a_1"], ["b_1"], ["t_1", "t_2"]]
    reader = lists_of(tmp_path, dict(zip(names, ids, strict=True)))
    assert set(reader.splits) == {"train", "validation", "test"}
    for split, name, its in zip(("train", "validation", "test"), names, ids, strict=True):
        assert [list(reader.read(known).ids) for known in (split, name)] == [its, its], "by the file's name too"


def test_a_list_in_another_case_does_not_replace_the_plain_one(tmp_path):
    reader = lists_of(tmp_path, {"Train": ["a_1"], "train": ["a_2"], "TrainVal": ["a_1", "b_1"], "smallTest": ["t_1"]})
    assert {name: list(reader.read(name).ids) for name in reader.splits} == {
        "Train": ["a_1"],
        "train": ["a_2"],
        "trainval": ["a_1", "b_1"],
        "smallTest": ["t_1"],
    }
