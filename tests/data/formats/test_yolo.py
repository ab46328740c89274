"""YOLO's text files in the layouts of Ultralytics, Roboflow, CVAT and labelImg, and their faults."""

import logging

import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from frcnn_jax.data.faults import note_sentences
from frcnn_jax.data.formats.yolo.reader import YoloReader
from tests.data.formats.written import NAMES, PICTURES, Picture, write_text, write_yolo, yolo_rows

CAT = NAMES.index("cat")


def read(root, split="train"):
    return YoloReader(root, DataConfig()).read(split)


def one_image(root, rows, size=(30, 40), shape=None):
    """The record of an image with these rows; keypoints of that shape."""
    picture = Picture("a", "train", size)
    write_yolo(root, [picture, PICTURES[3]])
    write_text(root / "labels/train/a.txt", rows)
    if shape is not None:
        with (root / "data.yaml").open("a") as file:
            file.write(f"kpt_shape: {shape}\n")
    (record,) = read(root).records
    return record


def test_boxes_written_in_17_digits_are_exact(tmp_path):
    """To the last bit of float32: whole pixels at any size, halves and thousandths, those at the borders."""
    random = np.random.default_rng(0)
    height, width = 1999, 3001
    corners = np.sort(random.integers(0, [[[width], [height]]], (400, 2, 2)), axis=-1)
    corners[..., 1] += 1
    boxes = corners.transpose(0, 2, 1).reshape(-1, 4).astype(float)
    boxes[:100, :2] = 0
    boxes[100:200, 2:] = width, height
    boxes[200:300] += 0.125
    boxes[300:] = np.round(boxes[300:] + random.uniform(0, 0.9, (100, 4)), 3)
    boxes = np.minimum(boxes, [width, height, width, height])
    picture = Picture("a", "train", (height, width), tuple(("cat", tuple(box)) for box in boxes.tolist()))
    write_yolo(tmp_path, [picture, PICTURES[3]])
    (record,) = read(tmp_path).records
    np.testing.assert_array_equal(np.float32([item.box for item in record.objects]), boxes.astype(np.float32))


def test_boxes_written_in_6_digits_stay_inside_the_image(tmp_path):
    rows = "".join(
        f"{CAT} {(x + 4001) / 2 / 4001:.6f} 0.5 {(4001 - x) / 4001:.6f} 1.000001\n" for x in range(0, 4000, 7)
    )
    record = one_image(tmp_path, rows, (30, 4001))
    boxes = np.array([item.box for item in record.objects])
    assert (boxes[:, 2] <= 4001).all()
    assert (boxes[:, 1] == 0).all()
    assert (boxes[:, 3] == 30).all()
    np.testing.assert_allclose(boxes[:, 0], range(0, 4000, 7), atol=0.01)
    assert one_image(tmp_path, f"{CAT} 0.5 0.5 1.1 1").objects[0].box == (-2, 0, 42, 30), "a fault for checking to find"


def test_rows(tmp_path):
    rows = [
        f"{CAT} 0.5 0.5 0.5 0.2",
        f"{CAT}.0 0.25 0.1 0.75 0.2 0.5 0.9",  # a polygon
        "",
        "4 0.5 0.5 0.5 0.2",
        f"{CAT} 0.5 0.5 0.5",
        f"{CAT} 0.5 0.5 0.5 0.2 0.9",  # with a confidence
        f"{CAT} 0.5 0.5 0.5 x",
        f"{CAT} 0.5 nan 0.5 0.2",
        "-1 0.5 0.5 0.5 0.2",
        "1.5 0.5 0.5 0.5 0.2",
    ]
    record = one_image(tmp_path, "\ufeff" + "\r\n".join(rows))
    assert [(item.index, item.name, item.box) for item in record.objects] == [
        (0, "cat", (10, 12, 30, 18)),
        (1, "cat", (10, 3, 30, 27)),
    ]
    assert [(fault.kind, fault.object, fault.value) for fault in record.faults] == [
        ("unknown_class", 2, rows[3]),
        ("unreadable_annotation", 3, rows[4]),
        ("unreadable_annotation", 4, rows[5]),
        ("unreadable_annotation", 5, rows[6]),
        ("unreadable_annotation", 6, rows[7]),
        ("unknown_class", 7, rows[8]),
        ("unknown_class", 8, rows[9]),
    ]
    assert str(record.faults[1]) == (
        "labels/train/a.txt: object 3: row = '1 0.5 0.5 0.5': 4 numbers, neither 5 of a box nor a polygon's "
        "[unreadable_annotation]"
    )


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 2)])
def test_rows_with_keypoints_begin_with_the_box(tmp_path, shape):
    points = " ".join(["0.9", "0.95", "1", "0", "0.01", "1"][: shape[0] * shape[1]])
    rows = [f"{CAT} 0.5 0.5 0.5 0.2 {points}", f"{CAT} 0.5 0.5 0.5 0.4", f"{CAT} 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9"]
    record = one_image(tmp_path, "\n".join(rows), shape=list(shape))
    assert [(item.index, item.name, item.box) for item in record.objects] == [
        (0, "cat", (10, 12, 30, 18)),
        (1, "cat", (10, 9, 30, 21)),
    ]
    count = 5 + shape[0] * shape[1]
    assert [fault.message for fault in record.faults] == [
        f"9 numbers, neither 5 of a box nor {count} with keypoints (kpt_shape)"
    ]


@pytest.mark.parametrize("shape", ["17", "[2, 4]", "[true, 2]", "[0, 3]", "null", "{a: 2}"])
def test_a_shape_of_no_keypoints_leaves_polygons(tmp_path, shape):
    (item,) = one_image(tmp_path, f"{CAT} 0.25 0.1 0.75 0.2 0.5 0.9", shape=shape).objects
    assert item.box == (10, 3, 30, 27)


def test_images_without_label_file_or_rows_have_no_objects(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels/train/a_1.txt").unlink()
    (tmp_path / "labels/test/t_1.txt").write_text("\n")
    assert [len(record.objects) for record in read(tmp_path).records] == [0, 3]
    assert [len(record.objects) for record in read(tmp_path, "test").records] == [0, 1]
    (tmp_path / "images/train/a_2.jpg").write_bytes(b"cut")
    assert [record.objects for record in read(tmp_path).records] == [(), ()], "its fault is found when it is checked"


YAMLS = {
    "relative": "train: images/train\nval: images/val\ntest: images/test\nnames: {names}\n",
    "roboflow": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 4\nnames: {names}\n",
    "path": "path: ../datasets/animals\ntrain: images/train\nval: images/val\ntest: images/test\nnames: {names}\n",
    "absolute": "train: /home/me/set/images/train/\nval: C:\\data\\images\\val\ntest: images/test\nnames: {names}\n",
    "lists": "path: .\ntrain: [images/train]\nval: [images/val]\ntest: [./images/test]\nnames: {dict}\n",
    "no folder": "names: {names}\nnc: 4\ntrain:\n",
    "files": "train: train.txt\nval: val.txt\ntest: test.txt\nnames: {dict}\n",
}


@pytest.mark.parametrize("name", YAMLS)
@pytest.mark.parametrize("split_first", [False, True])
def test_splits_of_the_yaml_file(tmp_path, name, split_first):
    """Paths of another machine, with too many dots or another order of the folders."""
    root = write_yolo(tmp_path / "set", split_first=split_first)
    text = YAMLS[name].format(names=list(NAMES), dict={str(i): name for i, name in enumerate(NAMES)})
    (root / "data.yaml").write_text(text)
    for split in ("train", "val", "test"):
        folder = f"{split}/images" if split_first else f"images/{split}"
        its = sorted(path.name for path in (root / folder).iterdir())
        write_text(root / f"{split}.txt", "".join(f"data/{folder}/{name}\n" for name in its))
    reader = YoloReader(root, DataConfig())
    assert reader.splits == ("train", "validation", "test")
    ids = [[record.image_id for record in reader.read(split).records] for split in reader.splits]
    assert ids == [["a_1", "a_2"], ["b_1"], ["t_1", "t_2"]]
    assert all(record.objects for split in reader.splits for record in reader.read(split).records)


def test_splits_that_say_nothing_are_left_out_and_said(tmp_path, caplog):
    """A test folder that was not exported, the same images to train and to validate with, a test without labels."""
    write_yolo(tmp_path, [p for p in PICTURES if p.split == "train"])
    lines = "train: images/train\nval: images/train\ntest: ../test/images\n"
    (tmp_path / "data.yaml").write_text(f"{lines}names: {list(NAMES)}\n")
    PICTURES[0].save(tmp_path, "plot.png")
    with caplog.at_level(logging.WARNING):
        assert YoloReader(tmp_path, DataConfig()).splits == ("train",)
    assert [record.message.removeprefix(str(tmp_path)) for record in caplog.records] == [
        "/data.yaml: its split validation is left out: it has the same images as train",
        "/data.yaml: its split test is left out: no image for ../test/images",
        ": left out 1 image in no split or in a folder without labels (plot.png)",
    ]
    caplog.clear()
    for picture in PICTURES:
        picture.save(tmp_path / "test/images")
    with caplog.at_level(logging.WARNING):
        assert YoloReader(tmp_path, DataConfig()).splits == ("train",)
    assert "its split test is left out: no label file for ../test/images" in caplog.text


@pytest.mark.parametrize(
    ("images", "labels", "names"),
    [
        ("", "", "classes.txt"),
        ("images", "labels", "labels/classes.txt"),
        ("obj_train_data", "obj_train_data", "obj.names"),
    ],
)
def test_names_in_a_text_file(tmp_path, images, labels, names):
    """Files of labelImg and CVAT, without splits."""
    for picture in PICTURES:
        picture.save(tmp_path / images)
        write_text(tmp_path / labels / f"{picture.stem}.txt", yolo_rows(picture))
    assert not YoloReader.fits(tmp_path)
    write_text(tmp_path / names, "\n".join(NAMES))
    reader = YoloReader(tmp_path, DataConfig())
    assert reader.splits == (("train",) if images == "obj_train_data" else ("all",)), "the folder's name counts"
    records = reader.read(reader.splits[0]).records
    assert [[item.name for item in r.objects] for r in records] == [[name for name, _ in p.objects] for p in PICTURES]


def test_a_row_that_occurs_twice_is_one_object(tmp_path):
    """Else the second could not be found in an evaluation."""
    write_yolo(tmp_path)
    label = tmp_path / "labels/train/a_1.txt"
    before = read(tmp_path).records[0].objects
    rows = label.read_text().splitlines()
    label.write_text("\n".join([*rows, rows[0], rows[0].replace("0.5", "0.500"), f"{CAT} 0.5 0.5 0.1 0.1"]))
    record = read(tmp_path).records[0]
    assert (record.objects[:-1], record.objects[-1].index) == (before, 4)
    assert note_sentences(record.notes) == [
        "2 rows have the class and box of an earlier row of the same file: left out (labels/train/a_1.txt)"
    ]


def test_names_of_classes_that_are_not_utf_8_are_named_by_their_file(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_bytes(b"k\xfche\n")
    with pytest.raises(ValueError, match=r"classes.txt: not UTF-8 text, save it as that"):
        YoloReader(tmp_path, DataConfig())


def test_numbers_of_one_name_are_one_class_and_noted(tmp_path):
    root = write_yolo(tmp_path)
    write_text(root / "data.yaml", "train: images/train\nnames: [bee, cat, ant, bee]\n")
    records = read(root)
    assert {item.name for record in records.records for item in record.objects} == {"cat", "ant", "bee"}
    assert note_sentences(records.notes)[-1] == "classes 0 and 3 are one class, as their name is 'bee'"


def test_stray_files_do_not_count(tmp_path):
    write_yolo(tmp_path)
    before = {split: read(tmp_path, split) for split in ("train", "validation", "test")}
    write_text(tmp_path / "README.txt", "5 numbers follow\n")
    write_text(tmp_path / "labels/train/empty.txt", "\n")
    write_text(tmp_path / "notes/a.txt", f"{CAT} 0.5 0.5 1 1\n")
    write_text(tmp_path / "labels/train.cache", "x")
    write_text(tmp_path / "labels/train/.hidden.txt", "x")
    write_text(tmp_path / "hyp.yaml", "lr0: 0.01\n")
    write_text(tmp_path / "notes/empty.yaml", "")
    assert {split: read(tmp_path, split) for split in before} == before


@pytest.mark.parametrize("split_first", [False, True])
def test_a_label_file_without_image_is_a_fault(tmp_path, split_first):
    """Also where another split has an image of that name, and where several labels lack theirs."""
    root = write_yolo(tmp_path / "set", split_first=split_first)
    folder = "train/labels" if split_first else "labels/train"
    for stem in ("t_1", "gone.rf.0f"):
        write_text(root / folder / f"{stem}.txt", f"{CAT} 0.5 0.5 1 1\n")
    records = {record.image_id: record for record in read(root).records}
    assert [fault for name in ("a_1", "a_2") for fault in records.pop(name).faults] == []
    said = "there is no such image in the folder [missing_image]"
    assert [(record.path, record.objects, *map(str, record.faults)) for record in records.values()] == [
        (None, (), f"{folder}/{stem}.txt: image = '{folder}/{stem}': {said}") for stem in ("gone.rf.0f", "t_1")
    ]
    assert all(record.path for split in ("validation", "test") for record in read(root, split).records)
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"))
    with pytest.raises(DatasetFaultError, match=r"set has 2 faults \(missing_image 2\)"):
        open_dataset("folder/train", config)


def test_labels_without_image_beside_images_and_in_a_folder_without_splits(tmp_path):
    for picture in PICTURES:
        picture.save(tmp_path)
        write_text(tmp_path / f"{picture.stem}.txt", yolo_rows(picture))
    (tmp_path / "a_1.jpg").unlink()
    write_text(tmp_path / "classes.txt", "\n".join(NAMES))
    reader = YoloReader(tmp_path, DataConfig())
    faults = {record.image_id: record.faults for record in reader.read(*reader.splits).records}
    assert [fault.kind for fault in faults.pop("a_1")] == ["missing_image"]
    assert list(faults.values()) == [()] * 4


def test_two_files_with_names_are_named(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "copy.yaml", (tmp_path / "data.yaml").read_text())
    assert YoloReader.fits(tmp_path), "they say the same"
    write_text(tmp_path / "copy.yaml", "train: images/train\nnames: [a, b]\n")
    with pytest.raises(ValueError, match=r"copy.yaml and data.yaml have names of classes; leave one of them"):
        YoloReader(tmp_path, DataConfig())
