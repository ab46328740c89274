"""Folders of runs and evaluations inside a folder of data, and folders that may not be read: neither are data."""

import os
import shutil

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import PICTURES, write_coco, write_voc, write_yolo


def content(root):
    """Images and objects of each split."""
    _, reader = open_reader(root, DataConfig())
    records = {name: reader.read(name).records for name in reader.splits}
    return {name: [(r.image_id, r.path, len(r.objects)) for r in records[name]] for name in records}


@pytest.mark.parametrize(
    "marks", [("config.json", "checkpoints/"), ("settings.json", "record.json"), ("metrics.json", "thumbnails/")]
)
@pytest.mark.parametrize("write", [write_yolo, write_coco, write_voc])
def test_pictures_of_runs_are_no_images(tmp_path, write, marks, caplog):
    """Though they have the names of the images, in folders that are named like a split."""
    root = write(tmp_path / "set", PICTURES) or tmp_path / "set"
    before, ours = content(root), root / "runs/mine"
    for mark in marks:
        (ours / mark).mkdir(parents=True) if mark.endswith("/") else ours.mkdir(parents=True, exist_ok=True)
        if not mark.endswith("/"):
            (ours / mark).write_text("{}")
    pictures = [path for path in root.rglob("*") if path.suffix in (".jpg", ".png")]
    for folder in ("eval/images", "eval/thumbnails", "thumbnails"):
        (ours / folder).mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            shutil.copy(picture, ours / folder / f"{picture.stem}.jpg")
    assert content(root) == before
    assert f"{root}/runs/mine is left out, as it holds results, " in caplog.text


@pytest.mark.parametrize("write", [write_yolo, write_coco, write_voc])
def test_pictures_of_commands_are_no_images(tmp_path, write):
    root = write(tmp_path / "set", PICTURES) or tmp_path / "set"
    before = content(root)
    for picture in [path for path in root.rglob("*") if path.suffix in (".jpg", ".png")]:
        for suffix in ("detections.JPG", "detections.png", "proposals.jpg", "augmented.jpg"):
            shutil.copy(picture, picture.with_suffix(f".{suffix}"))
    assert content(root) == before


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch, caplog):
    root = write_yolo(tmp_path / "set", PICTURES) or tmp_path / "set"
    before, listed, status = content(root), os.scandir, os.stat
    (root / "lost+found").mkdir()
    (root / "closed").mkdir()

    def scandir(folder):
        if str(folder).endswith(closed):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    def stat(path, **settings):  # of a folder inside one that may be listed, but not entered
        if str(path).endswith("/closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return status(path, **settings)

    closed = "lost+found"
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", stat)
    assert content(root) == before
    for name in ("lost+found", "closed"):
        assert f"{root}/{name} is left out, as it may not be read" in caplog.text
    closed = "set"
    with pytest.raises(PermissionError, match="set"):
        content(root)
