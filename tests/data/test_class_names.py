"""Classes of a folder: a subset, names that are read as others."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.formats.written import PICTURES, write_coco, write_csv, write_labelimg, write_voc, write_yolo
from tests.data.voc_files import annotation_xml


def labels(config, split="train"):
    data = open_dataset(f"folder/{split}", config)
    return data.classes, [truth.labels.tolist() for truth in data.annotations], data.dropped


def test_a_subset_leaves_the_others_out_and_counts_them(config, caplog):
    config = dataclasses.replace(config, classes=("cat", "zebra"))
    with caplog.at_level(logging.WARNING):
        assert labels(config) == (("cat", "zebra"), [[], [1]], {"unknown_class": 1})
    assert labels(config, "test") == (("cat", "zebra"), [[]], {"unknown_class": 1})
    said = "objects of classes that are not in data.classes are left out: ant 2, bee 1; no object is of class zebra"
    assert caplog.messages == [f"{config.root}: {said}"]


def test_a_name_in_another_case_is_a_fault(config):
    with pytest.raises(DatasetFaultError, match=r"name = 'cat': not one of Cat, bee \[unknown_class\]"):
        labels(dataclasses.replace(config, classes=("Cat", "bee")))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("dgo",), "no object of class 'dgo' (there: ant, bee, cat)"),
        (("Cat",), "no object of class 'Cat' (there: ant, bee, cat)"),
        (
            ("dog,cow",),
            "no object of class 'dog,cow' (there: ant, bee, cat); names are separated by spaces: "
            "--data.classes dog cow",
        ),
        (
            ("ant, cat", "bee", "zebra"),
            "no object of class 'ant, cat' (there: ant, bee, cat); names are separated by spaces: "
            "--data.classes ant cat bee zebra",
        ),
    ],
)
def test_classes_that_no_object_has_are_refused(config, classes, message):
    with pytest.raises(ValueError, match=rf"^{config.root}: data.classes: {re.escape(message)}$"):
        labels(dataclasses.replace(config, classes=classes))


def test_classes_that_nothing_trained_on_has_are_refused(config):
    """Only where the folder is all that is trained on."""
    config = dataclasses.replace(config, train=("folder/train",), validation=None, test="folder/test", classes=("bee",))
    message = r"data.classes: no image to train on has an object of class 'bee' \(there: ant, cat\)"
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=message):
            labels(config, split)
    more = dataclasses.replace(config, train=("folder/train", "voc/2007/trainval"))
    assert labels(more)[0] == ("bee",)


def test_classes_without_objects_beside_all_others_are_named(config, caplog):
    """Also with a comma in a name, and in a folder without any object."""
    classes = ("ant", "bee", "cat", "cup, mug")
    assert labels(dataclasses.replace(config, classes=classes))[0] == classes
    assert caplog.messages == [f"{config.root}: no object is of class cup, mug, which data.classes names"]
    for path in Path(config.root).glob("Annotations/*.xml"):
        path.write_text(annotation_xml())
    assert labels(dataclasses.replace(config, classes=("dgo",)))[:2] == (("dgo",), [[], []])


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_names_are_read_as_others_before_the_subset(tmp_path, config, form):
    if form == "coco":
        root = write_coco(tmp_path / "coco", [p for p in PICTURES if p.stem != "a_2"])
        config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"))
    before = labels(config)
    assert before[0] == ("ant", "bee", "cat")
    merged = labels(dataclasses.replace(config, rename=("ant=insect", "bee = insect")))
    assert merged[0] == ("cat", "insect")
    assert [2 if label < 3 else 1 for label in before[1][-1]] == merged[1][-1]
    swapped = dataclasses.replace(config, rename=("ant=bee", "bee=ant"))
    assert labels(swapped)[1][-1] == [{1: 2, 2: 1}.get(label, label) for label in before[1][-1]]
    subset = dataclasses.replace(config, rename=("ant=insect", "bee=insect"), classes=("insect",))
    assert labels(subset) == (("insect",), [*([[]] if form == "voc" else []), [1]], {"unknown_class": 1})
    assert labels(config) == before, "prepared apart"


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("dog=cat",), r"data.rename: no object of class 'dog' \(there: ant, bee, cat\)"),
        (("cat=a", "cat=b"), r"data.rename: 'cat' is read as 'a' and as 'b'"),
    ],
)
def test_names_that_cannot_be_read_so_are_refused(config, rename, message):
    with pytest.raises(ValueError, match=message):
        labels(dataclasses.replace(config, rename=rename))


@pytest.mark.parametrize("write", [write_voc, write_labelimg, write_coco, write_yolo, write_csv])
def test_a_name_that_is_not_there_is_refused_also_where_the_folder_is_prepared(tmp_path, write):
    root = write(tmp_path / "set", [p for p in PICTURES if p.stem != "a_2"])
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"))
    before = labels(config)
    renamed = dataclasses.replace(config, rename=("ant=insect",))
    merged = labels(renamed)
    for rename in (("atn=insect",), ("ant=insect", "be=insect")):
        with pytest.raises(ValueError, match=r"data.rename: no object of class '(atn|be)' \(there: ant, bee, cat\)"):
            labels(dataclasses.replace(config, rename=rename))
    assert (labels(config), labels(renamed)) == (before, merged)


@pytest.mark.parametrize("form", ["voc", "csv"])
def test_a_name_is_looked_for_in_all_splits(tmp_path, form):
    """Also where a split of another name is opened, which has none of its objects."""
    root = write_voc(tmp_path / "set", [p for p in PICTURES if p.stem != "a_2"])
    if form == "voc":
        (root / "ImageSets/Main/mine.txt").write_text("t_2\n")
    else:
        root = write_csv(tmp_path / "csv", PICTURES)
        (root / "mine.csv").write_text("filename,class,xmin,ymin,xmax,ymax\nt_2.jpg,cat,1,1,9,9\n")
    split = "mine" if form == "voc" else "all"
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), rename=("bee=wasp",))
    assert labels(config, split)[0] == ("ant", "cat", "wasp")
    with pytest.raises(ValueError, match=r"data.rename: no object of class 'be' \(there: ant, bee, cat\)"):
        labels(dataclasses.replace(config, rename=("be=wasp",)), split)


@pytest.mark.parametrize("pair", ["cat", "=cat", "cat=", " = "])
def test_a_pair_of_another_form_is_refused(pair):
    with pytest.raises(ValueError, match=r'data.rename: .* is not of the form "old=new"'):
        DataConfig(rename=(pair,))
