"""Faults of most objects: the report says what the boxes look like, and offers no settings."""

import dataclasses
import json

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.formats.written import Picture, coco_json, write_rows, write_text
from tests.data.voc_files import annotation_xml, object_xml

BOXES = [(4, 3, 20, 18), (2, 9, 30, 28), (1, 2, 39, 20), (5, 5, 36, 29)]
WIDTH, HEIGHT = 40, 30
GOOD, OUTSIDE = object_xml(), object_xml(box=(100, 80, 160, 120))


def write_rows_of_yolo(root, numbers, boxes=BOXES):
    """Rows of the numbers that a function makes of corners in pixels."""
    Picture("p_1", "", (HEIGHT, WIDTH)).save(root)
    write_text(root / "classes.txt", "cat\n")
    write_text(root / "p_1.txt", "".join(f"0 {' '.join(map(str, numbers(*box)))}\n" for box in boxes))


def centre(x1, y1, x2, y2):
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def shares(a, b, c, d):
    return a / WIDTH, b / HEIGHT, c / WIDTH, d / HEIGHT


def refused(root, split="all"):
    with pytest.raises(DatasetFaultError) as caught:
        open_dataset(f"folder/{split}", DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds")))
    return str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (shares, "4 of 4 objects have the fault box_outside, too many to clip or drop: the numbers look like x1 y1 x2 "
                 "y2, the corners, in place of the centre, width and height of a box, in fractions of the image"),
        (centre, "the numbers look like pixels; divide them by the width and height of the image"),
        (lambda x1, *_: (0.9, 0.9, 0.6 + x1 / 100, 0.6), "they look like boxes of images of another size"),
        (lambda *box: shares(*shares(*centre(*box))), "4 of 4 objects have the fault degenerate_box, too many to clip "
                                                      "or drop: they are below 2 pixels and look like fractions"),
        (lambda x1, *_: (0.5, 0.5, -0.2 - x1 / 100, 0.2), "their numbers are not the centre, width and height"),
    ],
    ids=["corners", "pixels", "another size", "divided twice", "negative"],
)  # fmt: skip
def test_rows_of_yolo(tmp_path, numbers, text):
    write_rows_of_yolo(tmp_path / "set", numbers)
    message = refused(tmp_path / "set")
    assert text in message.splitlines()[-1]
    assert "--data" not in message


def test_corners_in_coco(tmp_path):
    picture = Picture("p_1", "", (HEIGHT, WIDTH), tuple(("cat", box) for box in BOXES))
    picture.save(tmp_path / "set")
    content = coco_json([picture])
    for item, box in zip(content["annotations"], BOXES, strict=True):
        item["bbox"] = [10 + box[0], 8 + box[1], 39, 29]
    write_text(tmp_path / "set/labels.json", json.dumps(content))
    text = "the numbers look like x1 y1 x2 y2, the corners, in place of x, y, width and height of a box; write them so"
    message = refused(tmp_path / "set")
    assert message.endswith(text)
    assert "--data" not in message


def test_widths_in_csv(tmp_path):
    picture = Picture("p_1", "", (HEIGHT, WIDTH), tuple(("cat", (19, 14, 4 + i, 5)) for i in range(3)))
    write_rows(tmp_path / "set", [picture], "filename,class,xmin,ymin,xmax,ymax",
               lambda p, *values: ",".join(map(str, (p.name, *values))))  # fmt: skip
    message = refused(tmp_path / "set")
    assert "the numbers look like x, y, width and height, or like corners in another order" in message
    assert "--data" not in message


def test_boxes_of_larger_images(files):
    files.image("t1", *[OUTSIDE] * 4)
    message = refused(files.root, "test")
    assert message.endswith(
        "4 of 7 objects have the fault box_outside, too many to clip or drop: they look like boxes of images of "
        "another size; put the images that they were drawn on into the folder"
    )
    assert "--data" not in message
    files.image("t1", *[OUTSIDE] * 4, GOOD)
    assert "--data.faults.box-outside clip" in refused(files.root, "test"), "half of them"
    # A size that says so has its own answers.
    files.image("t1", xml=annotation_xml(*[OUTSIDE] * 4, width=400, height=300))
    assert "--data.faults.size-mismatch drop" in refused(files.root, "test")


def test_the_setting_of_the_user_holds(files, config):
    files.image("t1", *[OUTSIDE] * 4, GOOD)
    config = dataclasses.replace(config, faults=dataclasses.replace(config.faults, box_outside="drop"))
    assert open_dataset("folder/test", config).dropped == {"box_outside": 4}
