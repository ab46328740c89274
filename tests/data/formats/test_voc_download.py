"""PASCAL VOC 2007 and 2012 through TFDS's download manager, from small archives in the official layout."""

import hashlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.prepared.builder import CheckedVoc
from frcnn_jax.data.prepared.voc_archive import ARCHIVES, extract_archive
from tests.data.voc_files import archive, with_exif_orientation


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_year_is_downloaded_and_prepared(tmp_path, server, year):
    archive(tmp_path, year, "trainval")
    archive(tmp_path, year, "test")
    config = DataConfig(tfds_dir=str(tmp_path / "tfds"))
    data = {name: open_dataset(f"voc/{year}/{name}", config) for name in ("train", "val", "trainval", "test")}
    assert sorted(server) == sorted(f"/{archive.file}" for archive in ARCHIVES[year].values())

    assert {name: split.image_ids for name, split in data.items()} == {
        "train": ("000012",),
        "val": ("000005", "000007"),
        "trainval": ("000005", "000007", "000012"),
        "test": ("000001",),
    }
    assert data["val"].name == f"voc/{year}/validation"
    assert len(data["train"].classes) == 20
    assert data["train"].classes[14] == "person"
    trainval = data["trainval"].annotations
    np.testing.assert_array_equal(trainval[2].boxes, [[0, 0, 20, 30], [10, 11, 40, 30]])
    np.testing.assert_array_equal(trainval[0].boxes, [[2.5, 3, 10.25, 12]])
    assert [truth.labels.tolist() for truth in trainval] == [[9], [20], [7, 15]]
    assert [truth.difficult.tolist() for truth in trainval] == [[False], [True], [False, False]]
    path = tmp_path / year / f"trainval/VOCdevkit/VOC{year}/JPEGImages/000012.jpg"
    assert data["trainval"].image_fingerprint(2) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data["test"].annotations[0].labels.tolist() == ([12] if year == "2007" else [])


def test_faults_of_both_archives_are_reported_together_and_the_download_is_kept(tmp_path, server):
    archive(tmp_path, "2007", "trainval", box=(-3, 1, 20, 30))
    archive(tmp_path, "2007", "test")
    root = tmp_path / "2007/test/VOCdevkit/VOC2007"
    (root / "Annotations/000001.xml").unlink()
    with tarfile.open(tmp_path / "www" / ARCHIVES["2007"]["test"].file, "w") as tar:
        tar.add(root.parent, "VOCdevkit")
    config = DataConfig(tfds_dir=str(tmp_path / "tfds"))
    with pytest.raises(DatasetFaultError, match="box_outside 1, missing_annotation 1"):
        open_dataset("voc/2007/train", config)
    lenient = DataConfig(tfds_dir=config.tfds_dir, faults=FaultPolicy(box_outside="clip", missing_annotation="drop"))
    data = open_dataset("voc/2007/train", lenient)
    assert (len(data), data.clipped, data.dropped) == (1, 1, {})
    assert len(server) == 2
    with pytest.raises(DatasetFaultError):
        open_dataset("voc/2007/train", config)


def test_official_images_are_taken_as_they_lie(tmp_path, server):
    """And a corner is counted from 1, whatever is usual elsewhere."""
    archive(tmp_path, "2007", "trainval")
    archive(tmp_path, "2007", "test")
    root = tmp_path / "2007/trainval/VOCdevkit/VOC2007"
    path = root / "JPEGImages/000012.jpg"
    path.write_bytes(with_exif_orientation(path.read_bytes(), 6))
    with tarfile.open(tmp_path / "www" / ARCHIVES["2007"]["trainval"].file, "w") as tar:
        tar.add(root.parent, "VOCdevkit")
    folder = {"validation": "folder/val", "corners": "zero_based"}  # which is a setting of the folder
    config = DataConfig(tfds_dir=str(tmp_path / "tfds"), orientation="apply", **folder)
    data = open_dataset("voc/2007/train", config)
    assert (data.sizes.tolist(), data.read_image(0).shape) == ([[30, 40]], (30, 40, 3))
    assert data.image_fingerprint(0) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.annotations[0].boxes.tolist() == [[0, 0, 20, 30], [10, 11, 40, 30]]


def test_faultless_year_serves_under_any_policy(tmp_path, server):
    archive(tmp_path, "2007", "trainval")
    archive(tmp_path, "2007", "test")
    strict = open_dataset("voc/2007/train", DataConfig(tfds_dir=str(tmp_path / "tfds")))
    lenient = DataConfig(tfds_dir=str(tmp_path / "tfds"), faults=FaultPolicy(box_outside="clip"))
    assert open_dataset("voc/2007/train", lenient).directory == strict.directory


def test_archive_with_another_hash_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.setattr(CheckedVoc, "verify_archives", True)
    archive(tmp_path, "2007", "trainval")
    archive(tmp_path, "2007", "test")
    with pytest.raises(tfds.download.download_manager.NonMatchingChecksumError):
        open_dataset("voc/2007/train", DataConfig(tfds_dir=str(tmp_path / "tfds")))


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_archives_and_features_are_those_of_tfds(tmp_path, year):
    theirs = tfds.object_detection.Voc(config=year, data_dir=str(tmp_path))
    ours = CheckedVoc(config=year, data_dir=str(tmp_path))
    assert theirs.builder_config.filenames == {part: a.file for part, a in ARCHIVES[year].items()}
    known = checksums.get_all_url_infos()
    assert ours.url_infos == {url: known[url] for url in ours.url_infos}
    assert len(ours.url_infos) == 2
    assert repr(ours.info.features) == repr(theirs.info.features)
    for path in (("objects", "label"), ("objects", "pose"), ("labels",), ("labels_no_difficult",)):
        a, b = ours.info.features, theirs.info.features
        for name in path:
            a, b = a[name], b[name]
        a, b = (getattr(feature, "feature", feature) for feature in (a, b))
        assert a.names == b.names
    assert ours.info.features["objects"]["bbox"].bbox_format == theirs.info.features["objects"]["bbox"].bbox_format


def test_unpacking_that_was_interrupted_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "www").mkdir()
    archive(tmp_path, "2007", "test")
    path = tmp_path / "www" / ARCHIVES["2007"]["test"].file
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", lambda *_: pytest.fail("disk full"))
        with pytest.raises(pytest.fail.Exception):
            extract_archive(path)
    assert {p.name for p in path.parent.iterdir()} == {path.name, ".unpacking.lock"}
    code = (
        "import os, shutil, sys; from pathlib import Path; "
        "from frcnn_jax.data.prepared.voc_archive import extract_archive; "
        "shutil.copyfileobj = lambda *_: os.kill(os.getpid(), 9); extract_archive(Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL).returncode == -9
    assert len(list(path.parent.iterdir())) == 3
    folder = extract_archive(path)
    assert {p.name for p in path.parent.iterdir()} == {path.name, ".unpacking.lock", folder.name}
    assert (folder / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").is_file()
    assert extract_archive(path) == folder
