"""Files to detect in: what paths stand for, and what is refused before the first image."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from frcnn_jax.runs.detect_inputs import ImageInput, check_images, find_inputs, say_orientation


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png", "a.detections.jpg", "b.detections.png", "inner/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    (tmp_path / "photos/notes.txt").write_text("not an image")
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "other.MOV"):
        (tmp_path / "clips" / name).write_bytes(b"")
    return tmp_path


def test_a_folder_stands_for_its_images_by_name(folder):
    photos = folder / "photos"
    clip = folder / "clips/clip.mp4"
    images, videos = find_inputs([clip, photos, photos / "b.png", folder / "clips/other.MOV"])
    assert images == [photos / "a.JPG", photos / "b.png", photos / "c.webp"]
    assert videos == [clip, folder / "clips/other.MOV"]
    # A file that is given counts, whatever its name.
    assert find_inputs([photos / "notes.txt"]) == ([photos / "notes.txt"], [])


def test_what_paths_cannot_stand_for(folder):
    photos, empty = folder / "photos", folder / "empty"
    empty.mkdir()
    (folder / "more").mkdir()
    for name in ("b.png", "b.jpg"):
        (folder / "more" / name).write_bytes(b"")
    (folder / "more/clip.mov").write_bytes(b"")
    for name in ("set/a/one.txt", "set/b/images/one.jpg", "labels/deep/one.xml"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
    cases = {
        (photos, folder / "nothing"): f"no file {folder}/nothing: give images, folders of images, or videos (.mp4,",
        (empty,): f"{empty} has no images: give a folder that has some, or files",
        (folder / "clips",): f"2 videos are to be given one by one, as {folder}/clips/clip.mp4",
        (folder,): f"subfolders are not searched; give them, as {folder}/more",
        (folder / "set",): f"subfolders are not searched; give them, as {folder}/set/b/images",
        (folder / "labels",): f"{folder}/labels has no images: give a folder that has some, or files",
        (folder / "more",): f"several images are named b; their results would overwrite each other: detect in "
        f"{folder}/more/b.jpg and {folder}/more/b.png by two calls",
        (photos, folder / "more/b.jpg"): "several images are named b;",
        (folder / "clips/clip.mp4", folder / "more/clip.mov"): "several videos are named clip;",
    }
    for paths, message in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            find_inputs(list(paths))


def test_the_orientation_of_many_images_is_one_line(capsys):
    turned = [ImageInput(Path(f"{i}.jpg"), (4, 3), mark, mark) for i, mark in enumerate((6, 1, 8))]
    ignored = [ImageInput(Path("x.jpg"), (4, 3), 3, 1)]
    say_orientation([*turned, *ignored], lines=False)
    assert capsys.readouterr().out.splitlines() == [
        "1 image has an EXIF orientation, which is ignored: boxes and pictures are as the pixels lie in the file",
        "2 images have an EXIF orientation, which is followed: boxes and pictures are of the turned image",
    ]
    say_orientation(turned, lines=True)
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == ["0.jpg", "2.jpg"]


def test_all_images_are_checked_at_once(folder, capsys):
    images = [folder / "photos" / name for name in ("b.png", "notes.txt", "a.JPG", "cut.png")]
    images[3].write_bytes(images[0].read_bytes()[:-20])
    with pytest.raises(
        ValueError,
        match=r"notes\.txt: neither .*; .*cut\.png: .* \(2 of 4 files cannot be read\), --skip-broken leaves .*: give",
    ):
        check_images(images, "auto")
    with pytest.raises(ValueError, match=r"\(2 of 2 files cannot be read\): give images"):
        check_images(images[1::2], "auto", skip_broken=True)
    with pytest.raises(ValueError, match=r"^(.*cut\.png: [^;]*; ){3}\.\.\. \(4 of 4 files cannot be read\)$"):
        check_images(images[3:] * 4, "auto")
    assert capsys.readouterr().err == ""
    found = check_images(images[::2], "auto")
    assert check_images(images, "auto", skip_broken=True) == found
    assert [line.split(": ")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["skipped", str(path)] for path in images[1::2]
    ]
    assert [(image.path, image.size, image.mark, image.orientation) for image in found] == [
        (images[0], (20, 30), 1, 1),
        (images[2], (20, 30), 1, 1),
    ]


def test_a_copy_that_cannot_be_read_is_left_out_of_a_folder(tmp_path, capsys):
    """A HEIC beside a JPEG, as of phones."""
    for name in ("IMG_1.HEIC", "IMG_1.JPG", "IMG_2.JPG"):
        (tmp_path / name).touch()
    images, _ = find_inputs([tmp_path])
    assert [path.name for path in images] == ["IMG_1.JPG", "IMG_2.JPG"]
    said = "left out 1 image that cannot be read, as another of its name lies beside it (IMG_1.HEIC)"
    assert said in capsys.readouterr().err
