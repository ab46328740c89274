"""One file of all images, which folders named after splits divide."""

import json
import re

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import Picture, coco_json, write_rows, write_text

PICTURES = [
    Picture(f"{split}{number}", split, (30, 40), (("cat", (0, 0, 9, 9 + number)),))
    for split in ("train", "test")
    for number in range(3)
]
HEADER = "filename,class,xmin,ymin,xmax,ymax"


def write(root, form, named=True, its=PICTURES):
    """One file, with the folders of the images in their names or without."""
    write_rows(root, its, HEADER, lambda p, *item: ",".join(map(str, (f"{p.split}/" * named + p.name, *item))))
    if form == "coco":
        (root / "labels.csv").unlink()
        content = coco_json(its)
        for image, picture in zip(content["images"], its, strict=True):
            image["file_name"] = f"{picture.split}/" * named + picture.name
        write_text(root / "annotations.json", json.dumps(content))
    return root


def reader_of(root):
    return open_reader(root, DataConfig(root=str(root)))[1]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("form", ["coco", "csv"])
def test_folders_divide_the_images_of_one_file(tmp_path, form, named):
    root = write(tmp_path / "set", form, named)
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test")
    for _ in range(2):
        train, test = (open_dataset(f"folder/{split}", config) for split in ("trainval", "test"))
        assert (train.image_ids, test.image_ids) == (("train0", "train1", "train2"), ("test0", "test1", "test2"))
    assert test.chosen == ""
    assert reader_of(root).places("test") == ("images/test",)
    (name,) = {path for path in root.iterdir() if path.suffix in (".csv", ".json")}
    name.write_text(re.sub(r"\bcat\b", "dog", name.read_text()))
    assert open_dataset("folder/test", config).classes == ("dog",), "the file belongs to its splits"


@pytest.mark.parametrize("form", ["coco", "csv"])
def test_faults_of_the_file_and_missing_images_are_kept(tmp_path, form):
    root = write(tmp_path, form)
    for name in ("train/train0.jpg", "test/test0.jpg"):
        (root / "images" / name).unlink()
    if form == "csv":
        write_text(root / "labels.csv", (root / "labels.csv").read_text() + ",cat,1,1,2,2\nlost.jpg,cat,1,1,2,2\n")
    else:
        content = json.loads((root / "annotations.json").read_text())
        content["annotations"].append("x")
        content["images"].append({"id": 99, "file_name": "lost.jpg"})
        write_text(root / "annotations.json", json.dumps(content))
    reader = reader_of(root)
    found = {
        split: [fault.value for record in reader.read(split).records for fault in record.faults]
        for split in reader.splits
    }
    assert found == {"train": ["lost.jpg", "train/train0.jpg"], "test": ["test/test0.jpg"]}
    assert [len(reader.read(split).faults) for split in reader.splits] == [1, 0]


def test_files_and_lists_of_splits_count_before_folders(tmp_path):
    """A file of all images beside those of the splits adds nothing to them."""
    root = write(tmp_path / "files", "csv")
    rows = (root / "labels.csv").read_text().splitlines(keepends=True)
    write_text(root / "train.csv", "".join(rows[:4]))
    write_text(root / "test.csv", "".join([rows[0], *rows[4:]]))
    for split in ("train", "test"):
        records = reader_of(root).read(split)
        assert (records.ids, records.faults) == (tuple(f"{split}{number}" for number in range(3)), ())
    root = write(tmp_path / "lists", "csv")
    write_text(root / "test.txt", "train0.jpg\ntest1.jpg\n")
    reader = reader_of(root)
    assert {split: reader.read(split).ids for split in reader.splits} == {
        "test": ("test1", "train0"),
        "all": ("test0", "test2", "train1", "train2"),
    }


@pytest.mark.parametrize("form", ["coco", "csv"])
@pytest.mark.parametrize("folders", ["main val", "train extra", "train test more", "test", "train"])
def test_folders_that_do_not_divide_all_images_are_no_splits(tmp_path, form, folders):
    """A folder `training shoes` beside `sandals`, or new images in a folder of their own, divides nothing."""
    places = [(folder, n) for folder in folders.split() for n in range(2)]
    its = [Picture(f"{folder}{n}", folder, (30, 40), (("cat", (0, 0, 9, 9)),)) for folder, n in places]
    reader = reader_of(write(tmp_path / "set", form, its=its))
    assert {split: len(reader.read(split).ids) for split in reader.splits} == {"all": len(its)}


def test_a_file_of_all_images_gives_none_back_that_the_files_of_splits_leave_out(tmp_path):
    root = write(tmp_path, "csv")
    rows = (root / "labels.csv").read_text().splitlines(keepends=True)
    write_text(root / "train.csv", "".join(rows[:3]))
    write_text(root / "test.csv", "".join([rows[0], *rows[4:]]))
    reader = reader_of(root)
    assert [len(reader.read(split).ids) for split in ("train", "test")] == [2, 3]
