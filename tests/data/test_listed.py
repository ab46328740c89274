"""COCO files that list more images than the folder has: the existing ones are read, with a line in the log."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import DatasetFaultError, open_dataset
from tests.data.formats.written import Picture, write_coco, write_csv


def listed(root, train, test, missing, write=write_coco):
    """Images to train and to test on; those to be missing are without file."""
    pictures = [Picture(f"{split}{n}", split, (20, 24), (("cat", (1, 2, 9, 10)),)) for split, count in
                (("train", train), ("test", test)) for n in range(count)]  # fmt: skip
    write(root, pictures)
    for name in missing:
        next(root.rglob(f"{name}.jpg")).unlink()
    return DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"), test="folder/test")


def test_images_without_a_file_are_dropped_and_counted_however_many(tmp_path, caplog):
    """203 of 400 in one set; here 8 of 12."""
    missing = [*(f"train{n}" for n in range(7)), "test1"]
    config = listed(tmp_path / "set", 10, 2, missing)
    with caplog.at_level(logging.WARNING):
        train, test = (open_dataset(f"folder/{split}", config) for split in ("trainval", "test"))
    assert (train.image_ids, train.dropped) == (("train7", "train8", "train9"), {"missing_image": 7})
    assert (test.image_ids, test.dropped) == (("test0",), {"missing_image": 1})
    (said,) = [text for text in caplog.messages if "DROPPED" in text]
    assert said.startswith(
        f"{tmp_path}/set: DROPPED 8 images (missing_image 8): listed, but there is no file; the other 4 are used; the "
        "first: annotations/instances_train2017.json (train0.jpg): image = 'train0.jpg': there is no such image in the "
        "folder [missing_image]; all of them are in "
    )
    assert len(Path(said.rpartition(" ")[2]).read_text().splitlines()) == 8
    # An image that comes later is noticed; a strict policy stops, also where all is prepared.
    with pytest.raises(DatasetFaultError, match=r"has 8 faults \(missing_image 8\)"):
        open_dataset("folder/test", dataclasses.replace(config, faults=FaultPolicy(tolerance=0)))
    Picture("train0", "train", (20, 24)).save(tmp_path / "set/train2017")
    assert len(open_dataset("folder/train", config)) == 4


@pytest.mark.parametrize(
    ("train", "test", "missing"),
    [
        (10, 2, [*(f"train{n}" for n in range(9))]),  # 3 of 12
        (4, 2, ["test0", "test1"]),
    ],
    ids=["less than a third is there", "a split keeps none"],
)
def test_where_too_few_are_there_it_stops(tmp_path, train, test, missing):
    config = listed(tmp_path / "set", train, test, missing)
    with pytest.raises(DatasetFaultError, match=rf"missing_image {len(missing)}\b"):
        open_dataset("folder/train", config)


def test_other_faults_are_a_share_of_the_images_that_are_there(tmp_path):
    config = listed(tmp_path / "set", 10, 2, [f"train{n}" for n in range(7)])
    path = tmp_path / "set/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][9]["bbox"] = [1, 2, 0, 3]
    path.write_text(json.dumps(content))
    for tolerance in (0.21, 0.19):  # one of five objects
        policy = dataclasses.replace(config, faults=FaultPolicy(tolerance=tolerance))
        if tolerance > 0.2:
            assert open_dataset("folder/train", policy).dropped == {"degenerate_box": 1, "missing_image": 7}
            continue
        with pytest.raises(DatasetFaultError, match=r"has 1 fault \(degenerate_box 1\)") as caught:
            open_dataset("folder/train", policy)
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert " ".join(lines[3]) == "missing_image 7 - drop: listed, but there is no file; the other 5 are used"
    assert "of 5 images and 5 objects" in str(caught.value)
    assert "--data.faults.degenerate-box drop\n" in str(caught.value) + "\n"


def test_the_share_for_the_test_is_one_of_images_that_are_there(tmp_path):
    """Also where none of those that are chosen first has a file."""
    config = listed(tmp_path / "set", 6, 0, [])
    chosen = open_dataset("folder/test", config).image_ids
    for name in chosen:
        (tmp_path / f"set/train2017/{name}.jpg").unlink()
    train, test = (open_dataset(f"folder/{split}", config) for split in ("trainval", "test"))
    assert (len(train), len(test), len(chosen)) == (3, 1, 2)
    assert (train.dropped, test.dropped) == ({}, {"missing_image": 2}), "they stay in the split of their names"
    assert not set(chosen) & {*train.image_ids, *test.image_ids}


def test_rows_without_an_image_stay_faults(tmp_path):
    """CSV has no list of images beside the annotations."""
    with pytest.raises(DatasetFaultError, match="missing_image 2"):
        open_dataset("folder/train", listed(tmp_path / "set", 10, 2, ["train0", "train1"], write_csv))
