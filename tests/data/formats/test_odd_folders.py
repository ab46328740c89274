"""Folders with the oddities of tools and people: the same objects as without them."""

import json
import logging
import os
import re
import shutil
import unicodedata

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import (
    NAMES,
    Picture,
    coco_json,
    write_coco,
    write_csv,
    write_labelimg,
    write_rows,
    write_text,
    write_voc,
    write_yolo,
)

PICTURES = [
    Picture("p_1", "train", (30, 40), (("cat", (1, 2, 30, 20)), ("ant", (5, 6, 20, 18)))),
    Picture("p_2", "train", (30, 40), (("cat", (2, 2, 32, 21)),)),
    Picture("t_1", "test", (30, 40), (("cat", (3, 2, 30, 20)),)),
]
OBJECTS = {picture.split: [] for picture in PICTURES}
for picture in PICTURES:
    OBJECTS[picture.split] += picture.objects
WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo, "csv": write_csv, "labelimg": write_labelimg}


def objects(root, split, layout):
    """Names and boxes of a split's objects, all of whose images are there."""
    name, reader = open_reader(root, DataConfig())
    records = reader.read(split)
    assert (name, records.faults, [record.faults for record in records.records if record.faults]) == (layout, (), [])
    assert all(record.path for record in records.records)
    return [(item.name, pytest.approx(item.box, abs=1e-9)) for its in records.records for item in its.objects]


def check(root, layout, splits=("train", "test")):
    for split in splits:
        assert objects(root, split, layout) == OBJECTS[split]


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("oddity", ["unpacked twice", "spaces and umlauts", "marks and line ends"])
def test_folders_and_names_and_texts(tmp_path, layout, oddity):
    folder = tmp_path / "set/archive (1)/Data Set v1/Data Set v1" if oddity == "unpacked twice" else tmp_path / "set"
    pictures = PICTURES
    if oddity == "spaces and umlauts":
        pictures = [Picture(f"Grün {p.stem} (1)", p.split, p.size, p.objects) for p in PICTURES]
    WRITERS[layout](folder, pictures)
    for path in sorted(folder.rglob("*")):
        if oddity == "spaces and umlauts" and path.suffix == ".jpg":  # as a Mac's archive has them
            path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
        elif oddity == "marks and line ends" and path.is_file() and path.suffix != ".jpg":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    check(tmp_path / "set", layout)


def test_a_link_beside_a_folder_takes_no_images_from_its_split(tmp_path):
    root = write_labelimg(tmp_path / "set", PICTURES, "{}", "{}")
    (root / "latest").symlink_to("train", target_is_directory=True)
    check(root, "labelimg")


@pytest.mark.parametrize("layout", ["yolo", "labelimg"])
def test_a_file_name_that_is_not_utf_8_is_named(tmp_path, layout):
    """Written by Windows, unpacked on Linux."""
    root = WRITERS[layout](tmp_path / "set", PICTURES)
    for path in [*root.rglob("p_2.*")]:
        path.rename(path.with_name(path.name.replace("p_2", os.fsdecode(b"gr\xfcn"))))
    with pytest.raises(ValueError, match=r"gr\\udcfcn.jpg: the name is not UTF-8; rename it, as with: convmv"):
        open_dataset("folder/train", DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds")))


@pytest.mark.parametrize(
    ("layout", "splits"), [*((layout, ("train", "test")) for layout in WRITERS), ("voc", ("all",))]
)
def test_files_of_a_mac_beside_each_file_and_in_its_zip(tmp_path, layout, splits):
    root = WRITERS[layout](tmp_path / "set/Data", PICTURES)
    if splits == ("all",):
        shutil.rmtree(root / "ImageSets")
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        for folder in (path.parent, tmp_path / "set/__MACOSX/Data" / path.parent.relative_to(root)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X \xb0\xff")
    found = [item for split in splits for item in objects(tmp_path / "set", split, layout)]
    assert found == OBJECTS["train"] + OBJECTS["test"]


@pytest.mark.parametrize(
    "names",
    [
        ("jpegimages", "annotations", "imagesets"),
        ("JPEGImages", "annotations", "ImageSets"),
        ("Images", "Annotations", "ImageSets"),
    ],
)
def test_lists_count_whatever_the_case_of_voc_folders(tmp_path, names):
    root = write_voc(tmp_path / "set", PICTURES)
    for old, new in zip(("JPEGImages", "Annotations", "ImageSets"), names, strict=True):
        (root / old).rename(root / new)
    check(root, "voc")
    for path in root.glob("*/Main/*.txt"):
        path.unlink()
    assert open_reader(root, DataConfig())[0] == "labelimg", "without lists as before"


def test_images_in_folders_are_not_those_of_lists(tmp_path):
    """`images/train` beside lists: XML in an arrangement of its own."""
    root = write_labelimg(tmp_path / "set", PICTURES, "Images/{}", "Annotations/{}")
    write_text(root / "ImageSets/Main/train.txt", "p_1\np_2\n")
    check(root, "labelimg")


def test_endings_in_another_case_or_of_another_kind(tmp_path):
    root = write_voc(tmp_path / "set", PICTURES)
    for path in [*root.rglob("*.xml"), *root.rglob("*.jpg")]:
        path.rename(path.with_suffix({".xml": ".XML", ".jpg": ".jfif"}[path.suffix]))
    check(root, "voc")


@pytest.mark.parametrize(
    ("places", "split_first"),
    [
        ("train: C:\\Users\\me\\My Data\\images\\train\ntest: C:\\Users\\me\\My Data\\images\\test", False),
        (
            "path: /content/drive/set\ntrain: /content/drive/set/train/images\ntest: /content/drive/set/test/images",
            True,
        ),
        ("train:\timages/train\ntest: images/test", False),
    ],
)
@pytest.mark.parametrize(
    "names", ["[zebra, cat, ant, bee]", "{'0': zebra, '1': cat, 2: ant, 3: bee}", "zebra, cat, ant, bee"]
)
def test_data_yaml_of_other_machines(tmp_path, places, split_first, names):
    root = write_yolo(tmp_path / "set", PICTURES, split_first=split_first)
    write_text(root / "data.yaml", f"{places}\nnc: 4\nnames: {names}\n")
    check(root, "yolo")


def test_a_data_yaml_that_cannot_be_read_is_named(tmp_path):
    """Else its classes would be numbers."""
    root = write_yolo(tmp_path / "set", PICTURES)
    for text in (b"# f\xfcr mich\nnames: [zebra, cat, ant, bee]\ntrain: images/train", b"train: [\nnames: [a, b]\n"):
        (root / "data.yaml").write_bytes(text)
        with pytest.raises(
            ValueError, match=rf"^{root}/data.yaml: not YAML in UTF-8, put it right or remove it \("
        ) as error:
            open_reader(root, DataConfig())
        assert "\n" not in str(error.value)
    write_text(root / "data.yaml", "\n".join(f"{key}: {value}" for key, value in (("names", list(NAMES)), ("nc", 4))))
    write_text(root / "other.yaml", "a: [\n")
    check(root, "yolo")


def edit(content, **changes):
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
        made = {"polygon": [polygon], "two": [polygon[:6], polygon[2:]], "flat": polygon}
        item |= {key: made.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
        if changes.get("bbox") == "texts":
            item["bbox"] = list(map(str, (x, y, width, height)))
        elif changes.get("bbox", 0) is None:
            del item["bbox"]


@pytest.mark.parametrize(
    ("changes", "outlines"),
    [
        ({"bbox": None, "segmentation": "polygon"}, True),
        ({"bbox": [], "segmentation": "two"}, True),
        ({"bbox": [], "segmentation": "flat"}, True),
        ({"bbox": "texts", "iscrowd": False}, False),
    ],
)
def test_coco_boxes_of_outlines_and_texts(tmp_path, changes, outlines):
    root = write_coco(tmp_path / "set", PICTURES)
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        edit(content, **changes)
        write_text(path, json.dumps(content))
    check(root, "coco")
    records = open_reader(root, DataConfig())[1].read("train").records
    notes = [(note.kind, note.count) for record in records for note in record.notes]
    assert notes == ([("outline", 2), ("outline", 1)] if outlines else [])


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": None, "segmentation": {"counts": "abc", "size": [30, 40]}},
        {"bbox": None, "segmentation": [[1, 2, 3, 4]]},
        {"bbox": None, "segmentation": [[1, 2, 3, 4, 5, None]]},
        {"bbox": [1, 2, "x", 4], "segmentation": "polygon"},
        {"bbox": [1, 2, 3], "segmentation": "polygon"},
        {"bbox": [1, 2, True, 4]},
    ],
)
def test_coco_boxes_that_nothing_says_are_faults(tmp_path, changes):
    root = write_coco(tmp_path / "set", PICTURES[:1])
    content = coco_json(PICTURES[:1])
    edit(content, **changes)
    write_text(root / "annotations/instances_train2017.json", json.dumps(content))
    (record,) = open_reader(root, DataConfig())[1].read("train").records
    assert (record.objects, {fault.kind for fault in record.faults}) == ((), {"unreadable_annotation"})


def test_coco_ids_are_texts_and_names_have_no_ending_or_are_of_windows(tmp_path):
    root = write_coco(tmp_path / "set", PICTURES)
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["id"] = f"image {image['id']}"
            image["file_name"] = image["file_name"][:-4] if "train" in path.name else f"D:\\a b\\{image['file_name']}"
        for item in content["annotations"]:
            item["image_id"], item["category_id"] = f"image {item['image_id']}", str(item["category_id"])
        write_text(path, json.dumps(content))
    check(root, "coco")


def of_split(root, caplog):
    """Objects of a folder as it is prepared, and what was said of it."""
    config = DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"))
    with caplog.at_level(logging.WARNING):
        data = open_dataset("folder/all", config)
    names = [data.classes[label - 1] for truth in data.annotations for label in truth.labels]
    boxes = [tuple(box) for truth in data.annotations for box in truth.boxes.tolist()]
    return list(zip(names, boxes, strict=True)), caplog.text


def write_fractions(root, layout):
    """Corners, or x, y, width and height, in fractions of the image."""
    pictures = [Picture(p.stem, "", p.size, p.objects) for p in PICTURES]
    if layout == "csv":
        return write_rows(
            root,
            pictures,
            "filename,class,xmin,ymin,xmax,ymax",
            lambda p, name, a, b, c, d: f"{p.name},{name},{(a - 1) / 40},{(b - 1) / 30},{c / 40},{d / 30}",
        )
    WRITERS[layout](root, pictures)
    for path in [*root.rglob("*.json"), *root.rglob("*.xml")]:
        text, sides = path.read_text(), (40, 30, 40, 30)
        if layout == "coco":
            content = json.loads(text)
            for item in content["annotations"]:
                item["bbox"] = [value / side for value, side in zip(item["bbox"], sides, strict=True)]
            text = json.dumps(content)
        for corner, side, first in zip(("xmin", "ymin", "xmax", "ymax"), sides, (1, 1, 0, 0), strict=True):
            value = re.compile(rf"(?<=<{corner}>)\d+")
            text = value.sub(lambda found, side=side, first=first: str((int(found[0]) - first) / side), text)
        write_text(path, text)
    return root


@pytest.mark.parametrize("layout", ["csv", "coco", "labelimg"])
def test_boxes_that_are_fractions(tmp_path, layout, caplog):
    root = write_fractions(tmp_path / "set", layout)
    found, said = of_split(root, caplog)
    expected = OBJECTS["train"] + OBJECTS["test"]
    assert [(name, pytest.approx(box, abs=1e-5)) for name, box in found] == expected
    assert f"{root}: boxes are fractions of the image, as all 4 are between 0 and 1" in said
    assert "data.corners" not in said


def test_a_split_of_data_yaml_that_is_named_otherwise_than_its_folder(tmp_path, caplog):
    """Its images are not left out."""
    root = write_yolo(tmp_path / "set", PICTURES)
    write_text(root / "data.yaml", f"train: images/train\nval: images/test\nnames: {list(NAMES)}\n")
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test", train=("folder/trainval",))
    with caplog.at_level(logging.INFO, "frcnn_jax"):
        assert open_dataset("folder/test", config).image_ids == ("t_1",)
    said = "test: 1 image of images/test, those to validate with, not trained on, as there are no test images"
    assert any(message.endswith(said) for message in caplog.messages)
