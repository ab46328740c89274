"""Annotation files as tools write them: labelImg, CVAT, Roboflow, VoTT and scripts."""

import pytest

from frcnn_jax.data.formats.voc.annotation import UnreadableAnnotation, read_annotation
from tests.data.voc_files import annotation_xml, object_xml

LABELIMG = """<?xml version="1.0"?>
<annotation verified="yes"><folder>imgs</folder><filename>IMG_1</filename><path>C:\\imgs\\IMG_1.JPG</path>
<source><database>Unknown</database></source><size><width>40</width><height>30</height><depth>3</depth></size>
<segmented>0</segmented><object><name>cat</name><pose>Unspecified</pose><truncated>Unspecified</truncated>
<difficult>Unspecified</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>
</annotation>"""
VOTT = """<annotation xmlns="http://example.org/voc">
<object><bndbox><ymax>12.000000000000002</ymax><xmax>10.123456789012345</xmax><ymin>3</ymin><xmin>2.5</xmin></bndbox>
<difficult>false</difficult><truncated>true</truncated><name>cat</name></object>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
<difficult>True</difficult></object></annotation>"""


def written(tmp_path, text):
    (tmp_path / "a.xml").write_text(text, "utf-8")
    return read_annotation(tmp_path / "a.xml")


def test_labelimg(tmp_path):
    found = written(tmp_path, LABELIMG)
    (item,) = found.objects
    assert (found.filename, found.width, found.height, found.problems) == ("IMG_1", 40, 30, ())
    assert (item.name, item.corners, item.pose, item.truncated, item.difficult) == (
        *("cat", (2, 3, 10, 12), "unspecified", False, False),
    )


def test_an_empty_line_before_the_declaration(tmp_path):
    assert written(tmp_path, f"\n  {LABELIMG}") == written(tmp_path, LABELIMG)


def test_default_namespace_any_order_long_decimals_and_words_for_marks(tmp_path):
    found = written(tmp_path, VOTT)
    assert [item.corners for item in found.objects] == [
        (2.5, 3, 10.123456789012345, 12.000000000000002),
        (1, 1, 9, 9),
    ]
    assert [(item.truncated, item.difficult) for item in found.objects] == [(True, False), (False, True)]
    assert (found.width, found.height) == (0, 0), "not stated"


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (" 0.0 ", 0)])
def test_a_size_of_nothing_is_not_stated(tmp_path, size):
    found = written(tmp_path, annotation_xml(object_xml(), width=size[0], height=size[1]))
    assert (found.width, found.height, len(found.objects)) == (0, 0, 1)


def test_a_size_that_is_not_a_number_is_a_problem(tmp_path):
    with pytest.raises(UnreadableAnnotation, match="size/width = 'wide': not a number"):
        written(tmp_path, annotation_xml(width="wide"))


def test_parts_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    inside = part.replace("<bndbox>", "<object><name>eye</name></object><bndbox>")
    person = object_xml("person", extra=part + inside).replace("<bndbox>", part + "<bndbox>", 1)
    found = written(tmp_path, annotation_xml(person, object_xml("cat", (1, 1, 4, 4))))
    assert [(item.name, item.corners) for item in found.objects] == [("person", (2, 3, 10, 12)), ("cat", (1, 1, 4, 4))]


def box(text):
    return f"<object><name>cat</name><bndbox>{text}</bndbox></object>"


@pytest.mark.parametrize(
    ("item", "field", "value", "message"),
    [
        (
            box("<xmin>1</xmin><ymin>2</ymin><xmin>9</xmin><xmax>8</xmax>"),
            *("bndbox", "xmin 1, ymin 2, xmin 9, xmax 8"),
            "xmin twice and no ymax: the program that wrote the file is at fault",
        ),
        (
            box("<xmin>1</xmin><ymin>2</ymin><xmin>1</xmin><xmax>8</xmax>"),
            *("bndbox", "xmin 1, ymin 2, xmin 1, xmax 8"),
            "xmin twice and no ymax: the program that wrote the file is at fault",
        ),
        (
            box("<xmin>1</xmin><ymin>2</ymin><xmin>3</xmin><xmax>8</xmax><ymax>9</ymax>"),
            *("bndbox", "xmin 1, ymin 2, xmin 3, xmax 8, ymax 9"),
            "xmin twice with different values: the program that wrote the file is at fault",
        ),
        (box("<xmin>1</xmin><ymin>2</ymin><xmax>8</xmax>"), "bndbox/ymax", "", "missing"),
        (
            object_xml("").replace("<name></name>", ""),
            *("name", ""),
            "missing: the program that wrote the file left the class out",
        ),
        ("<object><name>cat</name></object>", "bndbox", "", "missing"),
        (
            object_xml(box=(1, 2, 8, 9), extra="<bndbox><xmin>3</xmin><ymin>2</ymin></bndbox>"),
            *("bndbox", "xmin 1, ymin 2, xmax 8, ymax 9 and xmin 3, ymin 2"),
            "2 in one object: give each its own object",
        ),
        ("<object><name>cat</name><polygon/></object>", "bndbox", "", "missing; there is a polygon instead"),
        ("<object><name>cat</name><robndbox/></object>", "bndbox", "", "missing; there is a robndbox instead"),
    ],
)
def test_a_broken_writer_is_named(tmp_path, item, field, value, message):
    found = written(tmp_path, annotation_xml(object_xml(), item))
    (problem,) = found.problems
    assert (problem.object, problem.field, problem.value, problem.message) == (1, field, value, message)
    assert [item.index for item in found.objects] == [0]


def test_one_box_twice_is_one_box(tmp_path):
    text = object_xml(extra=object_xml().partition("</difficult>")[2].partition("</object>")[0])
    assert text.count("bndbox") == 4
    assert [item.corners for item in written(tmp_path, annotation_xml(text)).objects] == [(2, 3, 10, 12)]


def rotated(degrees, box=(10.0, 8.0, 20.0, 12.0)):
    """A rectangle with attributes, as CVAT writes them."""
    attributes = "".join(
        f"<attribute><name>{name}</name><value>{value}</value></attribute>"
        for name, value in (("occluded", "False"), ("rotation", degrees))
    )
    return object_xml(box=box, extra=f"<attributes>{attributes}</attributes>")


@pytest.mark.parametrize(
    ("degrees", "corners", "marked"),
    [
        ("90.0", (13, 5, 17, 15), True),
        ("30", (15 - 5.3301, 10 - 4.2321, 15 + 5.3301, 10 + 4.2321), True),
        ("330.0", (15 - 5.3301, 10 - 4.2321, 15 + 5.3301, 10 + 4.2321), True),
        ("0.0", (10, 8, 20, 12), False),
        ("180", (10, 8, 20, 12), False),
        ("left", (10, 8, 20, 12), False),
        ("", (10, 8, 20, 12), False),
    ],
)
def test_a_rotated_box_is_the_box_around_it(tmp_path, degrees, corners, marked):
    (item,) = written(tmp_path, annotation_xml(rotated(degrees))).objects
    assert (item.corners, item.rotated) == (pytest.approx(corners, abs=1e-4), marked)


def test_a_reversed_box_is_not_turned_right(tmp_path):
    (item,) = written(tmp_path, annotation_xml(rotated("90.0", (20, 8, 10, 12)))).objects
    assert item.corners == (20, 8, 10, 12)
