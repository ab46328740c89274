"""Names of labels and images that differ in case, by Label Studio's prefix, or only in their suffix."""

import json
import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import note_sentences
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.formats.yolo.reader import YoloReader
from tests.data.formats.written import NAMES, PICTURES, coco_json, write_labelimg, write_text, yolo_rows

FIRST, SECOND, THIRD, *_ = PICTURES


def yolo(root, images, labels, *, text=None):
    """A reader of images and labels with these paths below the root, each label of one row."""
    for number, path in enumerate(images):
        PICTURES[number % 5].save((root / path).parent, path.rpartition("/")[2])
    for path in labels:
        write_text(root / path, text or yolo_rows(THIRD))
    write_text(root / "classes.txt", "\n".join(NAMES))
    return YoloReader(root, DataConfig())


def contents(reader):
    """Number of objects by image, and labels without image."""
    records = [record for split in reader.splits for record in reader.read(split).records]
    lost = [fault.file for record in records for fault in record.faults if fault.kind == "missing_image"]
    return {record.path.name: len(record.objects) for record in records if record.path}, lost


@pytest.mark.parametrize(
    ("images", "labels", "counts", "lost"),
    [
        (["images/IMG_1.jpg"], ["labels/img_1.txt"], [2], []),
        (["IMG_1.JPG", "b.jpg"], ["img_1.TXT", "b.txt"], [2, 2], []),
        (["Images/Train/A.jpg"], ["LABELS/train/a.txt"], [2], []),
        (["images/A.jpg", "images/a.jpg"], ["labels/a.txt"], [0, 2], []),
        (["images/A.jpg", "images/a.jpg", "images/b.jpg"], ["labels/b.txt", "labels/a.TXT"], [0, 2, 2], []),
        (["images/a.jpg", "images/b.jpg"], ["labels/A.txt", "labels/a.txt", "labels/b.txt"], [2, 2], ["A"]),
        (["images/aa.jpg", "images/b.jpg"], ["labels/Aa.txt", "labels/aA.txt", "labels/b.txt"], [0, 2], ["Aa", "aA"]),
        (["images/Aa.jpg", "images/aA.jpg", "images/b.jpg"], ["labels/aa.txt", "labels/b.txt"], [0, 0, 2], ["aa"]),
    ],
)
def test_labels_in_another_case(tmp_path, images, labels, counts, lost, caplog):
    with caplog.at_level(logging.WARNING):
        reader = yolo(tmp_path, images, labels)
    found, without_image = contents(reader)
    assert found == {path.rpartition("/")[2]: count for path, count in zip(images, counts, strict=True)}
    second = "left out 1 label file of images with another (labels/A.txt)" in caplog.text
    assert without_image == ([] if second else [f"labels/{name}.txt" for name in lost])
    assert second == (lost == ["A"])


def test_labels_of_another_folder_than_that_of_the_image_are_faults(tmp_path):
    """The image has no label where it is looked for, so that its objects would be background."""
    reader = yolo(
        tmp_path,
        ["images/x/a.jpg", "images/x/b.jpg", "images/y/c.jpg"],
        ["labels/x/a.txt", "labels/y/b.txt", "labels/y/c.txt"],
    )
    assert contents(reader) == ({"a.jpg": 2, "b.jpg": 0, "c.jpg": 2}, ["labels/y/b.txt"])


PREFIXED = ["1a2b3c4d-a_1", "00ffeedd-a_2", "12345678-b_1"]


def names_read(reader, first):
    (sentence,) = [text for text in note_sentences(reader.notes) if "Label Studio" in text]
    assert sentence == f"names are read without the 8 digits that Label Studio puts before them ({first})"
    return contents(reader)


def test_names_of_label_studio_in_yolo(tmp_path, caplog):
    images = [f"images/{picture.name}" for picture in PICTURES[:3]]
    with caplog.at_level(logging.WARNING):
        reader = yolo(tmp_path, images, [f"labels/{name}.txt" for name in PREFIXED])
    assert names_read(reader, "labels/1a2b3c4d-a_1.txt: a_1.jpg") == ({"a_1.jpg": 2, "a_2.jpg": 2, "b_1.jpg": 2}, [])
    assert caplog.messages == []
    # Two uploads of files with one name: neither is chosen.
    write_text(tmp_path / "labels/87654321-b_1.txt", yolo_rows(THIRD))
    counts, lost = contents(YoloReader(tmp_path, DataConfig()))
    assert (counts["b_1.jpg"], lost) == (0, ["labels/12345678-b_1.txt", "labels/87654321-b_1.txt"])
    # With one exact name none is changed.
    write_text(tmp_path / "labels/a_1.txt", yolo_rows(FIRST))
    counts, lost = contents(YoloReader(tmp_path, DataConfig()))
    assert (counts, len(lost)) == ({"a_1.jpg": 2, "a_2.jpg": 0, "b_1.jpg": 0}, 4)


@pytest.mark.parametrize("layout", ["coco", "labelimg"])
def test_names_of_label_studio_in_other_formats(tmp_path, layout, caplog):
    for name, picture in zip(PREFIXED, PICTURES, strict=False):
        picture.save(tmp_path / "images")
        if layout == "labelimg":
            write_text(tmp_path / f"Annotations/{name}.xml", picture.xml(f"{name}.jpg"))
    if layout == "coco":
        content = coco_json(PICTURES[:3])
        for name, image in zip(PREFIXED, content["images"], strict=True):
            image["file_name"] = f"..\\label-studio\\upload\\1\\{name}.jpg"
        write_text(tmp_path / "result.json", json.dumps(content))
    with caplog.at_level(logging.WARNING):
        _, reader = open_reader(tmp_path, DataConfig())
    of_first = {
        "coco": "result.json (..\\label-studio\\upload\\1\\1a2b3c4d-a_1.jpg)",
        "labelimg": "Annotations/00ffeedd-a_2.xml",
    }
    image = {"coco": "a_1.jpg", "labelimg": "a_2.jpg"}
    found = names_read(reader, f"{of_first[layout]}: {image[layout]}")
    assert found == ({"a_1.jpg": 2, "a_2.jpg": 3, "b_1.jpg": 2}, [])
    assert caplog.messages == []
    notes = note_sentences(note for record in reader.read("all").records for note in record.notes)
    assert notes == []


def test_names_that_fit_no_image_are_said(tmp_path):
    how = "rename the ones or the others"
    with pytest.raises(FileNotFoundError) as caught:
        yolo(tmp_path / "a", ["images/x.jpg"], ["labels/y.txt"])
    said = "no label file has the name of an image (labels/y.txt, images/x.jpg)"
    assert str(caught.value) == f"{tmp_path / 'a'}: {said}: {how}"
    with pytest.raises(FileNotFoundError) as caught:
        yolo(tmp_path / "b", [], ["labels/1a2b3c4d-y.txt"])
    said = "there is no image for its label files (labels/1a2b3c4d-y.txt): add the images, as to a folder images"
    assert str(caught.value) == f"{tmp_path / 'b'}: {said}"
    FIRST.save(tmp_path / "c", "x.jpg")
    write_text(tmp_path / "c/all.json", json.dumps(coco_json([SECOND])))
    with pytest.raises(FileNotFoundError) as caught:
        open_reader(tmp_path / "c", DataConfig())
    said = "no annotation has the name of an image (all.json (a_2.jpg), x.jpg)"
    assert str(caught.value) == f"{tmp_path / 'c'}: {said}: {how}"


def test_an_unreadable_copy_beside_its_image_is_no_second_image(tmp_path, caplog):
    """Converted on a computer, with the phone's file still there."""
    images = ["images/a_1.jpg", "images/a_2.jpg"]
    for path in ("yolo/images/a_1.HEIC", "xml/a_1.heic", "yolo/images/other.gif"):
        write_text(tmp_path / path, "")
    write_labelimg(tmp_path / "xml", [FIRST], "", "")
    write_text(tmp_path / "xml/a_1.xml", FIRST.xml("a_1"))
    with caplog.at_level(logging.WARNING):
        reader = yolo(tmp_path / "yolo", images, ["labels/a_1.txt", "labels/a_2.txt"])
        (record,) = open_reader(tmp_path / "xml", DataConfig())[1].read("all").records
    assert contents(reader)[0] == {"a_1.jpg": 2, "a_2.jpg": 2, "other.gif": 0}
    assert (record.path.name, record.faults) == ("a_1.jpg", ())
    assert [message.removeprefix(f"{tmp_path}/") for message in caplog.messages] == [
        "yolo: left out 1 image that cannot be read, as another of its name lies beside it (images/a_1.HEIC)",
        "xml: left out 1 image that cannot be read, as another of its name lies beside it (a_1.heic)",
    ]


def test_an_image_that_was_converted_after_it_was_annotated(tmp_path):
    FIRST.save(tmp_path)
    content = coco_json([FIRST])
    content["images"][0]["file_name"] = "a_1.heic"
    write_text(tmp_path / "all.json", json.dumps(content))
    (record,) = open_reader(tmp_path, DataConfig())[1].read("all").records
    assert (record.path.name, record.faults) == ("a_1.jpg", ())


def test_of_two_images_with_one_label_the_usual_format_is_read(tmp_path, caplog):
    for suffix in ("png", "tif"):
        FIRST.save(tmp_path / "images", f"a_1.{suffix}")
    with caplog.at_level(logging.WARNING):
        reader = yolo(tmp_path, ["images/a_1.jpg", "images/a_2.jpg"], ["labels/a_1.txt", "labels/a_2.txt"])
    assert contents(reader)[0] == {"a_1.jpg": 2, "a_2.jpg": 2}
    said = "left out 2 images for others of their names (images/a_1.png for a_1.jpg)"
    assert caplog.messages == [f"{tmp_path}: {said}"]
    # A list that names the other one is taken at its word.
    write_text(tmp_path / "train.txt", "images/a_1.png\nimages/a_2.jpg\n")
    assert contents(YoloReader(tmp_path, DataConfig()))[0] == {"a_1.png": 2, "a_2.jpg": 2}


def test_xml_whose_name_fits_an_image_in_two_formats(tmp_path):
    for suffix in ("jpg", "tif"):
        FIRST.save(tmp_path, f"a_1.{suffix}")
    for filename, expected in (("a_1", "a_1.jpg"), ("a_1.tif", "a_1.tif")):
        write_text(tmp_path / "a_1.xml", FIRST.xml(filename))
        (record,) = open_reader(tmp_path, DataConfig())[1].read("all").records
        assert (record.path.name, record.faults) == (expected, ())


def listing(root, layout, *names):
    """A reader of `a_1.jpg` and of annotations under these names, an object each."""
    FIRST.save(root / "images")
    if layout == "csv":
        rows = "".join(f"{name},64,48,cat,3,4,30,20\n" for name in names)
        write_text(root / "all.csv", f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}")
    else:
        content = coco_json([FIRST] * len(names))
        for number, name in enumerate(names):
            content["images"][number]["file_name"] = name
        write_text(root / "all.json", json.dumps(content))
    return open_reader(root, DataConfig())[1]


@pytest.mark.parametrize("layout", ["csv", "coco"])
def test_an_image_that_was_saved_in_another_format_after_it_was_annotated(tmp_path, layout):
    """It is taken if it alone has the name, and said; a name of its own comes first."""
    (record,) = listing(tmp_path / "a", layout, "a_1.png").read("all").records
    assert (record.path.name, record.faults) == ("a_1.jpg", ())
    said = "1 image has another suffix than in the annotations: the one of the name is taken"
    assert note_sentences(record.notes) == [f"{said} (a_1.png: images/a_1.jpg)"]
    (record,) = listing(tmp_path / "b", layout, "a_1.jpeg").read("all").records
    assert (record.path.name, record.notes) == ("a_1.jpg", ())
    both = listing(tmp_path / "c", layout, "a_1.jpg", "a_1.png").read("all")
    assert [record.path.name for record in both.records] == ["a_1.jpg"]
    assert [fault.kind for fault in both.faults] == ["duplicate_id"]
    for suffix in ("tif", "bmp"):
        FIRST.save(tmp_path / "d" / suffix, f"a_1.{suffix}")
    lost = listing(tmp_path / "d", layout, "a_1.png", "a_1.jpg").read("all").records
    assert sorted(fault.kind for record in lost for fault in record.faults) == ["missing_image"]
