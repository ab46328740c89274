"""Data that are read differently than written are counted and logged, once in full, and in short when opened again."""

import dataclasses
import json
import logging

import cv2
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.faults import Note
from frcnn_jax.data.formats.layout import warn_once
from frcnn_jax.data.prepared import prepare
from frcnn_jax.data.prepared.index import SUMMARY_FILE
from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.sums import SUMS_FILE
from tests.data.formats.written import (
    PICTURES,
    Picture,
    coco_json,
    write_coco,
    write_csv,
    write_labelimg,
    write_text,
    write_yolo,
)
from tests.data.voc_files import object_xml, pixels

PART = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>"


def said(config, caplog, split="trainval"):
    """Messages in a process that has not opened the folder before, without the name of the folder."""
    prepare._PREPARED.clear()
    warn_once.cache_clear()
    return said_here(config, caplog, split)


def said_here(config, caplog, split="trainval"):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = open_dataset(f"folder/{split}", config)
    return data, [message.removeprefix(str(config.root)) for message in caplog.messages]


def of(root):
    return DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"), test="folder/test")


def test_notes_of_voc_files(files, config, caplog):
    """Parts, names of other files, JPEG in .png; in short in another process, and not twice in one."""
    files.image("a1", object_xml("ant", extra=PART * 2), object_xml("cat", extra=PART))
    path = files.root / "Annotations/a2.xml"
    path.write_text(path.read_text().replace("a2.jpg", "C:\\photos\\IMG_7.JPG"))
    path = files.root / "Annotations/b1.xml"
    path.write_text(path.read_text().replace("b1.jpg", "B1.png"))  # of the same stem
    for name in ("t1", "b1"):
        (files.root / f"JPEGImages/{name}.jpg").rename(files.root / f"JPEGImages/{name}.png")
    expected = [
        "3 boxes of parts, not objects, are left out (Annotations/a1.xml)",
        "1 annotation has a filename of another stem: the name of the XML file counts (Annotations/a2.xml: IMG_7.JPG)",
        "2 images are in another format than the ending says: the content counts "
        "(JPEGImages/b1.png, JPEGImages/t1.png)",
    ]
    assert said(config, caplog)[1] == [f": {text}" for text in expected]
    assert said_here(config, caplog, "test")[1] == []
    short = "; ".join(text.partition(" (")[0] for text in expected)
    for split in ("test", "trainval"):
        data, messages = said(config, caplog, split)
        assert messages == [f", as it was prepared: {short}"]
    assert said_here(config, caplog)[1] == []
    for name in (SUMMARY_FILE, SUMS_FILE):  # as an earlier version leaves it
        (data.directory / name).unlink()
    assert said(config, caplog)[1] == []
    # A fault that stops says the same.
    files.image("t1", object_xml("ant", (10, 3, 2, 12)))
    with pytest.raises(DatasetFaultError) as caught:
        said(config, caplog)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert set(expected[:2]) <= set(lines)


def test_rotated_boxes_are_counted(files, config, caplog):
    """Attributes of CVAT in VOC's format."""
    attribute = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    files.image("a1", *[object_xml("cat", (10, 8, 20, 12), extra=attribute)] * 2, object_xml("ant"))
    data, messages = said(config, caplog)
    assert messages == [": 2 rotated boxes are read as the upright box around it (Annotations/a1.xml)"]
    assert data.annotations[1].boxes.tolist()[0] == [12, 4, 17, 15]


def test_no_more_than_three_places_are_named(files, config, caplog):
    files.split("train", *(f"i{number}" for number in range(5)))
    for number in range(5):
        files.image(f"i{number}", object_xml(extra=PART))
    assert said(config, caplog)[1] == [
        ": 5 boxes of parts, not objects, are left out "
        "(Annotations/i0.xml, Annotations/i1.xml, Annotations/i2.xml and 2 more)"
    ]


def test_an_image_found_by_the_name_in_its_annotation(tmp_path, caplog):
    write_labelimg(tmp_path / "set", PICTURES[:2])
    (tmp_path / "set/train/a_1.jpg").rename(tmp_path / "set/train/photo.JPG")
    write_text(tmp_path / "set/train/a_1.xml", PICTURES[0].xml("photo.jpg"))
    assert said(of(tmp_path / "set"), caplog)[1] == [
        ": 1 annotation has no image of its own name: the one that filename names is taken (train/a_1.xml: photo.jpg)"
    ]


def test_notes_of_yolo_files(tmp_path, caplog):
    root = write_yolo(tmp_path / "set", [*PICTURES, Picture("none", "train", (20, 30))])
    (root / "labels/train/none.txt").unlink()
    (root / "labels/test/t_1.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.9\n" * 2 + "1 0.5 0.5 0.1 0.1\n")
    config = of(root)
    expected = [
        "2 rows are polygons, read as the bounding box (labels/test/t_1.txt)",
        "1 row has the class and box of an earlier row of the same file: left out (labels/test/t_1.txt)",
        "1 image has no label file: taken to have no objects (images/train/none.jpg)",
        "1 named class has no object: left out (zebra)",
    ]
    data, messages = said(config, caplog)
    assert (data.classes, messages) == (("ant", "bee", "cat"), [f": {text}" for text in expected])
    data, messages = said(dataclasses.replace(config, rename=("ant=bee",)), caplog)
    assert (data.classes, messages) == (("bee", "cat"), [f": {text}" for text in expected]), "ant has objects"
    data, messages = said(dataclasses.replace(config, classes=("zebra", "cat", "ant", "bee")), caplog)
    absent = "no object is of class zebra, which data.classes names"
    assert messages == [f": {text}" for text in (absent, *expected[:-1])]


def coco_folder(tmp_path, categories, **more):
    content = coco_json(PICTURES[:2]) | {"categories": categories}
    content["images"][0] |= more
    for picture in PICTURES[:2]:
        picture.save(tmp_path / "set/train")
    write_text(tmp_path / "set/train/_annotations.coco.json", json.dumps(content))
    return of(tmp_path / "set")


def test_notes_of_categories(tmp_path, caplog):
    """Roboflow's empty category 0, gaps, two of one name."""
    names = [(0, "animals"), (2, "cat"), (3, "ant"), (4, "bee")]
    categories = [{"id": number, "name": name} for number, name in names]
    config = coco_folder(tmp_path, categories)
    empty = ": 1 named class has no object: left out (animals)"
    data, messages = said(config, caplog)
    assert (data.classes, messages) == (("ant", "bee", "cat"), [empty])
    categories[2] = {"id": 3, "name": " cat"}
    content = json.loads((tmp_path / "set/train/_annotations.coco.json").read_text()) | {"categories": categories}
    for item in content["annotations"]:
        item["category_id"] = {4: 9}.get(item["category_id"], item["category_id"])
    categories[3] = {"id": 9, "name": "bee"}
    write_text(tmp_path / "set/train/_annotations.coco.json", json.dumps(content))
    data, messages = said(config, caplog)
    gaps = ": ids of categories have gaps (2-3, 9): labels follow the sorted names (bee, cat)"
    alike = ": categories 2 and 3 are one class, as their name is 'cat'"
    assert (data.classes, messages) == (("bee", "cat"), [empty, alike, gaps])


def test_sizes_of_nothing_in_coco_and_csv(tmp_path, caplog):
    categories = coco_json([])["categories"][1:]
    text = ", split test: took the image's own size for 1 image, where the annotation states none or another"
    assert text in said(coco_folder(tmp_path, categories, width=0, height=0), caplog)[1]
    for name in ("a", "b"):
        write_text(tmp_path / "csv/labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n"
                   "a.jpg,0,0,cat,1,1,9,9\nb.jpg,40,30,cat,1,1,9,9\n")  # fmt: skip
        cv2.imwrite(str(tmp_path / f"csv/{name}.jpg"), pixels(ord(name)))
    assert any("took the image's own size for 1 image" in line for line in said(of(tmp_path / "csv"), caplog)[1])
    (message,) = said(of(tmp_path / "csv"), caplog)[1]
    assert message == ", as it was prepared: took the image's own size for 1 image"


def test_what_was_dropped_is_said_again(files, config, caplog):
    files.image("a1", object_xml("ant", (10, 3, 2, 12)), object_xml("bee"), object_xml("cat", (1, 1, 42, 30)))
    policy = dataclasses.replace(config.faults, degenerate_box="drop")
    config = dataclasses.replace(config, faults=policy, classes=("ant", "cat"))
    said(config, caplog)
    short = "dropped 1 for degenerate_box, 2 of classes not chosen; clipped 1 box"
    assert said(config, caplog)[1] == [f", as it was prepared: {short}"]


@pytest.mark.parametrize(("write", "why"), [(write_coco, "no file lists"), (write_csv, "no row names")])
def test_images_that_nothing_names_are_said(tmp_path, caplog, write, why):
    root = write(tmp_path / "set")
    for name in ("plot", "background"):
        Picture(name, "train", (20, 30)).save(root / "extra")
    text = f": left out 2 images that {why} (extra/background.jpg)"
    for split in ("trainval", "test"):
        assert text in said(of(root), caplog, split)[1], "also where it is prepared"
        assert text not in said_here(of(root), caplog, split)[1]


def test_names_of_prepared_folders_do_not_depend_on_notes():
    """They are made of the text of records, and those of earlier versions are to be found."""
    notes = (Note("part", "a.xml"),)
    record, noted = ImageRecord("a", None, "a.xml"), ImageRecord("a", None, "a.xml", notes=notes, optional=True)
    assert record != noted
    assert repr(SplitRecords((record,))) == repr(SplitRecords((noted,), notes=notes))


def test_a_wanted_class_without_objects_is_said_again(files, config, caplog):
    config = dataclasses.replace(config, classes=("ant", "zebra"))
    said(config, caplog)
    (message,) = said(config, caplog)[1]
    assert message.startswith(", as it was prepared: dropped ")
    assert message.endswith(" of classes not chosen; no object is of class zebra")
