"""The programs in scripts/, in this process: their options, and what they say about mistakes."""

import gc
import json
import re
import runpy
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from frcnn_jax.config import Config, DataConfig, to_json
from frcnn_jax.data.prepared.dataset import PreparedDataset
from frcnn_jax.types import Detections
from tests.data.voc_files import with_exif_orientation
from tests.evaluation.records import detections
from tests.training.runs import run_config, write_data

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def call(monkeypatch, script, *arguments):
    """Exit status, or the message it exits with, of a script in this process; None where it ends well."""
    path = ROOT / f"scripts/{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    monkeypatch.syspath_prepend(str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
    return None


def config_file(root, **settings):
    """A config file of the small data set, for `--config`."""
    (root / "settings.json").write_text(to_json(run_config(root, **settings)))
    path = root / "small.py"
    path.write_text(
        "from pathlib import Path\nfrom frcnn_jax.config import from_json\n\n\n"
        f"def get_config():\n    return from_json(Path({str(root / 'settings.json')!r}).read_text())\n"
    )
    return path


@pytest.mark.parametrize("script", ["train", "proposals"])
def test_verify_reads_all_images_again(tmp_path, monkeypatch, script):
    def check(dataset):
        raise ValueError(f"reads {dataset.name}")

    monkeypatch.setattr(PreparedDataset, "check_images", check)
    write_data(tmp_path)
    arguments = ["--config", config_file(tmp_path), *(["--workdir", tmp_path / "run"] if script == "train" else [])]
    first = "test" if script == "train" else "train"
    end = f"{script}.py: reads folder/{first} ({__file__}, line "
    assert call(monkeypatch, script, *arguments, "--verify").startswith(end)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of the same name, in two folders."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "same.png"), np.zeros((20, 30, 3), np.uint8))
    return tmp_path


def test_mistakes_are_told_in_one_line(pictures, monkeypatch, capsys):
    nowhere, picture = pictures / "nowhere", pictures / "a/same.png"
    cases = {
        ("evaluate", "--workdir", nowhere): f"evaluate.py: {nowhere} holds no run",
        ("detect", "--workdir", nowhere, picture): f"detect.py: {nowhere} holds no run",
        ("train", "--config", nowhere / "x.py", "--workdir", nowhere): f"train.py: no config file {nowhere}/x.py",
        ("proposals", "--config", nowhere / "x.py"): f"proposals.py: no config file {nowhere}/x.py",
        ("export", "--workdir", nowhere, "--format", "npz", "--out", pictures / "x.npz"): f"{nowhere} holds no run",
    }
    for arguments, message in cases.items():
        code = call(monkeypatch, *arguments)
        assert isinstance(code, str)
        assert message in code
        assert "\n" not in code
    assert not nowhere.exists()
    capsys.readouterr()


def test_a_run_without_a_checkpoint(pictures, monkeypatch):
    (pictures / "config.json").write_text(to_json(run_config(pictures)))
    assert call(monkeypatch, "evaluate", "--workdir", pictures) == f"evaluate.py: {pictures} holds no checkpoint yet"


def test_detect_says_which_images_it_cannot_take(pictures, monkeypatch):
    nothing = pictures / "nothing.jpg"
    cases = {
        (pictures / "a/same.png", pictures / "b/same.png"): "several images are named same",
        (pictures / "a/same.png", nothing): f"no file {nothing}",
        ("https://example.com/a.jpg",): "https://example.com/a.jpg is not a file: download it first",
    }
    for images, message in cases.items():
        assert message in call(monkeypatch, "detect", "--workdir", pictures, *images)
    assert not (pictures / "detections").exists()


@pytest.fixture
def detector(pictures, monkeypatch):
    """Takes the place of a trained one for detect.py; finds one cat in the whole of an image, and keeps no image."""
    seen = []

    def detect(image, boxes):
        gc.collect()
        alive = [place for place, reference in enumerate(seen) if reference() is not None]
        assert not alive, f"images {alive} are still in memory"
        seen.append(weakref.ref(image))
        box = np.float32([[0, 0, image.shape[1], image.shape[0]]])
        return Detections(boxes=box, scores=np.float32([0.9]), labels=np.int32([1]), mask=np.ones(1, bool))

    stub = SimpleNamespace(config=Config(), classes=("cat",), detect=detect, step=7, orientation="apply")
    monkeypatch.setattr("frcnn_jax.runs.detector.load_detector", lambda workdir, checkpoint: stub)
    return seen


def test_detect_overwrites_no_result_of_another_image(pictures, detector, monkeypatch):
    first, second, out = pictures / "a/same.png", pictures / "b/same.png", pictures / "found"
    for _ in range(2):
        assert call(monkeypatch, "detect", "--workdir", pictures, first, "--out", out) is None
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"same.detections.png", "same.detections.json"}
    code = call(monkeypatch, "detect", "--workdir", pictures, second, "--out", out)
    assert code == f"detect.py: {out} holds detections of {first}: give another --out for {second}"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "same.detections.json").write_text("[]")
    code = call(monkeypatch, "detect", "--workdir", pictures, first, "--out", out)
    assert f"{out}/same.detections.json is not a file of `detect`" in code


def test_detect_knows_an_image_by_its_resolved_path(pictures, detector, monkeypatch):
    """Not by how it was spelt: the same spelling in another folder is another image."""
    detect = ("detect", "--workdir", pictures, "--out", pictures / "found")
    monkeypatch.chdir(pictures / "a")
    assert call(monkeypatch, *detect, "same.png") is None
    found = json.loads((pictures / "found/same.detections.json").read_text())
    assert (found["image"], found["path"]) == ("same.png", str((pictures / "a/same.png").resolve()))
    (pictures / "link").symlink_to(pictures / "a")
    for spelling in ("./same.png", "../a/same.png", pictures / "a/same.png", pictures / "link/same.png"):
        assert call(monkeypatch, *detect, spelling) is None
    before = {path.name: path.read_bytes() for path in (pictures / "found").iterdir()}
    monkeypatch.chdir(pictures / "b")
    (pictures / "b/another.png").write_bytes((pictures / "b/same.png").read_bytes())
    refused = f"{pictures}/found holds detections of {pictures}/a/same.png: give another --out for same.png"
    assert refused in call(monkeypatch, *detect, "another.png", "same.png")
    # Nor anything of the image before it.
    assert {path.name: path.read_bytes() for path in (pictures / "found").iterdir()} == before


def test_detect_takes_larger_images_as_its_message_says(pictures, detector, monkeypatch):
    small = Config(data=DataConfig(max_pixels=599))
    stub = SimpleNamespace(config=small, classes=("cat",), detect=lambda *_: detections(), step=7, orientation="apply")
    monkeypatch.setattr("frcnn_jax.runs.detector.load_detector", lambda workdir, checkpoint: stub)
    detect = ("detect", "--workdir", pictures, pictures / "a")
    code = call(monkeypatch, *detect)
    option = re.search(r"set (--data.max-pixels 600), for which .* are needed$", code)[1]  # nothing follows
    assert call(monkeypatch, *detect, *option.split()) is None


def test_detect_checks_where_it_writes_before_the_images(pictures, detector, monkeypatch):
    (pictures / "file").write_text("kept")
    (pictures / "a/same.png").write_text("damaged")
    refused = f"detect.py: {pictures}/file: {pictures}/file is a file, not a folder: give another folder by --out"
    assert call(monkeypatch, "detect", "--workdir", pictures, pictures / "a", "--out", pictures / "file") == refused


def test_detect_says_one_line_about_many_images(pictures, detector, monkeypatch, capsys):
    (pictures / "a/another.png").write_bytes((pictures / "a/same.png").read_bytes())
    monkeypatch.setattr("frcnn_jax.commands.detect._LINES", 2)
    detect = ("detect", "--workdir", pictures, pictures / "a")
    about_all = "2 images: 2 objects with score >= 0.5 (cat 2)"
    for arguments, count in (((), 0), (("--verbose",), 2)):
        assert call(monkeypatch, *detect, *arguments) is None
        *lines, said, _ = capsys.readouterr().out.splitlines()
        assert (len(lines), said) == (count, about_all)


def test_detect_trusts_no_relative_path_of_old_results(pictures, detector, monkeypatch):
    """Results of before there was "path": a relative "image" may have been in any folder."""
    detect, found = ("detect", "--workdir", pictures, "--out", pictures / "found"), pictures / "found"
    results = found / "same.detections.json"
    found.mkdir()
    monkeypatch.chdir(pictures / "b")
    results.write_text(json.dumps({"image": "same.png", "height": 20, "width": 30, "detections": []}))
    refused = f"{found} holds detections of same.png in an unknown folder: give another --out for same.png"
    assert refused in call(monkeypatch, *detect, "same.png")
    results.write_text(json.dumps({"image": str(pictures / "a/same.png"), "detections": []}))
    assert f"holds detections of {pictures}/a/same.png: give another" in call(monkeypatch, *detect, "same.png")
    monkeypatch.chdir(pictures / "a")
    assert call(monkeypatch, *detect, "same.png") is None
    assert json.loads(results.read_text())["path"] == str((pictures / "a/same.png").resolve())


def test_detect_writes_nothing_where_proposals_are_refused(pictures, detector, monkeypatch):
    np.savez(pictures / "boxes.npz", other=np.zeros((1, 4)))
    arguments = ("--workdir", pictures, "--proposals", pictures / "boxes.npz", "--out", pictures / "found")
    assert "same" in call(monkeypatch, "detect", pictures / "a/same.png", *arguments)
    assert not (pictures / "found").exists()


def test_detect_drops_wrong_boxes_of_a_file_as_its_message_says(pictures, monkeypatch):
    numbers = []
    found = SimpleNamespace(config=Config(), classes=("cat",), step=7, orientation="apply")
    found.detect = lambda image, boxes: (numbers.append(len(boxes)), detections())[1]
    monkeypatch.setattr("frcnn_jax.runs.detector.load_detector", lambda workdir, checkpoint: found)
    np.savez(pictures / "boxes.npz", same=np.array([[0, 0, 20, 20], [0, 0, 99, 20], [5, 5, 5, 9]], np.float32))
    detect = ("detect", pictures / "a/same.png", "--workdir", pictures, "--proposals", pictures / "boxes.npz")
    option = re.search(r"set (proposals.invalid) to drop or clip", call(monkeypatch, *detect))[1]
    for answer in ("drop", "clip"):
        assert call(monkeypatch, *detect, f"--{option}", answer) is None
    assert numbers == [1, 2]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["clip.mp4"], ["--proposals", "nothing.npz"], "--proposals is for images, and only videos are given"),
        (["clip.mp4"], ["--pictures", "png"], "--pictures is for images, and only videos are given"),
        (["clip.mp4"], ["--data.max-pixels", "9"], "--data.max-pixels is for images, and only videos are given"),
        (["clip.mp4"], ["--skip-broken"], "--skip-broken is for images, and only videos are given"),
        (["clip.mp4"], ["--voc-xml", "xml"], "make images of clip.mp4, as by: ffmpeg -i clip.mp4 FOLDER/%06d.png"),
        (["a/same.png"], ["--proposals.invalid", "drop"], "is for the boxes of a file: give --proposals FILE too"),
        (["a/same.png"], ["--every", "2"], "--every is for videos, and only images are given"),
        (["a/same.png"], ["--overwrite"], "give --voc-xml too; other results are always replaced"),
    ],
)
def test_detect_refuses_options_without_effect(pictures, detector, monkeypatch, capsys, files, options, message):
    monkeypatch.chdir(pictures)
    (pictures / "clip.mp4").touch()
    assert call(monkeypatch, "detect", "--workdir", pictures, *files, *options) == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


def test_detect_holds_one_image_at_a_time(pictures, detector, monkeypatch):
    images = [pictures / f"{number}.png" for number in range(4)]
    for path in images:
        path.write_bytes((pictures / "a/same.png").read_bytes())
    assert call(monkeypatch, "detect", "--workdir", pictures, *images) is None
    assert len(detector) == 4


@pytest.mark.parametrize(("orientation", "followed"), [("apply", True), ("ignore", False)])
def test_detect_turns_images_as_the_detector_says(pictures, monkeypatch, capsys, orientation, followed):
    encoded = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    path = pictures / "photo.jpg"
    path.write_bytes(with_exif_orientation(encoded, 6))
    np.savez(pictures / "boxes.npz", photo=np.float32([[0, 0, 20, 30]] if followed else [[0, 0, 30, 20]]))
    sizes = []

    def detect(image, boxes):
        sizes.append(image.shape[:2])
        box = np.float32([[0, 0, image.shape[1], image.shape[0]]])
        return Detections(boxes=box, scores=np.float32([0.9]), labels=np.int32([1]), mask=np.ones(1, bool))

    stub = SimpleNamespace(config=Config(), classes=("cat",), detect=detect, step=7, orientation=orientation)
    monkeypatch.setattr("frcnn_jax.runs.detector.load_detector", lambda workdir, checkpoint: stub)
    arguments = ("detect", "--workdir", pictures, "--proposals", pictures / "boxes.npz", path)
    assert call(monkeypatch, *arguments) is None
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "EXIF" in line]
    assert note.startswith(f"{path}: its EXIF orientation" + (", 6, is followed" if followed else " is ignored"))
    found = json.loads((pictures / "detections/photo.detections.json").read_text())
    size = (30, 20, 6) if followed else (20, 30, 1)
    assert (found["height"], found["width"], found["orientation"]) == size
    assert sizes == [size[:2]]


def test_a_test_set_that_is_not_there_is_told_before_training(tmp_path, monkeypatch):
    data, workdir = tmp_path / "data", tmp_path / "run"
    write_data(data)
    (data / "ImageSets/Main/test.txt").unlink()
    arguments = ["--config", config_file(data), "--workdir", workdir, "--data.split", 0]  # else a tenth is the test
    assert call(monkeypatch, "train", *arguments) == (
        f"train.py: data.test = folder/test: {data}/ImageSets/Main has no list of a split 'test' (there: train)"
    )
    assert not (workdir / "config.json").exists()  # no run has begun there


def test_an_unknown_setting_names_the_nearest(pictures, monkeypatch, capsys):
    config = config_file(pictures)
    code = call(monkeypatch, "train", "--config", config, "--workdir", pictures / "run", "--train.step", 5)
    assert code not in (0, None)
    printed = capsys.readouterr()
    assert "no setting --train.step, the nearest is --train.steps" in printed.out + printed.err
    assert not (pictures / "run").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, monkeypatch, capsys):
    assert call(monkeypatch, script, "--help") in (0, None)
    assert "usage:" in capsys.readouterr().out.lower()
