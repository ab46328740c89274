"""Faults in users' own folders: photographs in portrait orientation, two spellings of a name, lists of other tools."""

import hashlib
import logging
import shutil

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.prepared.names import slips, without_slips
from tests.data.voc_files import annotation_xml, object_xml, with_exif_orientation


def prepared(config, caplog, split="train"):
    """The data set, and what the log says."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = open_dataset(f"folder/{split}", config)
    return data, [record.message for record in caplog.records]


def test_classes_spelt_alike_are_reported(config, files, caplog):
    files.image("t1", object_xml("Ant"), object_xml("ant"), object_xml("bee"))
    data, messages = prepared(config, caplog)
    assert data.classes == ("Ant", "ant", "bee", "cat")
    assert messages == [
        f"{files.root}: classes of their own, but spelt alike: 'Ant', 'ant'; they become one by --data.rename Ant=ant"
    ]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("splits", [("train",), ("train", "trainval"), ("validation",)])
def test_images_to_test_on_are_not_trained_on(config, files, caplog, splits, copied):
    """By their content: under another name too."""
    for split in splits:
        files.split(split.removesuffix("idation"), "a1", "a2")
    files.split("test", "t1", "a2")
    if copied:
        shutil.copy(files.root / "JPEGImages/a2.jpg", files.root / "JPEGImages/t1.jpg")
        files.split("test", "t1")
    data, messages = prepared(config, caplog, splits[-1])
    assert (data.image_ids, data.dropped) == (("a1",), {"tested": 1})
    assert "a2" not in open_dataset("folder/trainval", config).image_ids
    images = "left out 1 image of {0}, in test too (the first: a2)"
    others = [split for split in ("train", "validation", "trainval") if split in (*splits, "train")]
    assert messages[: len(others)] == [f"{files.root}: {images.format(split)}" for split in others]
    # The copy has an annotation of its own, with other objects.
    assert [" image has other objects in " in text for text in messages[len(others) :]] == [True] * len(others) * copied


def test_an_ordinary_folder_is_prepared_without_a_word(config, caplog):
    assert prepared(config, caplog)[1] == []


def test_of_two_images_the_annotation_may_name_one(config, files):
    files.image("t1", object_xml("ant"))
    first = hashlib.sha256((files.root / "JPEGImages/t1.jpg").read_bytes()).hexdigest()
    files.image("t1", suffix=".png", xml=annotation_xml(object_xml("ant"), filename="t1.jpg"))
    assert open_dataset("folder/test", config).image_fingerprint(0) == first
    (files.root / "Annotations/t1.xml").write_text(annotation_xml(object_xml("ant"), filename="scan.tif"))
    with pytest.raises(DatasetFaultError, match=r"JPEGImages/t1: file = 't1.jpg, t1.png': several images of one id"):
        open_dataset("folder/test", config)


@pytest.mark.parametrize(
    ("suffix", "content", "name"),
    [
        (".heic", b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (".avif", b"\x00\x00\x00\x18ftypavif", "AVIF"),
        (".GIF", b"GIF89a", "GIF"),
    ],
)
def test_a_copy_in_another_form_beside_an_image_is_left_alone(config, files, suffix, content, name):
    first = open_dataset("folder/test", config).image_fingerprint(0)
    (files.root / f"JPEGImages/t1{suffix}").write_bytes(content)
    assert open_dataset("folder/test", config).image_fingerprint(0) == first
    (files.root / "JPEGImages/t1.jpg").unlink()
    message = rf"t1\{suffix}: file = 't1\{suffix}': {name}, which cannot be read: convert it to"
    with pytest.raises(DatasetFaultError, match=message):
        open_dataset("folder/test", config)


def test_a_list_may_have_the_names_of_files(config, files):
    files.split("test", "t1.jpg")
    assert open_dataset("folder/test", config).image_ids == ("t1",)
    files.image("b.1", object_xml("ant"))
    files.image("b.jpg", object_xml("ant"), suffix=".png")  # odd, but an id all the same
    files.split("test", "b.1", "b.jpg")
    assert open_dataset("folder/test", config).image_ids == ("b.1", "b.jpg")


@pytest.mark.parametrize("name", ["test", "ant_test"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_list_that_is_not_utf8_is_named(config, files, name, encoding):
    path = files.root / f"ImageSets/Main/{name}.txt"
    path.write_bytes("t1\nü\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"{path}: not UTF-8 text"):
        open_dataset("folder/test", config)


def test_a_dropped_image_counts_no_orientation(config, files, caplog):
    path = files.root / "JPEGImages/t1.jpg"
    path.write_bytes(with_exif_orientation(path.read_bytes(), 6)[:-2])
    policy = FaultPolicy(unreadable_image="drop")
    files.split("test", "t1", "b1")
    config = DataConfig(root=config.root, tfds_dir=config.tfds_dir, faults=policy)
    assert not [message for message in prepared(config, caplog, "test")[1] if "EXIF" in message]


def test_several_groups_are_one_setting():
    assert slips(["Ant", "bee", "ant", "cat", "BEE"]) == [
        "classes of their own, but spelt alike: 'Ant', 'ant'; 'BEE', 'bee'; each of these groups becomes one by "
        "--data.rename Ant=ant BEE=bee"
    ]
    assert slips(["ant", "bee"]) == []
    assert without_slips({"Ant": 1, "bee": 4, "ant": 2}) == {"ant": 3, "bee": 4}
