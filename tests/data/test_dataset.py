"""Folders in VOC format: opened, read, kept and prepared anew."""

import dataclasses
import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, FaultPolicy
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.prepared import prepare as voc_prepare
from tests.data.voc_files import VocFiles, annotation_xml, object_xml, pixels


def test_images_are_the_files_and_boxes_half_open(config, files):
    data = open_dataset("folder/train", config)
    assert (data.name, len(data), data.image_ids) == ("folder/train", 2, ("a2", "a1"))
    assert data.classes == ("ant", "bee", "cat")
    encoded = (files.root / "JPEGImages/a1.jpg").read_bytes()
    assert data.image_fingerprint(1) == hashlib.sha256(encoded).hexdigest()
    np.testing.assert_array_equal(data.read_image(1), decode_image(encoded))
    assert data.sizes.tolist() == [[30, 40]] * 2
    truth = data.annotations[1]
    np.testing.assert_array_equal(truth.boxes, np.float32([[0, 0, 40, 30], [4, 5, 20, 21]]))
    np.testing.assert_array_equal(truth.labels, [3, 1])
    assert (truth.boxes.dtype, truth.labels.dtype, truth.difficult.dtype) == (np.float32, np.int32, np.bool_)
    assert open_dataset("folder/val", config).annotations[0].difficult.tolist() == [True]


def test_image_without_objects_has_empty_arrays(config):
    truth = open_dataset("folder/train", config).annotations[0]
    assert (truth.boxes.shape, truth.labels.shape, truth.difficult.shape) == ((0, 4), (0,), (0,))


def test_an_index_of_another_number_of_images_is_named(config):
    data = open_dataset("folder/train", config)
    (data.directory / "frcnn_index_validation.npz").write_bytes((data.directory / "frcnn_index_train.npz").read_bytes())
    with pytest.raises(ValueError, match=r"frcnn_index_validation.npz: 2 images, but split validation lists 1"):
        open_dataset("folder/val", config)


def test_whole_coordinates_come_back_exactly_at_any_size(tmp_path):
    files = VocFiles(tmp_path / "wide")
    width, rng = 1999, np.random.default_rng(0)
    xs = np.sort(rng.permuted(np.tile(np.arange(1, width + 1), (200, 1)), axis=1)[:, :2], axis=1)
    objects = [object_xml(box=(x1, 1, x2, 7)) for x1, x2 in xs]
    files.image("a", xml=annotation_xml(*objects, width=width, height=7))
    cv2.imwrite(str(files.root / "JPEGImages/a.jpg"), np.zeros((7, width, 3), np.uint8))
    files.split("test", "a")
    boxes = open_dataset("folder/test", DataConfig(root=str(files.root), tfds_dir=str(tmp_path))).annotations[0].boxes
    np.testing.assert_array_equal(boxes, [[x1 - 1, 0, x2, 7] for x1, x2 in xs])


def test_fractional_coordinates_are_kept(config, files):
    files.image("t1", object_xml("ant", (7.25, 8.5, 9.75, 29.125)))
    boxes = open_dataset("folder/test", config).annotations[0].boxes
    np.testing.assert_allclose(boxes, [[6.25, 7.5, 9.75, 29.125]], atol=1e-3)


def test_trainval_is_train_then_validation_or_its_own_list(config, files):
    assert open_dataset("folder/trainval", config).image_ids == ("a2", "a1", "b1")
    files.split("trainval", "b1", "a1")
    data = open_dataset("folder/trainval", config)
    assert data.image_ids == ("b1", "a1")
    fingerprints = [open_dataset(f"folder/{name}", config) for name in ("val", "train")]
    assert [data.image_fingerprint(i) for i in (0, 1)] == [
        fingerprints[0].image_fingerprint(0),
        fingerprints[1].image_fingerprint(1),
    ]
    assert [truth.labels.tolist() for truth in data.annotations] == [[2], [3, 1]]
    assert not list(data.directory.glob("*trainval*array_record*")), "images stored twice"
    files.image("c1", object_xml("ant"))
    files.split("trainval", "b1", "c1")
    assert [t.labels.tolist() for t in open_dataset("folder/trainval", config).annotations] == [[2], [1]]


def test_val_and_validation_are_one_split(config, files):
    a, b = open_dataset("folder/val", config), open_dataset("folder/validation", config)
    assert (a.name, a.image_ids, a.fingerprint) == (b.name, b.image_ids, b.fingerprint)
    assert a.name == "folder/validation"


def test_class_files_are_no_splits_and_second_columns_are_left_out(config, files):
    files.split("train", "a1  1", "a2 -1")
    files.split("cat_train", "a1  1", "a2 -1")
    assert open_dataset("folder/train", config).image_ids == ("a1", "a2")
    with pytest.raises(FileNotFoundError, match=r"no list of a split 'cat_train' \(there: test, train, validation\)"):
        open_dataset("folder/cat_train", config)


def test_other_split_on_demand_keeps_the_labels_of_the_standard_ones(config, files):
    files.image("m1", object_xml("cat"))
    files.split("mine", "m1", "b1")
    data = open_dataset("folder/mine", config)
    assert (data.image_ids, data.classes) == (("m1", "b1"), ("ant", "bee", "cat"))
    assert data.annotations[0].labels.tolist() == [3]


def test_given_classes_keep_their_order(config):
    data = open_dataset("folder/train", dataclasses.replace(config, classes=("cat", "bee", "ant")))
    assert data.classes == ("cat", "bee", "ant")
    assert data.annotations[1].labels.tolist() == [1, 3]


@pytest.mark.parametrize("classes", [("cat", "cat"), ("cat", ""), ()])
def test_useless_class_lists_are_refused(config, classes):
    with pytest.raises(ValueError, match=r"data\.classes"):
        open_dataset("folder/train", dataclasses.replace(config, classes=classes))


def test_objects_of_parts_are_no_objects(config, files):
    part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox><object><name>dog</name></object></part>"
    files.image("t1", object_xml("cat", (2, 3, 10, 12), extra=part))
    data = open_dataset("folder/test", config)
    assert data.classes == ("ant", "bee", "cat")
    np.testing.assert_array_equal(data.annotations[0].boxes, [[1, 2, 10, 12]])


def test_images_of_other_kinds(config, files):
    for name, image, suffix in (
        ("gray", pixels()[..., 0], ".png"),
        ("deep", pixels().astype(np.uint16) * 257, ".PNG"),
        ("clear", np.dstack([pixels(), pixels()[..., 0]]), ".png"),
        ("upper", pixels(), ".JPEG"),
    ):
        files.image(name, object_xml())
        (files.root / f"JPEGImages/{name}.jpg").unlink()
        (files.root / f"JPEGImages/{name}{suffix}").write_bytes(cv2.imencode(suffix.lower(), image)[1].tobytes())
    files.image("other", xml=annotation_xml(object_xml(), filename="C:\\photos\\elsewhere.JPG"))
    (files.root / "JPEGImages/other.jpg").rename(files.root / "JPEGImages/elsewhere.jpg")
    files.split("test", "gray", "deep", "clear", "upper", "other")
    data = open_dataset("folder/test", config)
    decoded = [data.read_image(i) for i in range(len(data))]
    assert {(image.shape, image.dtype) for image in decoded} == {((30, 40, 3), np.dtype(np.uint8))}
    rgb = pixels()[..., ::-1]
    np.testing.assert_array_equal(decoded[0], np.repeat(pixels()[..., :1], 3, axis=2))
    np.testing.assert_array_equal(decoded[1], rgb)
    np.testing.assert_array_equal(decoded[2], rgb)


def test_unchanged_folder_is_reused_and_any_change_is_prepared_anew(config, files, monkeypatch):
    first = open_dataset("folder/train", config)
    with monkeypatch.context() as patch:
        patch.setattr(voc_prepare, "load_images", lambda *_: pytest.fail("checked again"))
        assert open_dataset("folder/train", config).fingerprint == first.fingerprint
        assert open_dataset("folder/test", config).directory == first.directory
    seen = {first.directory}

    def prepared_anew(changed: DataConfig) -> str:
        data = open_dataset("folder/train", changed)
        assert data.directory not in seen
        seen.add(data.directory)
        return data.fingerprint

    assert prepared_anew(dataclasses.replace(config, classes=("ant", "bee", "cat"))) == first.fingerprint
    assert prepared_anew(dataclasses.replace(config, classes=("bee", "ant", "cat"))) != first.fingerprint
    assert prepared_anew(dataclasses.replace(config, faults=FaultPolicy(box_outside="clip"))) == first.fingerprint
    files.image("b1", object_xml("bee", (1, 1, 2, 2)))
    assert prepared_anew(config) == first.fingerprint, "this split is the same"
    files.split("train", "a1", "a2")
    assert prepared_anew(config) != first.fingerprint
    files.split("train", "a2", "a1")
    files.image("a1", object_xml("cat", (1, 1, 40, 30)), object_xml("ant", (5, 6, 20, 21)))
    assert prepared_anew(config) != first.fingerprint, "the image is another one"


def test_pickle_opens_again_and_threads_may_read(config):
    data = open_dataset("folder/trainval", config)
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 1000
    assert (again.name, again.image_ids, again.fingerprint) == (data.name, data.image_ids, data.fingerprint)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: again.read_image(i % 3), range(60)))
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, data.read_image(i % 3))


def test_what_was_interrupted_is_not_taken_for_complete(config, monkeypatch):
    from frcnn_jax.data.prepared import builder

    def stop(image, exact_boxes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builder, "_encode", stop)
        with pytest.raises(KeyboardInterrupt):
            open_dataset("folder/train", config)
    assert len(open_dataset("folder/train", config)) == 2


def test_what_was_killed_is_not_taken_for_complete(config):
    script = (
        "import os, sys; from frcnn_jax.config import DataConfig; from frcnn_jax.data import dataset\n"
        "from frcnn_jax.data.prepared import builder\n"
        "builder._encode = lambda *_: os._exit(9)\n"
        "dataset.open_dataset('folder/train', DataConfig(root=sys.argv[1], tfds_dir=sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, config.root, config.tfds_dir], capture_output=True)
    assert done.returncode == 9
    assert len(open_dataset("folder/train", config)) == 2


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("voc/2009/train", ValueError, "unknown data set 'voc/2009/train': known are"),
        ("voc/2007/mine", ValueError, "unknown data set 'voc/2007/mine': known are"),
        ("coco", ValueError, "unknown data set 'coco': known are"),
        ("folder/mine", FileNotFoundError, r"no list of a split 'mine' \(there: test, train, validation\)"),
        (
            "folder/empty",
            ValueError,
            "split 'empty' has no images: ImageSets/Main/empty.txt lists none; add some",
        ),
    ],
)
def test_unknown_names(config, files, name, error, message):
    if name == "folder/empty":
        files.split("empty")
    with pytest.raises(error, match=message):
        open_dataset(name, config)


def test_missing_root(tmp_path, config, files):
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        open_dataset("folder/train", DataConfig())
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_dataset("folder/train", DataConfig(root=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"It has 0 images, but no folder JPEGImages \(VOC format\)"):
        open_dataset("folder/train", DataConfig(root=str(tmp_path / "empty")))
    files.split("train", "JPEGImages/a1.jpg")
    with pytest.raises(ValueError, match=r"line 1 = 'JPEGImages/a1.jpg': a path"):
        open_dataset("folder/train", config)


@pytest.mark.parametrize("cause", ["no permission", "a full disk"])
@pytest.mark.parametrize("given", [True, False])
def test_a_place_that_cannot_be_written_names_its_setting(tmp_path, monkeypatch, given, cause):
    """The setting, where the user has given none, as in a container without a home."""
    VocFiles(tmp_path / "data").image("a", object_xml())

    def refuse(folder, *_, **__):
        raise PermissionError(13, "Permission denied", str(folder.parent))

    def fail(*_, **__):
        raise RuntimeError("Failed to write to file: a.array_record: No space left on device; at line 1")

    if cause == "no permission":
        monkeypatch.setattr(voc_prepare, "folder_lock", refuse)
    else:
        monkeypatch.setattr("tensorflow_datasets.core.DatasetBuilder.download_and_prepare", fail)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "home/tensorflow_datasets"))
    config = DataConfig(root=str(tmp_path / "data"), tfds_dir=str(tmp_path / "tfds") if given else None)
    with pytest.raises(OSError, match=r"denied|No space") as error:
        open_dataset("folder/train", config)
    assert ("give --data.tfds-dir FOLDER" in str(error.value)) != given
