"""COCO's JSON: numbers of images and classes, and files read back."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.evaluation.outputs.coco_json import (
    CocoIds,
    annotations_file,
    coco_annotations,
    coco_results,
    file_ids,
    own_ids,
    write_coco_results,
)
from frcnn_jax.evaluation.outputs.files import ResultFiles
from frcnn_jax.types import GroundTruth
from tests.data.voc_files import VocFiles, object_xml
from tests.evaluation.records import detections, truth

IDS = CocoIds({"a": 139, "b": 42}, (1, 90))


def test_results_by_hand():
    dets = {
        "a": detections(([0, 0, 10, 20], 0.5, 1), ([1.5, 2.25, 30, 40], 1e-6, 2)),
        "b": detections(([7, 8, 9, 10], 0.1, 1), ([7, 8, 9, 10], 0.3, 2), mask=[False, True]),
    }
    assert coco_results(IDS, dets) == [
        {"image_id": 139, "category_id": 1, "bbox": [0, 0, 10, 20], "score": 0.5},
        {"image_id": 139, "category_id": 90, "bbox": [1.5, 2.25, 28.5, 37.75], "score": 1e-6},
        {"image_id": 42, "category_id": 90, "bbox": [7, 8, 2, 2], "score": 0.3},
    ]


def test_annotations_by_hand():
    objects = GroundTruth(
        boxes=np.float32([[0, 0, 10, 20], [1, 2, 4, 4], [5, 5, 9, 6]]),
        labels=np.int32([1, 2, 2]),
        difficult=np.array([False, True, False]),
        crowd=np.array([False, False, True]),
    )
    found = coco_annotations(IDS, {"b": objects, "a": truth()}, ["cat", "dog"], {"a": (3, 4), "b": (30, 40)})
    assert found["images"] == [
        {"id": 42, "file_name": "b", "height": 30, "width": 40},
        {"id": 139, "file_name": "a", "height": 3, "width": 4},
    ]
    assert found["categories"] == [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}]
    rows = [
        (r["id"], r["image_id"], r["category_id"], r["bbox"], r["area"], r["iscrowd"]) for r in found["annotations"]
    ]
    assert rows == [
        (1, 42, 1, [0, 0, 10, 20], 200, 0),
        (2, 42, 90, [1, 2, 3, 2], 6, 1),
        (3, 42, 90, [5, 5, 4, 1], 4, 1),
    ]
    assert [row["ignore"] for row in found["annotations"]] == [0, 1, 0]


@pytest.mark.parametrize(
    ("images", "numbers"),
    [
        (["000012", "000007"], [12, 7]),
        (["2008_000001", "000007"], [1, 2]),
        (["01", "1"], [1, 2]),  # would be one image
        (["0", "1"], [1, 2]),
        (["9007199254740992", "5"], [9007199254740992, 5]),
        (["9007199254740993", "5"], [1, 2]),  # not a float
        (["9223372036854775809", "5"], [1, 2]),
        ([], []),
    ],
)
def test_numbers_of_images_that_have_none(images, numbers):
    ids = own_ids(images, 3)
    assert list(ids.images) == images
    assert list(ids.images.values()) == numbers
    assert ids.categories == (1, 2, 3)


def test_files(tmp_path):
    path, near = tmp_path / "results.json", np.nextafter(np.float32(0.07), np.float32(1))
    dets = {"a": detections(([0, 0, 10.12345, 20], near, 1), ([0, 0, 10, 20], 0.07, 1)), "b": detections()}
    write_coco_results(path, dets, IDS)
    rows = json.loads(path.read_text())
    assert [row["bbox"] for row in rows] == [[0, 0, 10.123, 20], [0, 0, 10, 20]]
    assert [np.float32(row["score"]) for row in rows] == [near, np.float32(0.07)]
    assert list(tmp_path.iterdir()) == [path]
    write_coco_results(path, dets, IDS, coco_annotations(IDS, {"b": truth(([1, 2, 4, 4], 1))}, ["cat", "dog"]))
    assert annotations_file(path) == tmp_path / "results.annotations.json"
    assert json.loads(annotations_file(path).read_text())["annotations"][0]["bbox"] == [1, 2, 3, 2]


def test_malformed_detections_write_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"image 'a': detections\.labels: 3 is outside 1 \.\.\. 2"):
        write_coco_results(tmp_path / "x.json", {"a": detections(([0, 0, 1, 1], 0.5, 3))}, IDS, {})
    assert not list(tmp_path.iterdir())


def coco_folder(root, **changes):
    """A folder in COCO's format, with gaps in its numbers; `changes` are keys of the file of a split."""
    random = np.random.default_rng(0)
    for split, first in (("train", 500), ("test", 40)):
        (root / split).mkdir(parents=True)
        images = [{"id": first + 3 * i, "file_name": f"{split}{i}.png", "width": 20, "height": 16} for i in range(3)]
        for image in images:
            pixels = random.integers(0, 256, (16, 20, 3), np.uint8)
            cv2.imwrite(str(root / split / image["file_name"]), pixels)
        objects = [
            {"id": i, "image_id": image["id"], "category_id": (90, 7)[i % 2], "bbox": [1, 2, 5, 6], "iscrowd": 0}
            for i, image in enumerate(images)
        ]
        content = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "unused"}, {"id": 90, "name": "cat"}],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(content | changes.get(split, {})))
    return root


def open_folder(root, tmp_path, split="test", **settings):
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "prepared"), **settings)
    return open_dataset(f"folder/{split}", config), config


def test_numbers_are_those_of_the_files_that_the_data_set_comes_from(tmp_path):
    dataset, config = open_folder(coco_folder(tmp_path / "data"), tmp_path)
    assert dataset.classes == ("cat", "dog")
    ids = file_ids(dataset, config)
    assert [ids.images[image] for image in dataset.image_ids] == [40, 43, 46]
    assert ids.categories == (90, 7)
    renamed, config = open_folder(tmp_path / "data", tmp_path, rename=("dog=animal",))
    assert renamed.classes == ("animal", "cat")
    assert file_ids(renamed, config).categories == (7, 90)


def test_ids_that_are_texts_stay_texts(tmp_path):
    """pycocotools compares them with those of the file."""
    changes = {}
    for split, first in (("test", "0"), ("train", "1")):
        stated = [(f"0{first}{i}", f"{split}{i}.png") for i in range(3)]
        changes[split] = {
            "images": [{"id": key, "file_name": name, "width": 20, "height": 16} for key, name in stated],
            "annotations": [
                {"id": key, "image_id": key, "category_id": "7", "bbox": [1, 2, 5, 6]} for key, _ in stated
            ],
            "categories": [{"id": "7", "name": "dog"}],
        }
    dataset, config = open_folder(coco_folder(tmp_path / "data", **changes), tmp_path)
    ids = file_ids(dataset, config)
    assert (list(ids.images.values()), ids.categories) == (["000", "001", "002"], ("7",))


def test_numbers_that_say_two_things_are_not_taken(tmp_path):
    """Joined files of two splits that both count from 1, and two categories for one class."""
    twice = {"images": [{"id": 40, "file_name": "train0.png", "width": 20, "height": 16}], "annotations": []}
    dataset, config = open_folder(coco_folder(tmp_path / "data", train=twice), tmp_path)
    assert file_ids(dataset, config) is not None
    both, config = open_folder(tmp_path / "data", tmp_path, rename=("cat=animal", "dog=animal"))
    assert both.classes == ("animal",)
    assert file_ids(both, config) is None
    joined = SimpleNamespace(name="folder/all", image_ids=("train0", "test0"), classes=("cat", "dog"))
    assert file_ids(joined, config) is None


def test_other_formats_have_no_numbers(tmp_path):
    files = VocFiles(tmp_path / "data")
    files.image("a", object_xml("cat", (5, 5, 30, 25)))
    files.split("test", "a")
    assert file_ids(*open_folder(tmp_path / "data", tmp_path)) is None
    assert file_ids(SimpleNamespace(name="voc/2007/test"), DataConfig()) is None


def test_results_for_a_data_set_of_cocos_format_have_no_annotations_beside(tmp_path):
    dataset, config = open_folder(coco_folder(tmp_path / "data"), tmp_path)
    files = ResultFiles(coco_results=tmp_path / "found.json", coco_ids=file_ids(dataset, config))
    files.check(dataset)
    found = {image: detections(([1, 2, 6, 8], 0.5, 2)) for image in dataset.image_ids}
    files.write(found, dataset, min_score=0.5)
    row = {"category_id": 7, "bbox": [1, 2, 5, 6], "score": 0.5}
    assert json.loads((tmp_path / "found.json").read_text()) == [{"image_id": i, **row} for i in (40, 43, 46)]
    assert not annotations_file(tmp_path / "found.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_annotations_of_other_ids_beside_the_results_are_refused_and_never_removed(tmp_path, overwrite):
    dataset, config = open_folder(coco_folder(tmp_path / "data"), tmp_path)
    path, found = tmp_path / "test.json", {image: detections() for image in dataset.image_ids}
    annotations_file(path).write_text("of other data")
    files = ResultFiles(coco_results=path, coco_ids=file_ids(dataset, config), overwrite=overwrite)
    message = rf"^{annotations_file(path)} would be taken for the annotations of test\.json.*: move it away, or give"
    with pytest.raises(FileExistsError, match=message):
        files.check(dataset)
    files.write(found, dataset, min_score=0.5)
    assert annotations_file(path).read_text() == "of other data"


def test_pycocotools_reads_both_files(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    dataset, config = open_folder(coco_folder(tmp_path / "data"), tmp_path)
    truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
    ids, path = own_ids(dataset.image_ids, 2), tmp_path / "found.json"
    found = {image: detections((boxes.boxes[0], 0.5, int(boxes.labels[0]))) for image, boxes in truth.items()}
    write_coco_results(path, found, ids, coco_annotations(ids, truth, dataset.classes))
    objects = coco.COCO(str(annotations_file(path)))
    assert [item["bbox"] for item in objects.loadRes(str(path)).anns.values()] == [[1, 2, 5, 6]] * 3
    # The data set's own file with its ids, as on a server.
    write_coco_results(path, found, file_ids(dataset, config))
    theirs = coco.COCO(str(tmp_path / "data/test/_annotations.coco.json"))
    assert {item["image_id"] for item in theirs.loadRes(str(path)).anns.values()} == {40, 43, 46}
    capsys.readouterr()
