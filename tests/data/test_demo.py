"""The demo's data set of digit scenes."""

import builtins
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

pytest.importorskip("sklearn")

from frcnn_jax.data import demo
from frcnn_jax.data.demo import DIGIT_NAMES, make_demo
from frcnn_jax.data.proposals.recall import proposal_recall
from frcnn_jax.data.proposals.selective_search import selective_search
from frcnn_jax.types import GroundTruth


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "digits"
    make_demo(root, train_images=20, test_images=5, seed=3)
    return root


def read(root, image_id):
    """RGB image, names and boxes as the XML gives them."""
    image = cv2.imread(str(root / "JPEGImages" / f"{image_id}.jpg"))[:, :, ::-1]
    objects = ElementTree.parse(root / "Annotations" / f"{image_id}.xml").getroot().findall("object")
    corners = [[int(item.find("bndbox").find(c).text) for c in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
    return image, [item.find("name").text for item in objects], np.array(corners)


def content(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_it_is_a_voc_folder(root):
    splits = {name: (root / f"ImageSets/Main/{name}.txt").read_text().split() for name in ("train", "test")}
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 20, "test": 5}
    assert not set(splits["train"]) & set(splits["test"])
    assert len({path.read_bytes() for path in (root / "JPEGImages").iterdir()}) == 25, "no scene comes twice"
    for image_id in splits["train"] + splits["test"]:
        image, names, corners = read(root, image_id)
        size = ElementTree.parse(root / "Annotations" / f"{image_id}.xml").getroot().find("size")
        height, width = int(size.find("height").text), int(size.find("width").text)
        assert image.shape == (height, width, 3)
        assert 2 <= len(names) <= 8
        assert set(names) <= set(DIGIT_NAMES)
        assert corners.min() >= 1
        assert (corners[:, 2:] <= [width, height]).all()
        assert (corners[:, 3] - corners[:, 1] + 1 >= 28).all(), "large enough for a stride of 16"


def test_same_arguments_give_the_same_files(root, tmp_path):
    make_demo(tmp_path / "again", train_images=20, test_images=5, seed=3)
    assert content(tmp_path / "again") == content(root)
    make_demo(tmp_path / "other", train_images=20, test_images=5, seed=4)
    image = "JPEGImages/train_00000.jpg"
    assert content(tmp_path / "other")[image] != content(root)[image]


def test_more_images_do_not_change_the_first(root, tmp_path):
    make_demo(tmp_path / "more", train_images=22, test_images=5, seed=3)
    image = "JPEGImages/train_00019.jpg"
    assert content(tmp_path / "more")[image] == content(root)[image]


def test_training_and_test_digits_differ():
    train, test = demo._digits(0)
    assert len(train) + len(test) == 1797
    assert {label for label, _ in train} == {label for label, _ in test} == set(range(10))
    assert not {digit.tobytes() for _, digit in train} & {digit.tobytes() for _, digit in test}


def test_boxes_are_tight(monkeypatch):
    # White ink on a plain black ground, without noise: the box is what is more than half opaque.
    monkeypatch.setattr(demo, "_background", lambda rng: (np.zeros((160, 224, 3), np.float32), np.zeros(3)))
    monkeypatch.setattr(demo, "_ink_colour", lambda base, rng: np.full(3, 255, np.float32))
    pool = demo._digits(0)[0]

    class Quiet:
        def __init__(self, seed):
            self._rng = np.random.default_rng(seed)

        def normal(self, mean, deviation, shape):
            return np.zeros(shape)

        def __getattr__(self, name):
            return getattr(self._rng, name)

    for seed in range(5):
        image, objects = demo._scene(pool, Quiet(seed))
        ink = image[:, :, 0] > 127
        inside = np.zeros_like(ink)
        for _, (x1, y1, x2, y2) in objects:
            part = ink[y1:y2, x1:x2]
            assert part[0].any()
            assert part[-1].any()
            assert part[:, 0].any()
            assert part[:, -1].any()
            inside[y1:y2, x1:x2] = True
        assert not (ink & ~inside).any()


@pytest.mark.parametrize("height", [32.0, 47.3, 72.0])
def test_a_digit_is_enlarged_to_its_height_and_nothing_is_cut_off(height):
    digit = np.zeros((8, 8), np.float32)
    digit[1:7, 2:6] = 1
    digit[3:5, 3:5] = 0
    ink = demo._enlarge(digit, height, 1.0)
    assert ink.shape == pytest.approx((height, height * 4 / 6), abs=3)
    np.testing.assert_allclose(ink, ink[::-1], atol=1e-3)
    np.testing.assert_allclose(ink, ink[:, ::-1], atol=1e-3)


def test_selective_search_finds_the_digits():
    pool = demo._digits(0)[0]
    scenes = [demo._scene(pool, np.random.default_rng([0, 0, i])) for i in range(8)]
    arguments = {"mode": "fast", "max_side": 160, "max_count": 2000, "min_side": 12.0, "segment_scale": 50}
    truths = [
        GroundTruth(
            boxes=np.array([box for _, box in objects], np.float32),
            labels=np.array([DIGIT_NAMES.index(name) + 1 for name, _ in objects]),
            difficult=np.zeros(len(objects), bool),
        )
        for _, objects in scenes
    ]
    recall = proposal_recall([selective_search(image, **arguments) for image, _ in scenes], truths, DIGIT_NAMES)
    assert recall[0.5]["overall"] >= 0.95


def test_a_complete_folder_is_left_as_it_is(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_demo(root, train_images=20, test_images=5, seed=3)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_another_folder_is_not_touched(root, tmp_path):
    with pytest.raises(FileExistsError, match="is not this demo data set"):
        make_demo(root, train_images=21, test_images=5, seed=3)
    (tmp_path / "mine").write_text("x")
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(FileExistsError, match="is not this demo data set"):
            make_demo(path, train_images=1, test_images=1, seed=0)


@pytest.mark.parametrize("counts", [(0, 1), (1, -1)])
def test_a_number_of_images_is_at_least_one(tmp_path, counts):
    train, test = counts
    with pytest.raises(ValueError, match=f"^train_images = {train} and test_images = {test} must be at least 1$"):
        make_demo(tmp_path / "digits", train_images=train, test_images=test)
    assert not (tmp_path / "digits").exists()


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "digits").mkdir()
    make_demo(tmp_path / "digits", train_images=2, test_images=1, seed=0)
    assert len(list((tmp_path / "digits/JPEGImages").iterdir())) == 3


def test_a_half_written_folder_is_not_taken_for_complete(tmp_path, monkeypatch):
    write = demo._write_image

    def stop(root, image_id, *rest):
        if image_id == "train_00002":
            raise KeyboardInterrupt
        write(root, image_id, *rest)

    monkeypatch.setattr(demo, "_write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "digits", train_images=3, test_images=1, seed=0)
    assert not (tmp_path / "digits").exists()
    monkeypatch.undo()
    make_demo(tmp_path / "digits", train_images=3, test_images=1, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    assert len(list((tmp_path / "digits" / "JPEGImages").iterdir())) == 4


def test_of_two_processes_at_once_the_second_takes_what_appeared(tmp_path, monkeypatch):
    arguments = {"train_images": 3, "test_images": 1, "seed": 0}
    write = demo._write_folder

    def overtaken(root, *rest):
        write(root, *rest)
        monkeypatch.setattr(demo, "_write_folder", write)
        make_demo(tmp_path / "digits", **arguments)  # as another process would do meanwhile

    monkeypatch.setattr(demo, "_write_folder", overtaken)
    make_demo(tmp_path / "digits", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert len(list((tmp_path / "digits" / "JPEGImages").iterdir())) == 4

    def overtaken_by_another(root, *rest):
        write(root, *rest)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mine.txt").write_text("x")

    monkeypatch.setattr(demo, "_write_folder", overtaken_by_another)
    with pytest.raises(OSError, match="other"):
        make_demo(tmp_path / "other", **arguments)


def test_without_scikit_learn_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[demo\]'"):
        make_demo(tmp_path / "digits", train_images=1, test_images=1, seed=0)
    assert not list(tmp_path.iterdir())
