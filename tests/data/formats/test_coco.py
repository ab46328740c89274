"""COCO's JSON as written by COCO, Roboflow, CVAT and scripts, and its faults."""

import json
import logging

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.files import file_hash
from frcnn_jax.data.formats.coco.reader import CocoReader
from tests.data.formats.written import PICTURES, Picture, by_split, coco_json, short, write_coco, write_text


def one_file(root, change=lambda content: None, name="annotations/instances_default.json", **how):
    """All pictures in `images`, and one file, as CVAT writes it; its only split."""
    for picture in PICTURES:
        picture.save(root / "images")
    content = coco_json(PICTURES, **how)
    change(content)
    write_text(root / name, json.dumps(content))
    reader = CocoReader(root, DataConfig())
    return reader.read(reader.splits[0])


def kinds(records):
    faults = [*records.faults, *(fault for record in records.records for fault in record.faults)]
    return [(fault.kind, fault.object, fault.field, fault.value) for fault in faults]


def test_roboflow(tmp_path):
    """A file beside the images of each split, and a category 0 that stands for all others and has no objects."""
    for split, its in by_split(PICTURES).items():
        folder = tmp_path / {"validation": "valid"}.get(split, split)
        for picture in its:
            picture.save(folder)
        content = coco_json(its)
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        write_text(folder / "_annotations.coco.json", json.dumps(content))
    write_text(tmp_path / "README.roboflow.txt", "animals\n")
    reader = CocoReader(tmp_path, DataConfig())
    assert reader.splits == ("train", "validation", "test")
    assert [record.image_id for record in reader.read("train").records] == ["a_1", "a_2"]
    names = {item.name for split in reader.splits for record in reader.read(split).records for item in record.objects}
    assert names == {"ant", "bee", "cat"}


def test_crowds_sizes_and_images_without_objects(tmp_path):
    def change(content):
        content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"counts": [3], "size": [30, 40]}}
        content["annotations"][2].pop("iscrowd")
        content["images"][1] |= {"height": 0, "width": 0}
        content["images"][2].pop("height")
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 13]

    records = one_file(tmp_path, change)
    assert kinds(records) == []
    first, second, third, empty, _ = records.records
    assert [item.crowd for item in first.objects] == [False, True]
    assert [item.crowd for item in second.objects[:1]] == [False]
    assert (first.size, second.size, third.size) == ((30, 40), (0, 0), (0, 0)), "no size is stated"
    assert (empty.image_id, empty.objects, empty.path is None) == ("t_1", (), False)


def test_faults_are_told_with_file_image_and_object(tmp_path):
    def change(content):
        items = content["annotations"]
        items[0]["category_id"] = 99
        items[1]["bbox"] = [1, 2, 3]
        items[2]["bbox"] = [1, 2, float("nan"), 4]
        items[3]["iscrowd"] = 2
        items[4]["bbox"] = None
        items[5]["image_id"] = 77
        items.append("x")
        content["images"].append({"id": 50, "file_name": "lost.jpg", "height": 3, "width": 4})
        content["images"].append({"id": 10, "file_name": "a_2.jpg"})
        content["images"].append({"id": 51, "file_name": "images/b_1.jpg", "height": 41, "width": 29})
        content["images"].append({"id": 52})

    records = one_file(tmp_path, change)
    assert kinds(records) == [
        ("unreadable_annotation", 9, "annotation", "x"),
        ("duplicate_id", None, "images[6]", "10"),
        ("unreadable_annotation", None, "images[8]", '{"id": 52}'),
        ("missing_image", 5, "image_id", "77"),
        ("duplicate_id", None, "image", "images/b_1.jpg"),
        ("unknown_class", 0, "category_id", "99"),
        ("unreadable_annotation", 1, "bbox", "[1, 2, 3]"),
        ("unreadable_annotation", 2, "bbox", "[1, 2, nan, 4]"),
        ("unreadable_annotation", 3, "iscrowd", "2"),
        ("unreadable_annotation", 4, "bbox", "None"),
        ("missing_image", None, "image", "lost.jpg"),
    ]
    faulty = next(record for record in records.records if record.path is None)
    assert str(faulty.faults[0]) == (
        "annotations/instances_default.json (lost.jpg): image = 'lost.jpg': there is no such image in the folder "
        "[missing_image]"
    )


@pytest.mark.parametrize("folder", ["", "images/", "C:\\Users\\me\\images\\", "/content/data/images/"])
def test_file_names_may_have_folders_of_this_or_another_machine(tmp_path, folder):
    records = one_file(tmp_path, folder=folder)
    assert kinds(records) == []
    assert [record.image_id for record in records.records] == ["a_1", "a_2", "b_1", "t_1", "t_2"]


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """Each split counts its images from 1, as many tools do."""
    pictures = [Picture("001", split, (20 + 10 * number, 33)) for number, split in enumerate(("train", "test"))]
    pictures.append(Picture("002", "train", (25, 33)))
    reader = CocoReader(write_coco(tmp_path, pictures), DataConfig())
    found = {(split, r.image_id): r.path.parent.name for split in reader.splits for r in reader.read(split).records}
    assert found == {
        ("train", "train2017/001"): "train2017",
        ("train", "002"): "train2017",
        ("test", "test2017/001"): "test2017",
    }
    (tmp_path / "test2017/001.jpg").unlink()
    (tmp_path / "test2017/other.jpg").write_bytes(pictures[0].encoded())
    assert kinds(CocoReader(tmp_path, DataConfig()).read("test")) == [("missing_image", None, "image", "001.jpg")]
    # Without folders of their own the splits share the images.
    shared = [Picture(str(number), split, (20, 33)) for number, split in enumerate(("train", "test"))]
    for picture in shared:
        picture.save(tmp_path / "shared/train")
        write_text(tmp_path / f"shared/{picture.split}.json", json.dumps(coco_json([picture])))
    assert kinds(CocoReader(tmp_path / "shared", DataConfig()).read("test")) == []


def test_two_files_of_one_split_are_named_but_for_cocos_key_points(tmp_path):
    write_coco(tmp_path)
    text = (tmp_path / "annotations/instances_train2017.json").read_text()
    write_text(tmp_path / "annotations/person_keypoints_train2017.json", text)
    write_text(tmp_path / "annotations/captions_train2017.json", '{"images": [], "annotations": []}')
    assert len(CocoReader(tmp_path, DataConfig()).read("train").records) == 2
    write_text(tmp_path / "annotations/instances_train_old.json", text)
    message = (
        r"annotations/instances_train2017.json and annotations/instances_train_old.json are both of split 'train', but "
        r"both list a_1.jpg; leave one of them"
    )
    with pytest.raises(ValueError, match=message):
        CocoReader(tmp_path, DataConfig())


def test_a_file_that_is_not_json_is_named(tmp_path):
    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(path.read_text()[:-1])
    with pytest.raises(
        ValueError, match=r"instances_val2017\.json: not JSON, export it again \(Expecting.*line 1 column"
    ):
        CocoReader(tmp_path, DataConfig())


def test_two_names_of_one_category_are_refused(tmp_path):
    def add(name):
        def change(content):
            used = content["annotations"][0]["category_id"]
            (first,) = (item["name"] for item in content["categories"] if item["id"] == used)
            content["categories"].append({"id": used, "name": name or f" {first} "})

        return change

    with pytest.raises(
        ValueError, match=r"json: categories\[\d\], '\w+', and categories\[\d\], 'another', have one id, \d+: give one"
    ):
        one_file(tmp_path / "another", add("another"))
    found, plain = one_file(tmp_path / "spaces", add("")), one_file(tmp_path / "plain")
    assert [record.objects for record in found.records] == [record.objects for record in plain.records]


def test_a_second_name_of_an_id_without_objects_is_no_mistake(tmp_path):
    def change(content):
        content["categories"] += [{"id": 99, "name": "one"}, {"id": 99, "name": "two"}]

    assert [r.objects for r in one_file(tmp_path / "a", change).records] == [
        r.objects for r in one_file(tmp_path / "b").records
    ]


def test_ids_may_be_text_and_the_file_begin_with_a_mark(tmp_path):
    def change(content):
        for item in content["annotations"]:
            item["image_id"], item["category_id"] = str(item["image_id"]), float(item["category_id"])

    plain, texts = one_file(tmp_path / "plain"), one_file(tmp_path / "texts", change)
    path = tmp_path / "texts/annotations/instances_default.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = CocoReader(tmp_path / "texts", DataConfig()).read("all")
    for records in (texts, marked):
        assert [r.objects for r in records.records] == [r.objects for r in plain.records]


def test_what_is_in_no_split_is_left_out_and_said(tmp_path, caplog):
    write_coco(tmp_path)
    everything = coco_json(PICTURES)
    write_text(tmp_path / "annotations/everything.json", json.dumps(everything))
    with caplog.at_level(logging.WARNING):
        assert CocoReader(tmp_path, DataConfig()).splits == ("train", "validation", "test", "all")
    assert caplog.text == "", "all of them are in the splits too"
    extra = Picture("extra", "train", (20, 20))
    extra.save(tmp_path)
    write_text(tmp_path / "annotations/everything.json", json.dumps(coco_json([*PICTURES, extra])))
    with caplog.at_level(logging.WARNING):
        CocoReader(tmp_path, DataConfig())
    assert f"{tmp_path}: left out 1 image in no folder or file of a split (" in caplog.text
    assert short("validation") == "val"


def test_it_is_prepared_anew_where_anything_changed(tmp_path):
    """No record is built to notice that nothing has changed."""
    root = write_coco(tmp_path / "set")
    faults = FaultPolicy(size_mismatch="drop")
    config = DataConfig(root=str(root), tfds_dir=str(tmp_path / "tfds"), test="folder/test", faults=faults)
    first = open_dataset("folder/trainval", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CocoReader, "read", lambda *_: pytest.fail("read again"))
        assert open_dataset("folder/trainval", config).directory == first.directory
    seen = {first.directory}
    text = (root / "annotations/instances_val2017.json").read_text()
    for change in (
        lambda: write_text(root / "annotations/instances_val2017.json", text.replace("1.3", "1.4")),
        lambda: PICTURES[0].save(root / "train2017", "a_2.jpg"),
        lambda: (root / "val2017").rename(root / "validation"),
        lambda: Picture("b_1", "test", (97, 61)).save(root / "test2017"),
    ):
        change()
        seen.add(open_dataset("folder/trainval", config).directory)
    assert len(seen) == 4, "an image that no file names changes nothing"


@pytest.mark.parametrize("order", [1, -1])
def test_several_files_of_one_split_are_joined(tmp_path, order):
    """Each with ids of its own; the categories are the same, in any order."""
    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    whole = CocoReader(tmp_path, DataConfig()).read("train").records
    path.unlink()
    for letter, picture in zip("ab", [p for p in PICTURES if p.split == "train"], strict=True):
        content = coco_json([picture])
        content["categories"] = content["categories"][:: order if letter == "b" else 1]
        write_text(tmp_path / f"annotations/instances_train_{letter}.json", json.dumps(content))
    reader = CocoReader(tmp_path, DataConfig())
    parts = reader.read("train").records
    boxes = [[[(item.name, item.box) for item in record.objects] for record in its] for its in (parts, whole)]
    assert boxes[0] == boxes[1]
    assert [(record.path, record.size) for record in parts] == [(record.path, record.size) for record in whole]
    before = reader.content(["train"], file_hash)
    content["images"][0]["note"] = 1
    write_text(tmp_path / "annotations/instances_train_b.json", json.dumps(content))
    assert CocoReader(tmp_path, DataConfig()).content(["train"], file_hash) != before
    content["categories"][0]["name"] = "other"
    write_text(tmp_path / "annotations/instances_train_b.json", json.dumps(content))
    files = "annotations/instances_train_a.json and annotations/instances_train_b.json"
    with pytest.raises(ValueError, match=f"{files} are both of split 'train', but their categories differ; leave one"):
        CocoReader(tmp_path, DataConfig())


@pytest.mark.parametrize(
    ("more", "box"),
    [
        ({"attributes": {"occluded": False, "rotation": 90.0}}, (13, 5, 17, 15)),
        ({"attributes": {"rotation": "450"}}, (13, 5, 17, 15)),
        ({"attributes": {"rotation": 0.0}}, None),
        ({"attributes": {"rotation": "left"}}, None),
        ({"attributes": ["rotation"]}, None),
        ({"attributes": {"rotation": 90.0}, "segmentation": [[10, 8, 20, 8, 20, 12]]}, None),
    ],
)
def test_rotated_boxes_of_cvat(tmp_path, more, box):
    """The box around the turned rectangle, counted; an outline is turned already."""

    def change(content):
        content["annotations"][0] |= {"bbox": [10, 8, 10, 4], **more}

    first = one_file(tmp_path, change).records[0]
    assert first.objects[0].box == pytest.approx(box or (10, 8, 20, 12))
    assert [(note.kind, note.count) for note in first.notes] == ([("rotated", 1)] if box else [])
