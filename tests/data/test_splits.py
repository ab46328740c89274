"""The rule of splits: training and test images of any folder."""

import dataclasses
import hashlib
import logging
import pickle
import re
import shutil

import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from tests.data.formats.written import Picture, short, write_coco, write_labelimg, write_text, write_voc, write_yolo
from tests.data.voc_files import VocFiles, object_xml

NAMES = [f"{letter}{number}" for letter in "abcdef" for number in range(10)]


def pictures(split, names, size=(20, 24)):
    return [Picture(name, split, size, (("cat", (1, 2, 9, 10)),)) for name in names]


def config_of(root, **settings):
    settings = {"train": ("folder/trainval",), "test": "folder/test"} | settings
    return DataConfig(root=str(root), tfds_dir=str(root.parent / "tfds"), **settings)


def ids(config, *splits):
    return [open_dataset(f"folder/{split}", config).image_ids for split in splits]


@pytest.mark.parametrize("write", [write_coco, write_yolo])
@pytest.mark.parametrize(
    ("there", "train", "test"),
    [
        (("train", "validation", "test"), ["train0", "train1", "validation0", "validation1"], ["test0", "test1"]),
        (("train", "validation"), ["train0", "train1"], ["validation0", "validation1"]),
        (("train", "test"), ["train0", "train1"], ["test0", "test1"]),
        (("validation", "test"), ["validation0", "validation1"], ["test0", "test1"]),
    ],
)
def test_splits_of_a_folder(tmp_path, write, there, train, test, caplog):
    write(tmp_path / "set", [p for split in there for p in pictures(split, [f"{split}0", f"{split}1"])])
    config = config_of(tmp_path / "set")
    with caplog.at_level(logging.INFO, "frcnn_jax"):
        assert ids(config, "trainval", "test") == [tuple(train), tuple(test)]
        assert ids(config, "trainval", "test") == [tuple(train), tuple(test)]
    (said,) = [text for text in caplog.messages if "named classes have no object" not in text]
    sources = {name: f"annotations/instances_{short(name)}2017.json" for name in there}
    sources = sources if write is write_coco else {name: f"images/{short(name)}" for name in there}
    chosen = "" if "test" in there else ", those to validate with, not trained on, as there are no test images"
    tested = "validation" if chosen else "test"
    trained = " and ".join(sources[name] for name in there if name != tested)
    assert said == (
        f"{tmp_path / 'set'}: layout {'coco' if write is write_coco else 'yolo'}, 1 class (cat); "
        f"train: {len(train)} images of {trained}; test: 2 images of {sources[tested]}{chosen}"
    ), "once"
    assert {record.levelno for record in caplog.records if record.getMessage() == said} == {logging.INFO}
    for split in there:
        assert ids(config, split) == [(f"{split}0", f"{split}1")]
    tested = open_dataset("folder/test", config)
    assert pickle.loads(pickle.dumps(tested)).chosen == tested.chosen == chosen.removeprefix(", ")
    assert [
        open_dataset(f"folder/{split}", config).chosen for split in ("trainval", "validation" if chosen else "test")
    ] == ["", ""]


def held_out(names, share):
    """By the formula, which must not change: what was trained on would be tested."""
    places = {name: int(hashlib.sha256(name.encode()).hexdigest()[:14], 16) / 16**14 for name in names}
    return tuple(sorted(name for name, place in places.items() if place < share))


def test_a_tenth_is_chosen_by_the_names(tmp_path, caplog):
    """The same in every form and order, and kept when images are added."""
    tested = held_out(NAMES, 0.1)
    assert tested == ("c0", "c4", "d0", "e9", "f8", "f9"), "written down: the same on every machine"
    for number, write in enumerate((write_labelimg, write_coco, write_voc)):
        root = tmp_path / str(number)
        its = pictures("train", NAMES) if write is not write_labelimg else pictures("", NAMES[::-1])
        write(root, its)
        with caplog.at_level(logging.INFO, "frcnn_jax"):
            train, test = ids(config_of(root), "trainval", "test")
            again = ids(config_of(root), "train")[0]
        assert test == tested
        assert sorted(train) == sorted(set(NAMES) - set(tested))
        assert again == train
        said = "test: 6 images, each drawn by its name with a chance of 0.1 (data.split), as there are no test images"
        its = [text for text in caplog.messages if "named classes have no object" not in text]
        assert its[0].startswith(
            f"{root}: layout {('labelimg', 'coco', 'voc')[number]}, 1 class (cat); train: 54 images"
        )
        assert its[0].endswith(f"; {said}")
        caplog.clear()
    more = [*NAMES, *(f"g{number}" for number in range(20))]
    write_labelimg(tmp_path / "0", pictures("", more[60:]))
    (test,) = ids(config_of(tmp_path / "0"), "test")
    assert test == held_out(more, 0.1)
    assert set(tested) <= set(test)
    assert ids(config_of(tmp_path / "0", split=0.5), "test") == [held_out(more, 0.5)]


@pytest.mark.parametrize("write", [write_labelimg, write_coco, write_voc])
def test_where_all_that_is_held_out_is_faulty_a_share_is_named(tmp_path, write):
    """One that has an image in the test, and leaves images to train on."""
    root = write(tmp_path / "set", pictures("" if write is write_labelimg else "train", NAMES))
    for path in root.rglob("*.jpg"):
        if path.stem in held_out(NAMES, 0.1):
            path.write_bytes(path.read_bytes()[:-2])
    config = config_of(root, faults=FaultPolicy(unreadable_image="drop"), rename=("cat=dog",))
    (train,) = ids(config, "trainval")
    assert sorted(train) == sorted(set(NAMES) - set(held_out(NAMES, 0.1)))
    with pytest.raises(ValueError, match=r"the images chosen for the test \(6\) were all dropped") as caught:
        ids(config, "test")
    share = re.search(r"set another share, as with --data.split (\S+)$", str(caught.value))[1]
    train, test = ids(dataclasses.replace(config, split=float(share)), "trainval", "test")
    tested = held_out(train + test, float(share))
    assert tested
    assert (sorted(test), len(train) + len(test)) == (list(tested), 54)


@pytest.mark.parametrize("names", [["a0", "a1"], ["a1", "b0"]])
def test_where_one_usable_image_is_left_no_share_is_named(tmp_path, names):
    root = write_labelimg(tmp_path / "set", pictures("", names))
    config = config_of(root, split=1e-9, faults=FaultPolicy(unreadable_image="drop"))
    (test,) = ids(config, "test")
    path = next(root.rglob(f"{test[0]}.jpg"))
    path.write_bytes(path.read_bytes()[:-2])
    assert len(ids(config, "trainval")[0]) == 1
    with pytest.raises(ValueError, match=r"chosen for the test \(1\) were .*; put them right, or add images$"):
        ids(config, "test")


@pytest.mark.parametrize(
    ("names", "share"), [(["a0", "a1"], 0.01), (["a0", "a1"], 0.999999), (["b1", "b2", "b3"], 1e-9)]
)
def test_at_least_one_image_is_tested_and_one_trained_on(tmp_path, names, share):
    write_labelimg(tmp_path / "set", pictures("", names))
    train, test = ids(config_of(tmp_path / "set", split=share), "trainval", "test")
    assert sorted([*train, *test]) == names
    assert train
    assert test


def test_one_image_is_not_enough(tmp_path):
    write_labelimg(tmp_path / "set", pictures("", ["a0"]))
    with pytest.raises(
        ValueError, match=r"set: split 'test' has no images: data\.split = 0\.1 keeps none of a "
    ) as caught:
        ids(config_of(tmp_path / "set"), "test")
    options = re.search(r"--data.split (\S+) --data.test (\S+)$", str(caught.value))
    config = config_of(tmp_path / "set", split=float(options[1]), test=options[2])
    assert ids(config, "trainval", options[2].removeprefix("folder/")) == [("a0",)] * 2


def test_images_held_out_have_an_object(tmp_path):
    """Else a share is named with which they have, and which leaves some to train on."""
    tested = held_out(NAMES[:25], 0.1)
    its = [p for p in pictures("", NAMES[:25]) if p.stem not in tested]
    root = write_labelimg(tmp_path / "set", [*its, *(Picture(name, "", (20, 24)) for name in tested)])
    for split in ("test", "trainval"):
        with pytest.raises(
            ValueError, match=rf"^{root}: none of the images chosen for the test \(2\) has an obj"
        ) as caught:
            ids(config_of(root), split)
    share = re.search(r"; set another share, as with --data.split (\S+)$", str(caught.value))[1]
    config = config_of(root, split=float(share))
    train, test = (open_dataset(f"folder/{split}", config) for split in ("trainval", "test"))
    assert all(any(len(truth.boxes) for truth in data.annotations) for data in (train, test))
    assert ids(config_of(root, test="voc/2007/test"), "test") == [tested]


def test_an_empty_list_names_the_file_and_another_split(tmp_path):
    root = write_voc(tmp_path / "set", pictures("train", ["a"]) + pictures("validation", ["b"]))
    write_text(root / "ImageSets/Main/test.txt", "")
    message = "split 'test' has no images: ImageSets/Main/test.txt lists none; add some, or give another split, as "
    with pytest.raises(ValueError, match=f"^{root}: {re.escape(message)}--data.test folder/validation$"):
        ids(config_of(root), "test")
    assert ids(config_of(root, test="folder/validation"), "trainval", "validation") == [("a",), ("b",)]


def test_the_line_about_many_classes_and_folders_is_short(tmp_path, caplog):
    its = [Picture(f"{n}", "", (20, 24), ((f"c{n:02}", (1, 2, 9, 10)),)) for n in range(14)]
    for picture in its:
        write_labelimg(tmp_path / "set", [picture], images=f"f{picture.stem}", xml=f"f{picture.stem}")
    with caplog.at_level(logging.INFO, "frcnn_jax"):
        ids(config_of(tmp_path / "set"), "test")
    names = ", ".join(f"c{n:02}" for n in range(12))
    assert f"layout labelimg, 14 classes ({names} and 2 more); train: " in caplog.text
    assert re.search(
        r"train: \d+ images of 14 folders, the first the folder f0; test: \d+ images?, each drawn by", caplog.text
    )


def test_what_roboflow_made_of_one_image_stays_together(tmp_path):
    names = [
        f"{name}_jpg.rf.{hashlib.md5(f'{name}{copy}'.encode()).hexdigest()}" for name in NAMES[:20] for copy in "xyz"
    ]
    write_labelimg(tmp_path / "set", pictures("", names))
    train, test = ids(config_of(tmp_path / "set", split=0.3), "trainval", "test")
    of_train, of_test = ({name.split(".rf.")[0] for name in its} for its in (train, test))
    assert not of_train & of_test
    assert of_test == set(held_out([f"{name}_jpg" for name in NAMES[:20]], 0.3))
    assert len(test) == 3 * len(of_test)


def test_nothing_is_kept_on_request(tmp_path):
    write_labelimg(tmp_path / "all", pictures("", NAMES[:5]))
    config = config_of(tmp_path / "all", split=0.0)
    assert ids(config, "trainval") == [tuple(NAMES[:5])]
    with pytest.raises(FileNotFoundError, match="has no split 'test'"):
        ids(config, "test")
    write_coco(tmp_path / "two", [*pictures("train", ["a"]), *pictures("validation", ["b"])])
    assert ids(config_of(tmp_path / "two", split=0.0), "trainval", "val") == [("a", "b"), ("b",)]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"data\.split must be at least 0 and below 1"):
        DataConfig(split=share)


def test_images_of_the_test_are_not_trained_on_by_their_content(tmp_path, caplog):
    """Whatever their names and the split that is tested: validation, and the share of one pool."""
    root = write_coco(tmp_path / "set", [*pictures("train", ["a", "b", "c"]), *pictures("validation", ["d", "e"])])
    shutil.copy(root / "val2017/e.jpg", root / "train2017/b.jpg")
    with caplog.at_level(logging.WARNING):
        train, test = (open_dataset(f"folder/{split}", config_of(root)) for split in ("trainval", "test"))
    assert (train.image_ids, train.dropped) == (("a", "c"), {"tested": 1})
    assert (test.image_ids, test.dropped) == (("d", "e"), {})
    assert f"{root}: left out 1 image of train, in validation too (the first: b)" in caplog.text

    root = write_labelimg(tmp_path / "pool", pictures("", NAMES))
    shutil.copy(root / "c0.jpg", root / "c1.jpg")
    train, test = ids(config_of(root), "trainval", "test")
    assert "c0" in test
    assert "c1" not in train

    root = write_coco(tmp_path / "same", [*pictures("train", ["a"]), *pictures("test", ["b"])])
    shutil.copy(root / "test2017/b.jpg", root / "train2017/a.jpg")
    with pytest.raises(ValueError, match="the images of split 'train' are all among those of the test"):
        ids(config_of(root), "trainval")


def test_lists_of_a_voc_folder_stand_unless_it_is_tested_on(tmp_path, files, config, caplog):
    (files.root / "ImageSets/Main/test.txt").unlink()
    with caplog.at_level(logging.WARNING):
        assert ids(config, "trainval", "train", "val") == [("a2", "a1", "b1"), ("a2", "a1"), ("b1",)]
    assert caplog.text == ""
    tested = dataclasses.replace(config, test="folder/test")
    assert ids(tested, "trainval", "test") == [("a2", "a1"), ("b1",)]
    shutil.copy(files.root / "JPEGImages/b1.jpg", files.root / "JPEGImages/a2.jpg")
    assert ids(config, "trainval", "val") == [("a2", "a1", "b1"), ("b1",)]
    assert ids(tested, "trainval", "test") == [("a1",), ("b1",)], "prepared apart"
    assert ids(config, "trainval") == [("a2", "a1", "b1")]
    (files.root / "ImageSets/Main/val.txt").unlink()
    assert ids(config, "train", "trainval") == [("a2", "a1")] * 2
    assert sorted(sum(ids(tested, "trainval", "test"), ())) == ["a1", "a2"]
    assert ids(tested, "train") == ids(tested, "trainval")


def test_a_split_of_another_name_may_be_tested(tmp_path):
    files = VocFiles(tmp_path / "set")
    for name in ("a", "b", "m"):
        files.image(name, object_xml("cat"))
    files.split("train", "a", "b")
    files.split("mine", "m")
    config = dataclasses.replace(config_of(files.root), test="folder/mine")
    assert ids(config, "train", "trainval", "mine") == [("a", "b"), ("a", "b"), ("m",)]
    write_text(files.root / "ImageSets/Main/test.txt", "m\n")
    (files.root / "ImageSets/Main/train.txt").rename(files.root / "ImageSets/Main/rest.txt")
    (files.root / "ImageSets/Main/mine.txt").unlink()
    assert ids(config_of(files.root), "trainval", "test", "rest") == [("a", "b"), ("m",), ("a", "b")]


def test_the_split_of_a_folder_without_splits_may_be_opened(tmp_path):
    """`all`, which is a word of TFDS's own."""
    write_labelimg(tmp_path / "set", pictures("", ["a", "b"]))
    data = open_dataset("folder/all", config_of(tmp_path / "set"))
    assert (data.image_ids, data.read_image(1).shape) == (("a", "b"), (20, 24, 3))
    assert ids(config_of(tmp_path / "set"), "all") == [("a", "b")]


@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc])
def test_images_that_training_is_measured_on_are_not_trained_on(tmp_path, write):
    """Also by their content; they stay what they are as a set."""
    its = [p for split in ("train", "validation", "test") for p in pictures(split, [f"{split}0", f"{split}1"])]
    config = config_of(write(tmp_path / "set", its))
    measured = dataclasses.replace(config, validation="folder/val")
    train, validation = ("train0", "train1"), ("validation0", "validation1")
    for _ in range(2):
        assert ids(measured, "trainval", "val", "test", "train") == [train, validation, ("test0", "test1"), train]
        assert ids(config, "trainval") == [(*train, *validation)]
    if write is write_voc:  # whose lists stand as they are where the test is another data set
        elsewhere = dataclasses.replace(config, test="voc/2007/test")
        assert ids(elsewhere, "trainval") == [(*train, *validation)]
        assert ids(dataclasses.replace(elsewhere, validation="folder/val"), "trainval", "val") == [train, validation]
        root = write(tmp_path / "listed", its)
        write_text(root / "ImageSets/Main/trainval.txt", "\n".join([*train, *validation]))
        config = dataclasses.replace(config_of(root), validation="folder/val")
        assert ids(config, "trainval", "val") == [train, validation]
