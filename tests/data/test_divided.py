"""Images whose objects are divided among splits: a sentence names them, and another format that has them all."""

import json

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.images import image_size
from frcnn_jax.data.prepared.prepare import examine_folder, find_splits
from tests.data.formats.written import Picture, coco_json, write_text

BOXES = [("cat", (1, 2, 30, 20)), ("ant", (5, 6, 20, 18)), ("cat", (3, 3, 25, 25))]
HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"
PAIR = Picture("a", "train", (30, 40), tuple(BOXES))
OTHERS = [Picture(name, "train", (30, 40), (BOXES[0],)) for name in "bc"]


def rows(picture, objects):
    boxes = ((name, x1 + 1, y1 + 1, x2, y2) for name, (x1, y1, x2, y2) in objects)
    return [",".join(map(str, (picture.name, 40, 30, *box))) for box in boxes]


def notes(root, split="train", **settings):
    config = DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"), **settings)
    return examine_folder(find_splits(split, config), image_size).notes


def write(root, train, test, of_test="test"):
    """Two CSV files: two objects of an image in `train`, `test` more of them in the other, and an image of each."""
    for picture in (PAIR, *OTHERS):
        picture.save(root / "images")
    for name, objects, other in (("train", train, OTHERS[0]), (of_test, test, OTHERS[1])):
        lines = [HEADER, *rows(PAIR, objects), *rows(other, other.objects)]
        write_text(root / f"{name}.csv", "\n".join(lines) + "\n")
    return root


def said(one, other, first, second, used):
    return (
        f"1 image has other objects in {one} than in {other} (the first: a, {first} and {second}): only those in "
        f"{used} are used. Give all objects of an image in one split, dividing a table by image and not by row"
    )


def test_rows_of_an_image_in_two_tables(tmp_path):
    root = write(tmp_path / "set", BOXES[:2], BOXES[2:])
    assert notes(root) == (said("train", "test", 2, 1, "test"),)
    write_text(root / "part.csv", "\n".join([HEADER, *rows(PAIR, BOXES[:2])]) + "\n")  # of no split, and not complete
    assert notes(root) == (said("train", "test", 2, 1, "test"),)


def test_a_format_that_has_all_objects_is_named(tmp_path):
    root = write(tmp_path / "set", BOXES[:2], BOXES[2:])
    for picture in (PAIR, *OTHERS):
        write_text(root / f"xml/{picture.stem}.xml", picture.xml())
    way = ", or read them from other files by --data.format labelimg"
    assert notes(root, format="csv")[0] == said("train", "test", 2, 1, "test") + way
    for name in ("XML without one of them", "renamed"):
        settings = {"rename": ("cat=Cat",)} if name == "renamed" else {}
        kept = BOXES if settings else BOXES[:2]
        write_text(root / "xml/a.xml", Picture("a", "train", (30, 40), tuple(kept)).xml())
        expected = said("train", "test", 2, 1, "test") + (way if settings else "")
        assert notes(root, format="csv", **settings)[0] == expected


def test_images_to_train_and_to_validate_with(tmp_path):
    """With test images of its own the validation is trained on too: one of the two lists of objects is lost."""
    root = write(tmp_path / "set", BOXES[:2], BOXES[2:], "val")
    test = Picture("t", "test", (30, 40), (BOXES[0],))
    test.save(root / "images")
    write_text(root / "test.csv", "\n".join([HEADER, *rows(test, test.objects)]) + "\n")
    assert notes(root) == (said("train", "validation", 2, 1, "validation"),)


@pytest.mark.parametrize("copied", [False, True])
def test_coco_files_and_copies(tmp_path, copied):
    root, name = tmp_path / "set", PAIR.name
    for picture in (PAIR, *OTHERS):
        picture.save(root / "images")
    other = Picture("x" if copied else "a", "test", (30, 40), tuple(BOXES[1:]))
    if copied:
        (root / "images/x.jpg").write_bytes((root / "images" / name).read_bytes())
    write_text(root / "train.json", json.dumps(coco_json([PAIR, OTHERS[0]])))
    write_text(root / "test.json", json.dumps(coco_json([OTHERS[1], other])))
    assert notes(root)[0] == said("train", "test", 3, 2, "test")


@pytest.mark.parametrize("shift", [0, 1])
def test_the_same_objects_in_two_splits_are_no_division(tmp_path, shift):
    moved = [(name, (x1, y1, x2 - shift, y2)) for name, (x1, y1, x2, y2) in reversed(BOXES)]
    assert notes(write(tmp_path / "set", BOXES, moved)) == ()
