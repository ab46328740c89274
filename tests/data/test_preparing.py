"""Preparing in little memory: records are written one by one, in files of a bounded size."""

import dataclasses
import logging
import shlex
import shutil
import tempfile
import tracemalloc

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.prepared import builder
from frcnn_jax.data.prepared.index import SUMMARY_FILE
from tests.data.contracts import check_dataset
from tests.data.voc_files import VocFiles, annotation_xml, object_xml, standard_folder


@pytest.mark.parametrize(("limit", "files"), [(1, 5), (2000, 3), (1 << 30, 1)])
def test_images_are_spread_over_files_in_order(tmp_path, monkeypatch, limit, files):
    monkeypatch.setattr(builder, "_SHARD_BYTES", limit)
    folder = VocFiles(tmp_path / "set")
    names = ["e", "a", "d", "b", "c"]
    for name in names:
        folder.image(name, object_xml("cat"), object_xml("ant"))
    total = sum(path.stat().st_size for path in (folder.root / "JPEGImages").iterdir())
    assert files == min(-(-total // limit), 5)
    folder.split("train", *names)
    data = open_dataset("folder/train", DataConfig(root=str(folder.root), tfds_dir=str(tmp_path / "tfds")))
    assert len(list(data.directory.glob("*.array_record-*"))) == files
    assert data.image_ids == tuple(names)
    check_dataset(data)
    for index, name in enumerate(names):
        image = cv2.imread(str(folder.root / f"JPEGImages/{name}.jpg"))
        np.testing.assert_array_equal(data.read_image(index), image[..., ::-1])


def test_preparing_leaves_no_temporary_files(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    standard_folder(tmp_path)
    open_dataset("folder/train", DataConfig(root=str(tmp_path), tfds_dir=str(tmp_path / "tfds")))
    assert list((tmp_path / "temporary").iterdir()) == []


def noise_images(folder: VocFiles, count: int) -> int:
    """Writes a split of uncompressed PNGs of 270 kB each; bytes of all."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    xml = annotation_xml(object_xml("cat"), width=300, height=300)
    names = [f"i{k}" for k in range(count)]
    for k, name in enumerate(names):
        folder.image(name, suffix=".png", xml=xml)
        path = str(folder.root / f"JPEGImages/{name}.png")
        assert cv2.imwrite(path, np.roll(noise, k), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    folder.split("train", *names)
    return sum(path.stat().st_size for path in (folder.root / "JPEGImages").iterdir())


def test_memory_holds_some_images_and_not_all(tmp_path, monkeypatch):
    """A few images are held in each thread, then their files one after the other."""
    monkeypatch.setattr("frcnn_jax.data.files.cores", lambda: 2)
    peaks, sizes = [], []
    for count in (1, 160):  # what one image costs, as the imports, is left out
        folder = VocFiles(tmp_path / f"set{count}")
        sizes.append(noise_images(folder, count))
        config = DataConfig(root=str(folder.root), tfds_dir=str(tmp_path / "tfds"))
        tracemalloc.start()
        data = open_dataset("folder/train", config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(data) == count
    assert sizes[1] > 40e6
    assert peaks[1] < peaks[0] + sizes[1] / 4


def test_changes_of_images_of_one_id_are_noticed(config, files):
    """The annotation names the second of two; the first fits by name alone."""
    files.image("t1", suffix=".png", xml=annotation_xml(object_xml("ant"), filename="t1.png"))
    before = open_dataset("folder/test", config)
    files.image("t1", suffix=".png", xml=annotation_xml(object_xml("ant"), filename="t1.png"))
    after = open_dataset("folder/test", config)
    assert before.image_fingerprint(0) != after.image_fingerprint(0)


def test_an_image_is_back_once_the_other_of_its_id_is_removed(config, files):
    files.image("a2", suffix=".png", xml=annotation_xml())
    drop = dataclasses.replace(config, faults=FaultPolicy(duplicate_id="drop"))
    assert open_dataset("folder/train", drop).image_ids == ("a1",)
    (files.root / "JPEGImages/a2.png").unlink()
    assert open_dataset("folder/train", drop).image_ids == ("a2", "a1")


def test_what_a_killed_process_left_is_removed(config):
    directory = open_dataset("folder/train", config).directory
    shutil.rmtree(directory)
    unfinished = directory.parent / f"incomplete.0A1B2C_{directory.name}"
    unfinished.mkdir()
    (unfinished / "voc_folder-train.array_record-00000-of-00001").write_bytes(b"1")
    assert open_dataset("folder/train", config).directory == directory
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_copies_from_before_an_edit_are_named_with_the_command_that_removes_them(tmp_path, config, files, caplog):
    caplog.set_level(logging.INFO, "frcnn_jax")

    def after_edit(number, config=config):
        """The prepared folder after an edit, and the lines about earlier ones."""
        files.image("a1", object_xml("cat", (1, 1, 10 + number, 20)))
        caplog.clear()
        folder = open_dataset("folder/train", config).directory.parent
        return folder, [text for text in caplog.messages if "earlier copies" in text]

    other = dataclasses.replace(config, rename=("cat=lion",))
    first, second = (after_edit(number) for number in (1, 2))
    assert first[1] == second[1] == []
    assert [after_edit(number, other)[1] for number in (3, 4)] == [[], []], "of other settings"
    # A folder of the same name elsewhere.
    elsewhere = standard_folder(tmp_path / "other/set")
    for number in (5, 6, 7):
        elsewhere.image("a2", object_xml("cat", (1, 1, 10 + number, 20)))
        open_dataset("folder/train", dataclasses.replace(config, root=str(elsewhere.root)))
    third, (line,) = after_edit(8)
    copies = sorted(str(folder) for folder, _ in (first, second))
    assert line.startswith("2 earlier copies of this folder, from before its files were edited, take ")
    assert shlex.split(line.partition(" GB; if no run still reads them: ")[2]) == ["rm", "-r", *copies]
    # Opened again nothing is said; one that does not state its folder, or is damaged, is not counted.
    caplog.clear()
    open_dataset("folder/train", config)
    assert "earlier copies" not in caplog.text
    (first[0] / "1.0.0" / SUMMARY_FILE).unlink()
    (second[0] / "1.0.0" / SUMMARY_FILE).write_text("{")
    assert after_edit(9)[1] == []
    fourth = after_edit(10)
    assert str(third) in fourth[1][0]
    assert str(first[0]) not in fourth[1][0]
