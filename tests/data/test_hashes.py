"""Stored hashes: trusted files, files that are read again, and opening a prepared folder with them."""

import dataclasses
import errno
import hashlib
import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import FORMATS, open_reader
from frcnn_jax.data.formats.yolo import reader as yolo
from frcnn_jax.data.prepared import hashes as hashes_module
from frcnn_jax.data.prepared.content import _content
from frcnn_jax.data.prepared.hashes import FileHashes
from tests.data.formats.test_table import csv_folder
from tests.data.formats.written import NAMES, PICTURES, write_yolo
from tests.data.voc_files import VocFiles, object_xml


@pytest.fixture
def settled(monkeypatch):
    """Files need not have been at rest for two seconds."""
    monkeypatch.setattr(hashes_module, "_SETTLED", 0)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read to hash them."""
    names = []

    def file_hash(path):
        names.append(Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    monkeypatch.setattr(hashes_module, "file_hash", file_hash)
    return names


@pytest.fixture
def csv_format():
    module = importlib.import_module("tests.data.csv_format")
    yield module
    FORMATS.pop("my_csv")
    sys.modules.pop(module.__name__)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "images/ä.jpg"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


def look_up(tmp_path, *paths, **options):
    """Hashes of the files by a new `FileHashes`, which is saved."""
    hashes = FileHashes(tmp_path / "cache/h.npz", **options)
    found = [hashes(path) for path in paths]
    hashes.save()
    return found


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_an_unchanged_file_is_read_once(tmp_path, file, settled, reads):
    for _ in range(3):
        assert look_up(tmp_path, file) == [sha256(b"first")]
    assert reads == [file.name]
    assert look_up(tmp_path, file, verify=True) == [sha256(b"first")]
    assert reads == [file.name] * 2


def test_another_size_or_time_is_read_again_alone(tmp_path, file, settled, reads):
    other = file.with_name("b.jpg")
    other.write_bytes(b"other")
    look_up(tmp_path, file, other)
    del reads[:]
    file.write_bytes(b"longer than before")
    assert look_up(tmp_path, file, other) == [sha256(b"longer than before"), sha256(b"other")]
    os.utime(file, ns=(0, 0))
    look_up(tmp_path, file, other)
    assert reads == [file.name] * 2
    look_up(tmp_path, file, other)
    assert reads == [file.name] * 2


@pytest.mark.skipif(os.name != "posix", reason="the time of creation is no help")
def test_a_file_of_the_same_size_with_its_time_set_back_is_read_again(tmp_path, file, settled):
    look_up(tmp_path, file)
    status = file.stat()
    file.write_bytes(b"FIRST")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look_up(tmp_path, file) == [sha256(b"FIRST")]


def test_what_was_changed_a_moment_ago_is_not_remembered(tmp_path, file, reads):
    look_up(tmp_path, file)
    look_up(tmp_path, file)
    assert reads == [file.name] * 2
    assert not (tmp_path / "cache").exists()


def test_what_changes_while_it_is_read_is_not_remembered(tmp_path, file, settled, monkeypatch):
    def slow(path):
        digest = sha256(path.read_bytes())
        path.write_bytes(b"changed")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(hashes_module, "file_hash", slow)
        look_up(tmp_path, file)
    assert look_up(tmp_path, file) == [sha256(b"changed")]


def test_missing_files_and_folders_are_named_by_their_error_and_not_remembered(tmp_path, file, settled):
    missing = file.with_name("missing.jpg")
    assert look_up(tmp_path, missing, file.parent) == ["FileNotFoundError", "IsADirectoryError"]
    missing.write_bytes(b"here")
    assert look_up(tmp_path, missing) == [sha256(b"here")]


def test_files_that_are_gone_are_forgotten(tmp_path, file, settled):
    look_up(tmp_path, file)
    other = file.rename(file.with_name("b.jpg"))
    look_up(tmp_path, other)
    with np.load(tmp_path / "cache/h.npz") as arrays:
        assert arrays["marks"].shape == (1, 3)
        assert b"b.jpg" in arrays["paths"].tobytes()


@pytest.mark.parametrize("damage", ["short", "flipped", "version", "rows"])
def test_a_damaged_memory_is_no_memory(tmp_path, file, settled, reads, damage):
    look_up(tmp_path, file)
    path = tmp_path / "cache/h.npz"
    content = bytearray(path.read_bytes())
    if damage == "short":
        path.write_bytes(content[:100])
    elif damage == "flipped":
        content[content.index(bytes.fromhex(sha256(b"first")))] ^= 1
        path.write_bytes(content)
    else:
        with np.load(path) as arrays:
            changed = dict(arrays)
        changed |= {"version": np.array(99)} if damage == "version" else {"digests": np.zeros((2, 32), np.uint8)}
        np.savez(path, **changed)
    assert look_up(tmp_path, file) == [sha256(b"first")]
    assert len(reads) == 2
    look_up(tmp_path, file)
    assert len(reads) == 2, "and it is written anew"


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_folder_that_is_read_only_is_no_error(tmp_path, file, settled, monkeypatch, number):
    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(hashes_module, "replacing", refuse)
    if number == errno.EROFS:
        assert look_up(tmp_path, file) == [sha256(b"first")]
    else:
        with pytest.raises(OSError, match="No space left"):
            look_up(tmp_path, file)


def test_opening_a_voc_folder_again_reads_no_file(config, files, settled, reads):
    first = open_dataset("folder/train", config)
    assert len(reads) == 8, "images and annotations"
    del reads[:]
    assert open_dataset("folder/test", config).directory == first.directory
    assert reads == []
    files.image("b1", object_xml("cat"))
    assert open_dataset("folder/train", config).directory != first.directory
    assert reads == ["b1.xml", "b1.jpg"]
    del reads[:]
    open_dataset("folder/train", dataclasses.replace(config, verify=True))
    assert len(reads) == 8


def test_opening_a_folder_in_another_format_again_reads_no_image(tmp_path, csv_format, settled, reads):
    config = csv_folder(tmp_path / "mine")
    first = open_dataset("folder/train", config)
    assert sorted(reads) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    del reads[:]
    assert open_dataset("folder/train", config).directory == first.directory
    path = tmp_path / "mine/labels.csv"
    path.write_text(path.read_text().replace("bee", "ant"))
    assert open_dataset("folder/train", config).directory != first.directory, "annotations are always read"
    assert reads == []


def test_opening_a_yolo_folder_again_reads_no_file(tmp_path, settled, reads, monkeypatch):
    root = tmp_path / "mine"
    write_yolo(root, PICTURES)
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    first = open_dataset("folder/train", config)
    assert len(reads) == 2 * len(PICTURES), "images and labels"
    del reads[:]
    monkeypatch.setattr(yolo, "image_size", None)
    assert open_dataset("folder/train", config).directory == first.directory
    assert reads == []
    monkeypatch.undo()
    label = next((root / "labels/train").iterdir())
    rows = label.read_text()
    for text in (rows + "0 0.5 0.5 0.25 0.25\n", ""):
        label.write_text(text)
        assert open_dataset("folder/train", config).directory != first.directory
    label.write_text(rows)
    assert open_dataset("folder/train", config).directory == first.directory
    names = root / "data.yaml"
    names.write_text(names.read_text().replace(NAMES[0], "another"))
    assert open_dataset("folder/train", config).directory != first.directory


def test_renames_are_checked_without_hashing_all_again(tmp_path, settled, reads):
    """Also where the test is a share of all images."""
    files = VocFiles(tmp_path / "mine")
    for k in range(6):
        files.image(f"im{k}", object_xml("cat"))
    settings = {"test": "folder/test", "split": 0.4, "rename": ("cat=lion",), "verify": True}
    config = DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"), **settings)
    open_dataset("folder/train", config)
    del reads[:]
    open_dataset("folder/train", config)
    assert len(reads) == 12


def test_the_content_of_a_folder_is_told_as_before(tmp_path, csv_format, settled):
    """Prepared folders are named by it."""
    config = csv_folder(tmp_path / "a-b")
    root = Path(config.root)
    (root / "a").mkdir()
    (root / "a.jpg").rename(root / "a/a.jpg")
    text = (root / "labels.csv").read_text().replace("a.jpg", "a/a.jpg").replace("d.jpg", "../a-b/d.jpg")
    (root / "labels.csv").write_text(text)
    _, reader = open_reader(root, config)
    texts, images = _content(reader, ["train", "validation"], root, FileHashes(tmp_path / "cache/h.npz"))
    names = ["../a-b/d.jpg", "a/a.jpg", "b.jpg"]
    shown = ["d.jpg", "a/a.jpg", "b.jpg"]
    assert images == [(b, sha256((root / a).read_bytes())) for a, b in zip(names, shown, strict=True)]
    for split, text in texts.items():
        records = reader.read(split).records
        moved = [dataclasses.replace(r, path=Path(os.path.relpath(r.path, root))) for r in records]
        assert text == repr([dataclasses.replace(reader.read(split), records=tuple(moved))])


def test_a_reader_may_hash_as_it_likes(tmp_path, csv_format, settled, reads, monkeypatch):
    config = csv_folder(tmp_path / "mine")
    monkeypatch.setattr(
        csv_format.CsvReader, "content", lambda self, splits, hash_file: ["mine", *splits], raising=False
    )
    open_dataset("folder/train", config)
    assert reads == []
    monkeypatch.setattr(
        csv_format.CsvReader, "content", lambda self, splits, hash_file: [hash_file(self.root / "labels.csv")]
    )
    open_dataset("folder/train", config)
    assert reads == ["labels.csv"]


def test_verifying_finds_prepared_images_that_are_damaged(config):
    data = open_dataset("folder/train", config)
    verifying = dataclasses.replace(config, verify=True)
    open_dataset("folder/train", verifying)
    (path,) = data.directory.glob("*-train.array_record-*")
    content = bytearray(path.read_bytes())
    content[1800] ^= 1
    path.write_bytes(content)
    open_dataset("folder/train", config)
    message = (
        rf"{re.escape(str(data.directory))}: 1 prepared images are damaged \(the first: a[12]\); remove this folder"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset("folder/train", verifying)


def test_verifying_compares_with_what_was_prepared(config):
    data = open_dataset("folder/train", config)
    path = data.directory / "frcnn_index_train.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["digests"][1] ^= 1
    np.savez(path, **changed)
    with pytest.raises(ValueError, match=r"1 prepared images are damaged \(the first: a1\)"):
        open_dataset("folder/train", dataclasses.replace(config, verify=True))
