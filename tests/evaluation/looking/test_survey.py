"""The survey of a folder, without preparing it."""

import dataclasses
import logging
import re

import cv2
import numpy as np
import pytest

from frcnn_jax.config import Config, replace
from frcnn_jax.data import images as decoding
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.evaluation.looking.page import format_survey, remarks
from frcnn_jax.evaluation.looking.survey import survey_folder
from tests.data.voc_files import HEIGHT, WIDTH, VocFiles, annotation_xml, object_xml, with_exif_orientation


def settings(root, **data):
    return replace(Config(), data={"root": str(root), "tfds_dir": str(root / "prepared"), **data})


@pytest.fixture
def folder(tmp_path):
    """Four images to train on, two to test on; one of each is the same; two faults."""
    files = VocFiles(tmp_path)
    files.image("a", object_xml("cat", (1, 1, 32, 30)), object_xml("dog", (5, 5, 12, 12)))
    files.image("b", object_xml("cat", (2, 3, 10, 12), difficult="<difficult>1</difficult>"))
    files.image("c")
    files.image("t", object_xml("dog", (1, 1, 40, 30)))
    files.image("u", object_xml("cat", (9, 9, 9, 12)))  # no width
    (tmp_path / "JPEGImages/same.jpg").write_bytes((tmp_path / "JPEGImages/a.jpg").read_bytes())
    (tmp_path / "Annotations/same.xml").write_bytes((tmp_path / "Annotations/a.xml").read_bytes())
    files.split("train", "a", "b", "c", "gone")
    files.split("test", "t", "u", "same")
    return tmp_path


def test_splits_classes_and_sizes(folder):
    survey = survey_folder(settings(folder, faults={"tolerance": 0.9}))
    assert (survey.format, survey.view.classes) == ("voc", ("cat", "dog"))
    train, test = survey.splits["train"], survey.splits["test"]
    assert (train.images, train.objects, train.empty, train.most) == (2, 1, 1, 1)
    assert train.used == "trained on but for 1 that are tested on"
    assert (test.images, test.objects, test.empty, test.most, test.used) == (3, 3, 1, 2, "tested on")
    assert survey.class_table() == (
        ["class", "objects", "images", "train", "test", "small", "medium", "large", "difficult"],
        [["cat", 2, 2, 1, 1, 2, 0, 0, 1], ["dog", 2, 2, 0, 2, 1, 1, 0, 0]],
    )
    assert not (folder / "prepared").exists()


def test_lists_that_are_no_standard_splits(tmp_path):
    files = VocFiles(tmp_path)
    for name in ("a", "b", "c"):
        files.image(name, object_xml("cat"))
    files.split("pets_train", "a", "b")
    files.split("pets_val", "c")
    files.split("others", "b")
    survey = survey_folder(settings(tmp_path, train=("folder/pets_train",), test="folder/pets_val"))
    assert {name: (its.images, its.used) for name, its in survey.splits.items()} == {
        "pets_train": (2, "trained on"),
        "pets_val": (1, "tested on"),
    }
    assert set(survey.split_of) == {"pets_train", "pets_val"}
    missing = survey_folder(settings(tmp_path, train=("folder/pets_train",), test="folder/nothing"))
    assert any("no split 'nothing'" in note or "nothing" in note for note in missing.notes)


def test_all_faults_and_how_to_go_on(folder):
    (folder / "JPEGImages/c.jpg").write_bytes((folder / "JPEGImages/c.jpg").read_bytes()[:-2])
    survey = survey_folder(settings(folder, faults={"tolerance": 0}))
    assert survey.stops
    assert {kind: len(its) for kind, its in survey.faults.items()} == {
        "degenerate_box": 1,
        "missing_annotation": 1,
        "missing_image": 1,
        "unreadable_image": 1,
    }
    text = format_survey(survey, settings(folder))
    assert "Faults; training would stop:" in text
    assert "Annotations/u.xml: object 0: bndbox" in text
    assert "--data.faults.degenerate-box drop" in text
    assert not survey_folder(settings(folder, faults={"tolerance": 0.9})).stops


def test_an_image_with_unknown_objects_is_not_one_without(folder):
    """Its annotation cannot be read: 1 image fewer, of which none is empty."""
    before = survey_folder(settings(folder, faults={"tolerance": 0}))
    (folder / "Annotations/b.xml").write_text("<annotation>")
    after = survey_folder(settings(folder, faults={"tolerance": 0}))
    assert after.stops
    assert len(after.faults["unreadable_annotation"]) == 1
    assert after.splits["train"].images == before.splits["train"].images - 1
    assert after.splits["train"].empty == before.splits["train"].empty


def test_the_same_image_twice(folder):
    survey = survey_folder(settings(folder, faults={"tolerance": 0.9}))
    assert survey.equal == ((("train", "a"), ("test", "same")),)
    assert "1 image occurs more than once with the same bytes, 1 of them in several splits" in format_survey(
        survey, settings(folder)
    )
    alone = dataclasses.replace(survey, equal=((("train", "a"), ("train", "same")),))
    assert "1 image occurs more than once with the same bytes, each in one split only:" in format_survey(
        alone, settings(folder)
    )
    assert "train/a = test/same" in format_survey(survey, settings(folder))


def test_corrections_are_said_without_faults(tmp_path):
    files = VocFiles(tmp_path)
    for name in ("a", "b", "c"):
        files.image(name, object_xml("cat", (1, 1, WIDTH + (name == "a"), 20)))
    (tmp_path / "Annotations/b.xml").write_text(annotation_xml(object_xml("cat"), width=0, height=0))
    files.split("train", "a", "b")
    files.split("test", "c")
    survey = survey_folder(settings(tmp_path))
    assert survey.faults == {}
    assert survey.notes[-2:] == ("clipped 1 box", "took the image's own size for 1 image")


def test_images_listed_in_two_splits_are_found(tmp_path):
    files = VocFiles(tmp_path)
    for name in ("a", "b", "c"):
        files.image(name, object_xml("cat"))
    files.split("train", "a", "b")
    files.split("val", "b", "c")
    survey = survey_folder(settings(tmp_path))
    assert survey.equal == ((("train", "b"), ("validation", "b")),)
    assert list(survey.splits) == ["train", "validation"]


def test_only_files_of_one_size_are_hashed(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "frcnn_jax.evaluation.looking.equal.file_hash", lambda path: hashed.append(path.name) or str(path)
    )
    survey_folder(settings(folder, faults={"tolerance": 0.9}))
    sizes = {path.name: path.stat().st_size for path in (folder / "JPEGImages").iterdir()}
    expected = {name for name, size in sizes.items() if list(sizes.values()).count(size) > 1}
    assert set(hashed) <= expected
    assert {"a.jpg", "same.jpg"} <= set(hashed)


def test_images_are_decoded_only_where_verify_asks_for_it(folder, monkeypatch):
    decoded = []
    decode = decoding.decode_image
    monkeypatch.setattr(decoding, "decode_image", lambda data, *more: decoded.append(1) or decode(data, *more))
    survey_folder(settings(folder, faults={"tolerance": 0.9}))
    assert not decoded
    survey_folder(settings(folder, faults={"tolerance": 0.9}, verify=True))
    assert len(decoded) == 5  # all but the one that is tested too, and the one that is not there


def test_what_is_said_is_in_the_notes_and_not_in_the_log(tmp_path, caplog):
    files = VocFiles(tmp_path)
    part = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></part>"
    files.image("a", object_xml("cat", extra=part))
    files.image("b", object_xml("dog"))
    files.split("train", "a")
    files.split("test", "b")
    with caplog.at_level(logging.INFO):
        survey = survey_folder(settings(tmp_path, classes=("cat",)))
    assert not caplog.messages
    assert any("1 box of a part, not an object, is left out" in note for note in survey.notes)
    assert any("not in data.classes are left out: dog 1" in note for note in survey.notes)
    assert all(note in format_survey(survey, settings(tmp_path)) for note in survey.notes)


def test_a_view_is_the_data_set_that_would_be_prepared(folder):
    turned = with_exif_orientation((folder / "JPEGImages/b.jpg").read_bytes(), 6)
    (folder / "JPEGImages/b.jpg").write_bytes(turned)
    xml = annotation_xml(object_xml("cat", (2, 3, 10, 32)), width=HEIGHT, height=WIDTH)
    (folder / "Annotations/b.xml").write_text(xml)
    config = settings(folder, faults={"tolerance": 0.9}, train=("folder/trainval",), test="folder/test")
    view = survey_folder(config).view
    assert isinstance(view, Dataset)
    assert view.read_image(view.image_ids.index("b")).shape == (WIDTH, HEIGHT, 3)
    for split in ("train", "test"):
        prepared = open_dataset(f"folder/{split}", config.data)
        indices = [view.image_ids.index(name) for name in prepared.image_ids]
        part = view.part(indices)
        assert part.fingerprint == prepared.fingerprint
        assert part.shared_directory == prepared.shared_directory
        for i in range(len(prepared)):
            np.testing.assert_array_equal(part.read_image(i), prepared.read_image(i))


def test_an_image_that_cannot_be_decoded_is_named(folder):
    survey = survey_folder(settings(folder, faults={"tolerance": 0.9}))
    (folder / "JPEGImages/b.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(ValueError, match=r"JPEGImages/b\.jpg: cannot be decoded"):
        survey.view.read_image(survey.view.image_ids.index("b"))
    assert (
        cv2.imread(str(folder / "JPEGImages/a.jpg")).shape
        == survey.view.read_image(survey.view.image_ids.index("same")).shape
    )


def test_no_folder_and_no_format(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        survey_folder(Config())
    with pytest.raises(FileNotFoundError, match="its format is not known"):
        survey_folder(settings(tmp_path))


def test_a_note_says_how_the_test_was_chosen(tmp_path):
    files = VocFiles(tmp_path)
    for number in range(12):
        files.image(f"a{number}", object_xml("cat"))
    (note,) = survey_folder(settings(tmp_path)).notes
    assert note.startswith("test: 1 image, each drawn by its name with a chance of 0.1 (data.split)")


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([True], "split 'test' has no images: data.split = 0.2 keeps none of a single image"),
        ([True, True, False], "none of the images chosen for the test (1) has an object; set another share"),
        ([True, True, True], ""),
    ],
)
def test_a_drawn_test_that_would_stop_the_training(tmp_path, objects, reason):
    """The reason is that of the preparation."""
    files = VocFiles(tmp_path / "set")
    for number, filled in enumerate(objects):
        files.image(f"a{number}", *([object_xml("cat")] if filled else []))
    config = settings(tmp_path / "set", train=("folder/trainval",), test="folder/test", split=0.2)
    survey = survey_folder(config)
    assert reason in survey.test_stop
    assert bool(survey.test_stop) == bool(reason)
    said = [text for text in remarks(survey, config) if text.startswith("training would stop: ")]
    assert said == ([f"training would stop: {survey.test_stop}"] if reason else [])
    if reason:
        with pytest.raises(ValueError, match=re.escape(survey.test_stop)):
            open_dataset("folder/test", config.data)
