"""Test images that a run was trained on are counted by their content."""

import dataclasses

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.training.data_record import count_trained, record_data, write_record
from tests.data.voc_files import VocFiles, object_xml, standard_folder


@pytest.fixture
def config(tmp_path):
    standard_folder(tmp_path / "set")
    return DataConfig(root=str(tmp_path / "set"), tfds_dir=str(tmp_path / "tfds"))


def test_images_of_the_training_set_are_counted(tmp_path, config):
    assert count_trained(tmp_path, open_dataset("folder/train", config)) == 0, "without a record"
    write_record(tmp_path, record_data(open_dataset("folder/train", config), ()))
    counts = {split: count_trained(tmp_path, open_dataset(f"folder/{split}", config)) for split in ("train", "test")}
    assert counts == {"train": 2, "test": 0}
    assert count_trained(tmp_path, open_dataset("folder/trainval", config)) == 2, "of three"


def test_an_image_counts_under_another_name_in_another_folder(tmp_path, config):
    write_record(tmp_path, record_data(open_dataset("folder/train", config), ()))
    other = VocFiles(tmp_path / "other")
    for name in ("x", "y"):
        other.image(name, object_xml("cat"))
    other.split("test", "x", "y")
    for name, known in (("x", "a1"), ("y", "t1")):
        (other.root / f"JPEGImages/{name}.jpg").write_bytes((tmp_path / f"set/JPEGImages/{known}.jpg").read_bytes())
    elsewhere = dataclasses.replace(config, root=str(other.root))
    assert count_trained(tmp_path, open_dataset("folder/test", elsewhere)) == 1
