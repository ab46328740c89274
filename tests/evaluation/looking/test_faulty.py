"""The look at a folder with faults that would stop a training: a report of each, and a page all the same."""

import sys
import zlib

import pytest

from frcnn_jax.commands.inspect_data import main
from tests.data.formats.written import NAMES, PICTURES, Picture, write_text, write_yolo
from tests.data.voc_files import object_xml, standard_folder
from tests.evaluation.pages.reading import Page

SMALL = ("--input.scales", 48, "--input.max-size", 64)


@pytest.fixture
def look(tmp_path, monkeypatch, capsys):
    """Inspects the folder `set` with a page; returns the printed lines and the words of the page."""

    def run(*settings):
        given = ["--data.root", tmp_path / "set", "--data.tfds-dir", tmp_path / "prepared", "--out", tmp_path / "look"]
        monkeypatch.setattr(sys, "argv", ["frcnn inspect-data", *map(str, (*given, *SMALL, *settings))])
        main()
        page = Page((tmp_path / "look/index.html").read_text("utf-8"))
        return capsys.readouterr().out, " ".join(page.words)

    return run


def with_zeros(png):
    """The PNG with zeros for pixels and right checksums."""
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at])
    chunk = b"IDAT" + bytes(length)
    return png[:at] + chunk + zlib.crc32(chunk).to_bytes(4) + png[at + 8 + length :]


@pytest.mark.parametrize("learned", [True, False])
def test_yolo_rows_in_pixels(tmp_path, look, learned):
    """The rows of one image, or of all."""
    write_yolo(tmp_path / "set", [p for p in PICTURES if p.split == "train"])
    for stem in ["a_1"] if learned else ["a_1", "a_2"]:
        write_text(
            tmp_path / f"set/labels/train/{stem}.txt", "1 120 80 50 60\n1 0.5 0.5 0.5 0.5\n" * learned or "1 9 8 5 6"
        )
    printed, page = look("--data.split", 0, "--data.test", "folder/train")
    assert "outside the image" in printed
    assert "box_outside" in page
    assert ("Next, with the settings for the faults" in printed) == learned


def test_boxes(tmp_path, look):
    files = standard_folder(tmp_path / "set")
    empty = [object_xml("cat", box) for box in ((10, 5, 2, 9), (10, 5, 10, 5), (10, 5, 9, 5))]
    outside = [(500, 5, 510, 9), (-90, 5, -80, 9), (-1e300, -1e300, 1e300, 1e300), (1, 1, 1e300, 1e300)]
    files.image("a2", *empty, *(object_xml("cat", box) for box in outside))
    printed, page = look("--data.corners", "one_based")
    assert "degenerate_box: 3" in page
    assert "box_outside: 4" in page
    assert "[box_outside]" in printed


def test_unknown_classes(tmp_path, look):
    standard_folder(tmp_path / "set")
    printed, page = look("--data.classes", "Cat", "ant", "bee")
    assert "[unknown_class]" in printed
    assert "unknown_class: 1" in page


def test_images_that_cannot_be_decoded(tmp_path, look):
    """Damaged behind their headers: the page lacks their pictures, and --verify reports them."""
    pictures = [Picture(f"p{i}", "train", (24, 32), ((NAMES[1], (2, 3, 20, 20)),), ".png") for i in range(6)]
    write_yolo(tmp_path / "set", pictures)
    for i in range(3):
        path = tmp_path / f"set/images/train/p{i}.png"
        path.write_bytes(with_zeros(path.read_bytes()))
    printed, page = look()
    assert "No faults." in printed
    assert "p4: " in page
    assert "p0: " not in page
    assert "unreadable_image: 3" in look("--verify")[1]
    printed, page = look("--proposals", 6, "--proposals.method", "selective_search_fast", "--proposals.max-side", 32)
    assert "proposals an image, 3 images" in printed
    assert "p4: " in page
