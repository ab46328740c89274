"""YOLO's labels in Darknet's layout: lists of images, names in a text file or none."""

import logging

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.formats.yolo.reader import YoloReader
from tests.data.formats.written import NAMES, PICTURES, write_text, write_yolo, yolo_rows

LISTS = {"train": ["a_1", "a_2"], "valid": ["b_1"], "test": ["t_1", "t_2"]}


def darknet(root, line="data/obj/{}.jpg", names="obj.names", places="{}.txt"):
    """Images and labels in one folder, lists of images beside it, as Darknet takes them."""
    for picture in PICTURES:
        picture.save(root / "obj")
        write_text(root / f"obj/{picture.stem}.txt", yolo_rows(picture))
    for split, stems in LISTS.items():
        write_text(root / places.format(split), "\n" + "".join(f"{line.format(stem)}\r\n" for stem in stems))
    if names:
        write_text(root / names, "\n".join(NAMES))
    return YoloReader(root, DataConfig())


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("data/obj/{}.jpg", "{}.txt"),
        ("/home/me/x/obj/{}.jpg", "data/{}.txt"),
        ("{}.jpg", "my_{}_list.txt"),
        ("C:\\x\\obj\\{}.jpg", "{}.txt"),
    ],
)
@pytest.mark.parametrize("names", ["obj.names", "data/voc.names", "obj/_darknet.labels", None])
def test_lists_of_darknet_give_the_splits(tmp_path, line, places, names):
    write_text(tmp_path / "notes/test.txt", "read by a person\n")
    reader = darknet(tmp_path, line, names, places)
    assert reader.splits == ("train", "validation", "test")
    assert [list(reader.read(split).ids) for split in reader.splits] == list(LISTS.values())
    (record,) = reader.read("validation").records
    assert [item.name for item in record.objects] == (["bee", "ant"] if names else ["class_3", "class_2"])


def test_lines_of_a_list_without_an_image_or_with_several_are_said(tmp_path, caplog):
    write_text(tmp_path / "train.txt", "")
    darknet(tmp_path)
    write_text(tmp_path / "valid.txt", "obj/b_1.jpg\nobj/lost.jpg\nobj/gone.jpg\n")
    for folder in ("x", "y"):
        PICTURES[3].save(tmp_path / folder, "twice.jpg")
    write_text(tmp_path / "test.txt", "obj/t_1.jpg\ntwice.jpg\n")
    with caplog.at_level(logging.WARNING):
        reader = YoloReader(tmp_path, DataConfig())
    assert [message.removeprefix(str(tmp_path)) for message in caplog.messages[:2]] == [
        "/test.txt: 1 of 2 lines name several images, of which the first is taken (twice.jpg)",
        "/valid.txt: 2 of 3 lines name no image in the folder and are left out (obj/lost.jpg)",
    ]
    assert list(reader.read("validation").ids) == ["b_1"]
    write_text(tmp_path / "data.yaml", f"train: train.txt\nval: valid.txt\nnames: {list(NAMES)}\n")
    assert YoloReader(tmp_path, DataConfig()).splits == ("train", "validation"), "the file's own splits count"


def test_classes_without_names_are_numbered(tmp_path, caplog):
    root = write_yolo(tmp_path / "set")
    (root / "data.yaml").unlink()
    (root / "labels/train/a_1.txt").write_text("0 0.5 0.5 1 1\n12.0 0.5 0.5 1 1\n-1 0.5 0.5 1 1\n1.5 0.5 0.5 1 1\n")
    with caplog.at_level(logging.WARNING):
        name, reader = open_reader(root, DataConfig())
    assert caplog.messages == [
        f"{root}: no file names the classes, which are class_0, class_1 and so on: name them, as with --data.rename "
        f'"class_0=cat" "class_1=dog", or write the names, one a line, to {root}/classes.txt'
    ]
    first, _ = reader.read("train").records
    assert (name, reader.splits) == ("yolo", ("train", "validation", "test"))
    assert [item.name for item in first.objects] == ["class_0", "class_12"]
    assert [(fault.kind, fault.message) for fault in first.faults] == [
        ("unknown_class", "not a whole number from 0")
    ] * 2
    rename = tuple(f"class_{number}={name}" for number, name in enumerate(NAMES))
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), rename=("class_12=dog", *rename[:1]))
    caplog.clear()
    assert open_reader(root, config)[0] == "yolo"
    assert caplog.messages == []
    # The file that the line asks for.
    write_text(root / "classes.txt", "\n".join(NAMES))
    assert [item.name for item in open_reader(root, config)[1].read("test").records[0].objects] == ["ant"]


@pytest.mark.parametrize("rows", ["0 12 13 40 20\n", "0.5 0.5 0.5 0.5 0.5\n", "0 0.5 0.5 0.5\n", "0 0.5 0.5 0.5 0.5\n"])
def test_other_texts_of_numbers_are_not_labels_without_names(tmp_path, rows):
    """Pixels, no class, too few numbers, no image of that name; and nothing where another format fits."""
    PICTURES[0].save(tmp_path)
    name = "a_1" if rows != "0 0.5 0.5 0.5 0.5\n" else "numbers"
    write_text(tmp_path / f"{name}.txt", rows)
    with pytest.raises(FileNotFoundError, match="its format is not known"):
        open_reader(tmp_path, DataConfig())
    write_text(tmp_path / "a_1.txt", "0 0.5 0.5 0.5 0.5\n")
    write_text(tmp_path / "a_1.xml", PICTURES[0].xml())
    assert open_reader(tmp_path, DataConfig())[0] == "labelimg"
