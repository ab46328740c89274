"""Lists of VOC folders as other tools than VOC's write them."""

import dataclasses

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.formats.table import open_reader
from tests.data.formats.written import PICTURES, write_labelimg, write_text, write_voc


def lists_of(root, lists, pictures=PICTURES):
    """A VOC folder with these lists alone, and its reader."""
    write_voc(root, pictures)
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    for name, lines in lists.items():
        write_text(root / f"ImageSets/Main/{name}.txt", "".join(f"{line}\n" for line in lines))
    return open_reader(root, DataConfig())[1]


def prepared(root, faults="error"):
    policy = FaultPolicy(missing_image=faults, missing_annotation=faults)
    return DataConfig(root=str(root), tfds_dir=str(root / "tfds"), test="folder/test", faults=policy)


@pytest.mark.parametrize(
    "names", [("Train", "Validation", "Test"), ("TRAIN", "val", "TEST"), ("training", "Val", "test")]
)
def test_lists_are_of_the_split_that_they_name_in_any_case(tmp_path, names):
    ids = [["a_2", "a_1"], ["b_1"], ["t_1", "t_2"]]
    reader = lists_of(tmp_path, dict(zip(names, ids, strict=True)))
    assert set(reader.splits) == {"train", "validation", "test"}
    for split, name, its in zip(("train", "validation", "test"), names, ids, strict=True):
        assert [list(reader.read(known).ids) for known in (split, name)] == [its, its], "by the file's name too"


def test_a_list_in_another_case_does_not_replace_the_plain_one(tmp_path):
    reader = lists_of(tmp_path, {"Train": ["a_1"], "train": ["a_2"], "TrainVal": ["a_1", "b_1"], "smallTest": ["t_1"]})
    assert {name: list(reader.read(name).ids) for name in reader.splits} == {
        "Train": ["a_1"],
        "train": ["a_2"],
        "trainval": ["a_1", "b_1"],
        "smallTest": ["t_1"],
    }


def test_lists_of_classes_alone_are_those_of_their_splits(tmp_path):
    """Lists of VoTT: names of files with a mark for each class, and no train.txt."""
    lists = {
        "cat_train": ["a_1.jpg 1", "a_2.jpg -1"],
        "crash_test_train": ["a_2.jpg 1", "lost.jpg -1"],
        "cat_val": ["b_1.jpg -1"],
        "crash_test_val": ["b_1.jpg 1"],
        "cat_test": [],
    }
    reader = lists_of(tmp_path, lists)
    assert {name: list(reader.read(name).ids) for name in reader.splits} == {
        "train": ["a_1", "a_2", "lost.jpg"],
        "validation": ["b_1"],
    }
    assert [fault.kind for fault in reader.read("train").records[2].faults] == ["missing_annotation", "missing_image"]
    assert reader.read("train").faults == ()
    assert list(reader.read("crash_test_train").ids) == ["a_2", "lost.jpg"], "by the file's name too"
    with pytest.raises(FileNotFoundError, match=r"no list of a split 'test' \(there: train, validation\)$"):
        reader.read("test")
    data = [open_dataset(f"folder/{name}", prepared(tmp_path, "drop")) for name in ("trainval", "test")]
    assert [its.image_ids for its in data] == [("a_1", "a_2"), ("b_1",)]


def test_lists_of_classes_without_splits_are_one_data_set(tmp_path):
    ids = {"cat": ["a_1.jpg 1", "a_2.jpg -1", "t_1.jpg -1"], "bee": ["a_1.jpg -1", "a_2.jpg 1", "b_1.jpg 1"]}
    reader = lists_of(tmp_path, ids)
    assert reader.splits == ("bee", "cat")
    data = [open_dataset(f"folder/{name}", prepared(tmp_path)) for name in ("train", "test")]
    assert sorted(image_id for its in data for image_id in its.image_ids) == ["a_1", "a_2", "b_1", "t_1"]


@pytest.mark.parametrize("more", [{"train": ["a_1"]}, {"mine_test": ["t_1"]}, {"mine": ["t_1 1"]}])
def test_lists_of_classes_do_not_count_beside_lists_of_another_kind(tmp_path, more):
    reader = lists_of(tmp_path, {"cat_val": ["a_1 1", "b_1 1"], **more})
    assert reader.splits == tuple(sorted(["cat_val", *more]))


def test_quotes_around_ids_do_not_count(tmp_path):
    """Ids with spaces as written by Datumaro and CVAT."""
    spaced = [dataclasses.replace(p, stem=p.stem.replace("_", " img ")) for p in PICTURES]
    lists = {
        "train": ['"a img 1"', '  "a img 2" '],
        "cat_train": ['"a img 1" 1', '"a img 2"  -1'],
        "test": ['"t img 1" 1'],
    }
    reader = lists_of(tmp_path, lists, spaced)
    assert {name: list(reader.read(name).ids) for name in reader.splits} == {
        "test": ["t img 1"],
        "train": ["a img 1", "a img 2"],
    }
    assert all(record.path and not record.faults for record in reader.read("train").records)
    for name in ('"t_1"', '"a" b "c"', 'd"e"'):  # quotes of the names themselves
        dataclasses.replace(PICTURES[0], stem=name).save(tmp_path / "JPEGImages")
    write_text(tmp_path / "ImageSets/Main/test.txt", '"t_1"\n"a" b "c"\nd"e" 1\n')
    assert list(open_reader(tmp_path, DataConfig())[1].read("test").ids) == ['"t_1"', '"a" b "c"', 'd"e"']


@pytest.mark.parametrize("xml", ["xml", "annots", "JPEGImages", "labels/xmls"])
@pytest.mark.parametrize("below", ["", "VOC2026"])
def test_annotations_of_jpegimages_in_another_folder(tmp_path, xml, below):
    root = write_labelimg(tmp_path / below, images="JPEGImages", xml=xml)
    (root / "ImageSets/Main").mkdir(parents=True)
    name, reader = open_reader(tmp_path, DataConfig())
    records = reader.read("all").records
    assert (name, [len(record.objects) for record in records]) == ("labelimg", [len(p.objects) for p in PICTURES])
    assert not any(record.faults for record in records)
    write_text(root / "ImageSets/Main/train.txt", "a_1\n")
    hint = f"rename the folder of {xml}/a_1.xml to Annotations, or set --data.format labelimg"
    with pytest.raises(FileNotFoundError, match=f"has no folder Annotations .VOC format.; {hint}$"):
        open_reader(tmp_path, DataConfig())
    assert list(open_reader(tmp_path, DataConfig(format="labelimg"))[1].read("train").ids) == ["a_1"]


def test_jpegimages_without_annotations_anywhere_lack_a_folder(tmp_path):
    PICTURES[0].save(tmp_path / "JPEGImages")
    write_text(tmp_path / "project.xml", "<annotations/>")
    with pytest.raises(FileNotFoundError, match=r"has no folder Annotations \(VOC format\)$"):
        open_reader(tmp_path, DataConfig())


@pytest.mark.parametrize("main", [True, False])
def test_lists_beside_the_folder_main(tmp_path, main):
    """Those named after a split that name an image of the folder; and none where Main has lists."""
    lists_of(tmp_path, {"default": ["a_1", "b_1"]} if main else {})
    for name, lines in (
        ("train", ["a_1", "a_2"]), ("val", ["b_1.jpg"]), ("test", ["/data/t_1.jpg"]), ("testing", ["birds"]),
        ("classes", ["a_1"]), ("trainval", []),
    ):  # fmt: skip
        write_text(tmp_path / f"ImageSets/{name}.txt", "".join(f"{line}\n" for line in lines))
    reader = open_reader(tmp_path, DataConfig())[1]
    expected = {"default": ["a_1", "b_1"]} if main else {"train": ["a_1", "a_2"], "validation": ["b_1"]}
    expected |= {} if main else {"test": ["t_1"]}
    assert {name: list(reader.read(name).ids) for name in reader.splits} == expected
    if not main:
        with pytest.raises(
            FileNotFoundError, match=r"/ImageSets has no list of a split 'other' \(there: test, train, "
        ):
            reader.read("other")


def test_a_second_list_of_a_split_is_said(tmp_path, caplog):
    reader = lists_of(tmp_path, {"train": ["a_1", "a_2"], "val": ["b_1"], "valid": ["t_1"], "test": ["t_2"]})
    assert list(reader.read("validation").ids) == ["b_1"]
    main = tmp_path / "ImageSets/Main"
    assert f"{main}/valid.txt is not read, as {main}/val.txt is the list of the same split" in caplog.text
