"""VOC's XML in the arrangements of labelImg, Roboflow and scripts; VOC folders with odd lists or none."""

import dataclasses
import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.labelimg import LabelImgReader
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import PICTURES, Picture, write_labelimg, write_text, write_voc

IDS = [picture.stem for picture in PICTURES]


def read(root, split="all"):
    return LabelImgReader(root, DataConfig()).read(split)


def faults(records):
    return [(fault.kind, fault.file, fault.value) for record in records.records for fault in record.faults]


def without_split(suffix=".jpg"):
    return [dataclasses.replace(picture, suffix=suffix) for picture in PICTURES]


@pytest.mark.parametrize(
    ("images", "xml"),
    [
        ("", ""),
        ("images", "annotations"),
        ("images", "annots"),
        ("images", "annotations/xmls"),
        ("data/img", "data/xml"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png"])
def test_one_folder_without_splits(tmp_path, images, xml, suffix):
    write_labelimg(tmp_path, without_split(suffix), images=images, xml=xml)
    reader = LabelImgReader(tmp_path, DataConfig())
    assert reader.splits == ("all",)
    records = reader.read("all")
    assert (list(records.ids), faults(records)) == (IDS, [])
    assert [len(record.objects) for record in records.records] == [len(picture.objects) for picture in PICTURES]


def test_the_name_of_the_xml_counts_and_then_the_name_in_it(tmp_path):
    first, second, third, *_ = PICTURES
    for picture in (first, second):
        picture.save(tmp_path)
    write_text(tmp_path / "a_1.xml", first.xml("a_2.jpg"))  # copied from another
    write_text(tmp_path / "a_2.xml", second.xml("C:\\Users\\me\\whatever"))
    third.save(tmp_path, "photo.JPG")
    write_text(tmp_path / "b_1.xml", third.xml("D:\\photos\\photo.jpg"))
    records = read(tmp_path)
    assert {record.path.name: len(record.objects) for record in records.records} == {
        "a_1.jpg": 2,
        "a_2.jpg": 3,
        "photo.JPG": 2,
    }
    assert faults(records) == []
    write_text(tmp_path / "a_0.xml", first.xml("a_1.jpg"))  # whose own image is lost
    records = read(tmp_path)
    assert faults(records) == [("missing_image", "a_0.xml", "a_0")]
    assert [len(record.objects) for record in records.records if record.path] == [2, 3, 2]
    assert records.faults == ()


def test_an_image_with_two_endings_and_no_name_in_its_annotation(tmp_path):
    picture = dataclasses.replace(PICTURES[0], stem="a.png")
    picture.save(tmp_path)
    write_text(tmp_path / "a.png.xml", picture.xml(""))
    assert [(record.image_id, record.path.name) for record in read(tmp_path).records] == [("a.png", "a.png.jpg")]


def test_images_that_differ_in_their_ending_alone(tmp_path):
    picture = PICTURES[0]
    picture.save(tmp_path)
    dataclasses.replace(picture, suffix=".png").save(tmp_path)
    write_text(tmp_path / "a_1.xml", picture.xml("a_1.png"))
    (record,) = read(tmp_path).records
    assert (record.path.name, record.faults) == ("a_1.png", ())
    write_text(tmp_path / "a_1.xml", picture.xml("a_1"))
    assert faults(read(tmp_path)) == [("duplicate_id", "a_1.xml", "a_1.jpg, a_1.png")]


def test_what_is_missing_or_not_an_annotation(tmp_path, caplog):
    write_labelimg(tmp_path, PICTURES[:2], images="images", xml="annotations")
    write_text(tmp_path / "annotations/lost.xml", PICTURES[0].xml("lost.jpg"))
    write_text(tmp_path / "annotations/cut.xml", "<annotation><size>")
    Picture("cut", "train", (20, 20)).save(tmp_path / "images")
    write_text(tmp_path / "project.xml", '<?xml version="1.0"?><!-- <annotation> --><annotations version="1"/>')
    Picture("unlabelled", "train", (20, 20)).save(tmp_path / "images")
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path)
    assert [(fault[0], fault[1]) for fault in faults(records)] == [
        ("unreadable_annotation", "annotations/cut.xml"),
        ("missing_image", "annotations/lost.xml"),
    ]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: left out 1 XML file not in VOC's form (project.xml)",
        f"{tmp_path}: left out 1 image without annotation (images/unlabelled.jpg)",
    ]


def test_splits_by_the_names_of_folders(tmp_path):
    """Roboflow's `valid`; folders in either order; a name is that of an image of its split."""
    pictures = [
        Picture("001", split, (20 + n, 33), (("cat", (0, 0, 5 + n, 5)),)) for n, split in enumerate(("train", "test"))
    ]
    for images, xml in (
        ("{}", "{}"),
        ("images/{}", "labels/{}"),
        ("{}/images", "{}/labels"),
        ("my_{}-set1", "my_{}-set1"),
    ):
        root = tmp_path / images.replace("/", "_")
        write_labelimg(root, pictures, images=images, xml=xml)
        reader = LabelImgReader(root, DataConfig())
        assert reader.splits == ("train", "test")
        for number, split in enumerate(reader.splits):
            (record,) = reader.read(split).records
            assert (record.size, split in str(record.path)) == ((20 + number, 33), True)
    write_labelimg(tmp_path / "roboflow", PICTURES)
    (tmp_path / "roboflow/val").rename(tmp_path / "roboflow/valid")
    assert LabelImgReader(tmp_path / "roboflow", DataConfig()).splits == ("train", "validation", "test")


def test_images_of_one_name_are_those_nearest_to_the_annotation(tmp_path):
    for number, kind in enumerate(("cats", "dogs")):
        picture = Picture("001", "", (20 + number, 33), ((kind, (0, 0, 5, 5)),))
        write_labelimg(tmp_path / kind, [picture], images="images", xml="annots")
    records = read(tmp_path).records
    assert [(record.image_id, record.objects[0].name) for record in records] == [
        ("cats/images/001", "cats"),
        ("dogs/images/001", "dogs"),
    ]
    assert [record.size for record in records] == [(20, 33), (21, 33)]


@pytest.mark.parametrize("lists", [None, "empty", "default", "classes alone"])
def test_voc_folders_without_lists_or_with_that_of_cvat(tmp_path, lists, caplog):
    write_voc(tmp_path)
    for path in (tmp_path / "ImageSets/Main").iterdir():
        path.unlink()
    if lists == "default":
        write_text(tmp_path / "ImageSets/Main/default.txt", "".join(f"{name}\n" for name in IDS))
    if lists is None:
        (tmp_path / "ImageSets/Main").rmdir()
    Picture("unlabelled", "train", (20, 20)).save(tmp_path / "JPEGImages")
    with caplog.at_level(logging.WARNING):
        name, reader = open_reader(tmp_path, DataConfig())
        records = reader.read(reader.splits[0])
    assert (name, reader.splits) == ("voc", ("default",) if lists == "default" else ("all",))
    assert (list(records.ids), faults(records)) == (IDS, [])
    assert ("left out 1 image without annotation, in no list (JPEGImages/unlabelled.jpg)" in caplog.text) == (
        lists != "default"
    )
    with pytest.raises(FileNotFoundError, match=r"no list of a split 'train' .there: (all|default)."):
        reader.read("train")


def test_listed_ids_without_annotation_are_faults(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/test.txt", "t_1\nt_3\n")
    records = open_reader(tmp_path, DataConfig())[1].read("test")
    assert [fault[:2] for fault in faults(records)] == [
        ("missing_annotation", "Annotations/t_3.xml"),
        ("missing_image", "JPEGImages/t_3"),
    ]


def test_several_voc_folders_are_named(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / "VOCdevkit" / year)
    with pytest.raises(ValueError, match=r"give one of them as --data.root: .*VOC2007, .*VOC2012$"):
        open_reader(tmp_path, DataConfig())
    for split in ("train", "test"):  # but not where their names are those of splits
        write_voc(tmp_path / "apart" / split, [p for p in PICTURES if p.split == split])
        for path in (tmp_path / "apart" / split / "ImageSets/Main").iterdir():
            path.unlink()
    name, reader = open_reader(tmp_path / "apart", DataConfig())
    assert (name, reader.splits) == ("labelimg", ("train", "test"))
