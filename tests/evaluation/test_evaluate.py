"""A whole test set: detections of every image once, and the files that are left."""

import copy
import dataclasses
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import DataConfig, EvalConfig, InputConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.proposals.recall import proposal_recall
from frcnn_jax.data.proposals.source import Proposals
from frcnn_jax.detection.detect import detect
from frcnn_jax.evaluation import evaluate
from frcnn_jax.evaluation.evaluate import detect_dataset, evaluate_dataset, write_evaluation
from frcnn_jax.evaluation.outputs.files import ResultFiles
from frcnn_jax.evaluation.report import format_metrics
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.types import BoxStatistics
from tests.data.voc_files import VocFiles, object_xml
from tests.evaluation.records import detections
from tests.weights.detectors import random_params, small_model

INPUT = InputConfig(test_scale=48, test_max_size=64, test_batch_size=2, workers=0)
EVALUATE = EvalConfig(score_threshold=0.1, nms_iou=0.4, per_class=20, pictures=2, picture_score=0.2)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(model, params, statistics, data set, proposals): 3 images, the last batch is filled up; one has no object and
    one no proposals."""
    root = tmp_path_factory.mktemp("data")
    files = VocFiles(root)
    files.image("t1", object_xml("one", (5, 5, 30, 25)), object_xml("two", (1, 1, 12, 30)))
    files.image("t2")
    files.image("t3", object_xml("two", (10, 3, 38, 28)))
    files.image("a1", object_xml("three", (10, 3, 38, 28)))
    files.split("test", "t3", "t1", "t2")
    files.split("train", "a1")
    dataset = open_dataset("folder/test", DataConfig(root=str(root), tfds_dir=str(root / "prepared")))
    random = np.random.default_rng(0)
    corners = random.uniform(0, 14, (2, 12, 2))
    boxes = np.concatenate([corners, corners + random.uniform(6, 16, (2, 12, 2))], axis=2).astype(np.float32)
    proposals = Proposals.from_arrays([boxes[0], np.zeros((0, 4), np.float32), boxes[1]])
    model = small_model()
    statistics = BoxStatistics(mean=jnp.zeros((4, 4)), std=jnp.full((4, 4), 0.1))
    return model, random_params(model), statistics, dataset, proposals


def test_every_image_as_by_itself(case):
    model, params, statistics, dataset, proposals = case
    found = detect_dataset(*case, input_config=INPUT, config=EVALUATE)
    assert list(found) == ["t3", "t1", "t2"]
    assert len(found["t1"].scores) == 0  # no proposals
    assert len(found["t2"].scores) > 0
    for index, name in enumerate(found):
        alone = detect(
            model, params, dataset.read_image(index), proposals[index],
            statistics=statistics, scale=48, max_size=64, score_threshold=0.1, nms_iou=0.4, per_class=20,
        )  # fmt: skip
        np.testing.assert_array_equal(found[name].labels, alone.labels)
        np.testing.assert_allclose(found[name].scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found[name].boxes, alone.boxes, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_pyramid_over_the_data_set_as_by_itself(case, batch_size):
    model, params, statistics, dataset, proposals = case
    scales = (150, 330, 500)
    found = detect_dataset(
        *case,
        input_config=dataclasses.replace(INPUT, test_scales=scales, test_max_size=640, test_batch_size=batch_size),
        config=EVALUATE,
    )
    for index, name in enumerate(found):
        alone = detect(
            model, params, dataset.read_image(index), proposals[index],
            statistics=statistics, scales=scales, max_size=640, score_threshold=0.1, nms_iou=0.4, per_class=20,
        )  # fmt: skip
        np.testing.assert_array_equal(found[name].labels, alone.labels)
        np.testing.assert_allclose(found[name].scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found[name].boxes, alone.boxes, atol=1e-3)
    assert sum(len(one.scores) for one in found.values()) > 3


def test_without_box_regression_proposals_are_detected(case):
    *_, proposals = case
    config = dataclasses.replace(EVALUATE, box_regression=False)
    found = detect_dataset(*case, input_config=INPUT, config=config)
    for index, name in enumerate(found):
        assert {tuple(box) for box in found[name].boxes} <= {tuple(box) for box in proposals[index]}
    assert len(found["t2"].scores) > 0


def test_files_that_are_written(case, tmp_path):
    dataset = case[3]
    directory = tmp_path / "deep/eval"
    metrics = evaluate_dataset(
        *case, input_config=INPUT, config=EVALUATE, directory=directory, extra={"step": 5, "note": "x"}
    )
    assert json.loads((directory / "metrics.json").read_text()) == metrics
    assert (metrics["images"], metrics["step"], metrics["note"]) == (3, 5, "x")
    assert metrics["dataset"] == "folder/test"
    assert set(metrics["ap"]) == {"one", "two", "three"} == set(dataset.classes)
    found = detect_dataset(*case, input_config=INPUT, config=EVALUATE)
    truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
    expected = evaluate_voc(found, truth, use_07_metric=True, class_names=dataset.classes)
    assert metrics["map"] == expected["map"]
    assert metrics["ap"] == expected["ap"]
    pictures = list((directory / "images").iterdir())
    assert len(pictures) == 2
    assert {path.stem for path in pictures} < set(dataset.image_ids)
    assert [path.name for path in sorted((directory / "thumbnails").iterdir())] == sorted(p.name for p in pictures)
    assert all(cv2.imread(str(path)).shape[2] == 3 for path in pictures)
    assert metrics["uncounted"] == {"difficult": 0, "crowds": 0}
    page = (directory / "index.html").read_text()
    assert "<title>Fast R-CNN on folder/test</title>" in page
    assert "the test has 3 objects in 3 images" in page
    assert "Note: the test has 3 objects in 3 images" in format_metrics(metrics)


def test_measures_beside_the_average_precision(case, tmp_path):
    metrics = evaluate_dataset(*case, input_config=INPUT, config=EVALUATE, directory=tmp_path)
    dataset, proposals = case[3:]
    lost = sum(kind["lost"] for kind in metrics["errors"].values())
    assert lost == pytest.approx(1 - metrics["map"])
    assert set(metrics["errors_by_class"]) == {"one", "two"}  # those with objects
    assert sum(size["objects"] for size in metrics["recall_by_size"].values()) == 3
    recall = proposal_recall(list(proposals), dataset.annotations, dataset.classes, (0.5,))[0.5]
    assert metrics["proposals"]["recall"] == recall["overall"]
    assert metrics["proposals"]["recall_by_class"]["two"] == recall["per_class"]["two"]
    assert metrics["proposals"]["recall_by_class"]["three"] is None
    assert metrics["proposals"]["per_image"] == 8
    assert set(metrics["best_f1"]) == set(dataset.classes)


def test_results_for_the_voc_server(case, tmp_path):
    directory = tmp_path / "voc"
    files = ResultFiles(voc_results=directory)
    evaluate_dataset(*case, input_config=INPUT, config=EVALUATE, directory=tmp_path / "eval", files=files)
    found = detect_dataset(*case, input_config=INPUT, config=EVALUATE)
    names = {path.name for path in directory.iterdir()}
    assert names == {f"comp4_det_test_{name}.txt" for name in ("one", "two", "three")}
    lines = sum(len((directory / name).read_text().splitlines()) for name in names)
    assert lines == sum(len(one.scores) for one in found.values()) > 3


def test_ids_that_results_files_cannot_hold_are_refused_before_the_first_image(case, tmp_path, monkeypatch):
    model, params, statistics, dataset, proposals = case
    renamed = copy.copy(dataset)
    renamed.image_ids = ("t 3", "t1", "")
    monkeypatch.setattr(evaluate, "detect_dataset", lambda *_, **__: pytest.fail("detected"))
    settings = {"input_config": INPUT, "config": EVALUATE, "directory": tmp_path / "eval"}
    files = ResultFiles(voc_results=tmp_path / "voc")
    with pytest.raises(ValueError, match=r"voc: image id 't 3' .* \(2 of 3 ids"):
        evaluate_dataset(model, params, statistics, renamed, proposals, files=files, **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_image(case, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "detect_dataset", lambda *_, **__: pytest.fail("detected"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"file/eval: .*/file is a file, not a folder"):
        evaluate_dataset(*case, input_config=INPUT, config=EVALUATE, directory=tmp_path / "file/eval")


def test_the_measures_survive_an_error_in_later_files(case, tmp_path, monkeypatch):
    """Results for other programs are written next, then pictures."""

    def fail(*_, **__):
        raise OSError("the disk is full")

    dataset = case[3]
    found = {image: detections() for image in dataset.image_ids}
    files = ResultFiles(coco_results=tmp_path / "found.json")
    arguments = {"config": EVALUATE, "title": "", "files": files}
    monkeypatch.setattr(evaluate, "write_gallery", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_evaluation(found, dataset, directory=tmp_path / "a", **arguments)
    assert json.loads((tmp_path / "a/metrics.json").read_text())["map"] == 0
    assert json.loads((tmp_path / "found.json").read_text()) == []
    monkeypatch.setattr(ResultFiles, "write", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_evaluation(found, dataset, directory=tmp_path / "b", **arguments)
    assert json.loads((tmp_path / "b/metrics.json").read_text())["map"] == 0


def test_the_metric_of_the_config(case, tmp_path):
    """One of two objects of a class is found: 0.5 by the area, 6 of 11 by VOC 2007's."""
    dataset = case[3]
    found = {"t3": detections(), "t2": detections()}
    boxes, labels = dataset.annotations[1].boxes.tolist(), dataset.annotations[1].labels.tolist()
    found["t1"] = detections(*((box, 0.9, label) for box, label in zip(boxes, labels, strict=True)))
    for metric, of_two in (("voc07", 6 / 11), ("voc10", 0.5)):
        config = dataclasses.replace(EVALUATE, metric=metric, pictures=0)
        metrics = write_evaluation(found, dataset, config=config, directory=tmp_path / metric, title="")
        assert metrics["metric"] == metric
        assert metrics["ap"] == {"one": 1.0, "three": None, "two": pytest.approx(of_two)}
    assert not list(tmp_path.glob("*/images/*"))
