"""Boxes that are fractions of the image or smaller than pixels, by the share of the objects."""

import json
import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.formats.written import Picture, coco_json, write_labelimg, write_rows, write_text

SIDES = (40, 30, 40, 30)
BOX = (4, 3, 20, 18)
PICTURE = Picture("p_1", "", (30, 40), (("cat", BOX),))


def write_coco(root, fractions, pixels):
    content = coco_json([PICTURE])
    (first,) = content["annotations"]
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in [*fractions, *pixels]]
    content["annotations"] = [first | {"id": number, "bbox": box} for number, box in enumerate(boxes)]
    PICTURE.save(root)
    write_text(root / "labels.json", json.dumps(content))


def write_csv(root, fractions, pixels):
    rows = [("cat", (x1 - 1, y1 - 1, x2, y2)) for x1, y1, x2, y2 in [*fractions, *pixels]]
    picture = Picture("p_1", "", (30, 40), tuple(rows))
    write_rows(root, [picture], "filename,class,xmin,ymin,xmax,ymax",
               lambda p, *values: ",".join(map(str, (p.name, *values))))  # fmt: skip


def write_xml(root, fractions, pixels):
    write_labelimg(root, [PICTURE])
    start = (root / "p_1.xml").read_text().partition("<object>")[0]
    objects = []
    for box in [*fractions, *pixels]:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        objects.append(f"<object><name>cat</name><bndbox>{corners}</bndbox></object>")
    write_text(root / "p_1.xml", start + "".join(objects) + "</annotation>")


WRITERS = {"coco": write_coco, "csv": write_csv, "labelimg": write_xml}
SHARES = tuple(value / side for value, side in zip(BOX, SIDES, strict=True))


def prepared(root, caplog):
    """The boxes of the folder's image, and the log."""
    config = DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"))
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/all", config)
    return data.annotations[0].boxes.tolist(), caplog.text


@pytest.mark.parametrize("layout", WRITERS)
def test_one_box_over_the_border_leaves_the_others_fractions(tmp_path, layout, caplog):
    over = (0.5, 0.5, 1.001, 0.9)
    WRITERS[layout](tmp_path / "set", [SHARES] * 10 + [over, (0, 0, 0.5, 0.6)], [])
    found, log = prepared(tmp_path / "set", caplog)
    expected = [BOX] * 10 + [(20, 15, 40, 27), (0, 0, 20, 18)]
    assert found == [pytest.approx(box, abs=1e-4) for box in expected]
    assert "boxes are fractions of the image, as 11 of 12 objects are between 0 and 1" in log
    assert "clipped 1 box" in log
    assert "data.corners" not in log


@pytest.mark.parametrize("layout", WRITERS)
def test_a_tenth_in_pixels_is_outside(tmp_path, layout, caplog):
    WRITERS[layout](tmp_path / "set", [SHARES] * 9, [BOX])
    with pytest.raises(DatasetFaultError, match="9 of 10 objects are between 0 and 1") as caught:
        prepared(tmp_path / "set", caplog)
    assert [fault.kind for fault in caught.value.faults] == ["box_outside"]


@pytest.mark.parametrize("layout", WRITERS)
def test_fewer_fractions_are_boxes_without_a_side_of_two_pixels(tmp_path, layout, caplog):
    WRITERS[layout](tmp_path / "set", [SHARES] * 8, [BOX] * 2)
    with pytest.raises(DatasetFaultError, match="reversed or below 2 pixels") as caught:
        prepared(tmp_path / "set", caplog)
    assert [(fault.kind, fault.object) for fault in caught.value.faults] == [("degenerate_box", i) for i in range(8)]


def test_rows_divided_by_the_size_twice(tmp_path, caplog):
    PICTURE.save(tmp_path / "set")
    write_text(tmp_path / "set/classes.txt", "ant\ncat\n")
    write_text(tmp_path / "set/p_1.txt", "1 0.02 0.02 0.01 0.015\n1 0.5 0.5 0.5 0.5\n1 0.01 0.02 0.01 0.02\n")
    with pytest.raises(DatasetFaultError, match=r"has 2 faults \(degenerate_box 2\)"):
        prepared(tmp_path / "set", caplog)


def test_half_of_the_boxes_may_be_small(tmp_path, caplog):
    write_coco(tmp_path / "set", [], [(1, 2, 1.5, 2.5), BOX])
    assert prepared(tmp_path / "set", caplog)[0] == [[1, 2, 1.5, 2.5], list(map(float, BOX))]
