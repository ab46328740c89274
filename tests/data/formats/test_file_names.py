"""Splits in the names of folders and files, and image folders that are named after none."""

import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.file_names import named_split
from tests.data.formats.written import Picture, write_labelimg, write_voc

NAMES = [f"{letter}{number}" for letter in "abcdef" for number in range(10)]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "trainset", "TrainSet", "Training_data", "train_eval", "my-train-dev"]),
        ("validation", ["val", "valset", "valid", "dev", "DEV", "eval", "evaluation", "EvalSet", "data_dev2017"]),
        ("test", ["test", "testset", "holdout", "hold-out", "held_out", "test-dev2017", "VisDrone-DET-test-dev"]),
        ("trainval", ["trainval", "train_val"]),
        (None, ["device", "development", "seen", "trainer", "attest", "train_test", "medieval", "out", "a_1"]),
    ],
)
def test_splits_in_names(split, names):
    assert {name: named_split(name) for name in names} == dict.fromkeys(names, split)


def data(root, folders, write=write_labelimg, images="{}"):
    """Images in the folders, ten in each, and what the log says of them: ids to train on and to test, and lines."""
    pictures = [
        Picture(NAMES[10 * place + number], folder, (20, 24), (("cat", (1, 2, 9, 10)),))
        for place, folder in enumerate(folders)
        for number in range(10)
    ]
    write(root / "set", pictures, images, images.replace("JPEGImages", "Annotations"))
    config = DataConfig(
        root=str(root / "set"), tfds_dir=str(root / "tfds"), train=("folder/trainval",), test="folder/test"
    )
    return [{name[0] for name in open_dataset(f"folder/{split}", config).image_ids} for split in ("trainval", "test")]


@pytest.mark.parametrize(
    ("folders", "train", "test"),
    [
        (["trainset", "testset"], "a", "b"),
        (["trainset", "valset", "testset"], "ab", "c"),
        (["train", "eval"], "a", "b"),
        (["train", "val", "eval"], "a", "bc"),
        (["train", "dev", "test"], "ab", "c"),
        (["train", "holdout"], "a", "b"),
    ],
)
def test_no_image_of_another_split_is_trained_on(tmp_path, folders, train, test):
    assert data(tmp_path, folders) == [set(train), set(test)]


@pytest.mark.parametrize(
    ("folders", "images", "said"),
    [
        (["seen", "unseen"], "{}", "; named after no split: seen, unseen"),
        (["seen", "unseen"], "JPEGImages/{}", "; named after no split: seen, unseen"),
        (["train", "other"], "{}", "; named after no split: other"),
        (["images"], "{}", ""),
        (["train"], "{}", ""),
        (list("zyxwvu"), "{}", "; named after no split: u, v, w, x, y and 1 more"),
    ],
)
def test_folders_that_a_test_is_drawn_from_are_named(tmp_path, folders, images, said, caplog):
    with caplog.at_level(logging.INFO):
        data(tmp_path, folders, images=images)
    drawn = "each drawn by its name with a chance of 0.1 (data.split), as there are no test images"
    (line,) = [message for message in caplog.messages if "test: " in message]
    assert line.partition(drawn)[2] == said


def test_lists_leave_no_folder_to_name(tmp_path, caplog):
    pictures = [Picture(name, "train", (20, 24), (("cat", (1, 2, 9, 10)),)) for name in NAMES]
    root = write_voc(tmp_path / "set", pictures)
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), train=("folder/trainval",), test="folder/test")
    with caplog.at_level(logging.INFO):
        open_dataset("folder/test", config)
    assert "named after no split" not in caplog.text
