"""Fast R-CNN's record: the time of its steps, ranks, stages that give what `detect` gives, evaluation with SVD."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from frcnn_jax.comparison import fast_rcnn
from frcnn_jax.comparison.record import Record
from frcnn_jax.config import replace
from frcnn_jax.detection.detect import trim
from frcnn_jax.detection.stages import untimed
from tests.comparison.cases import case
from tests.training.runs import step_in_a_moment
from tests.weights.detectors import small_detector

pytestmark = pytest.mark.usefixtures("small")


def test_time_of_the_steps_by_hand(tmp_path):
    lines = [
        {"step": 1, "images_per_second": 0.5},
        {"step": 4, "images_per_second": 3.0},
        {"step": 4, "map": 0.3, "ap": {}},
        {"step": 6, "images_per_second": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # Batches of two images: 1 step of 4 s, 3 of 2 s together, 2 of 4 s together.
    assert fast_rcnn._training_time(tmp_path, 2, 0) == (10, 6)
    assert fast_rcnn._training_time(tmp_path, 2, 1) == (6, 5)


def test_training_is_recorded_and_goes_on(data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    fast_rcnn.train(config, comparison, tmp_path)
    content = Record.read(tmp_path / "record.json").content
    assert content["train"]["fine_tuning"]["share"] == 1
    assert content["train"]["fine_tuning"]["seconds"] > 0
    # 12 steps of 2 images with 8 RoIs each.
    assert (content["steps"], content["windows"], content["images"]) == (12, 192, [8])
    assert content["paper_share"] == 192 / 5_120_000
    record = Record.read(tmp_path / "record.json")
    record.set_test_images(4)
    fast_rcnn.train(config, comparison, tmp_path)
    again = Record.read(tmp_path / "record.json").content
    assert (again["train"], again["images"]) == (content["train"], [8, 4])


def test_another_evaluation_is_a_test_anew(data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    evaluated = []
    monkeypatch.setattr(fast_rcnn, "_ranks", lambda detector: None)
    monkeypatch.setattr(fast_rcnn, "evaluate_run", lambda run: evaluated.append(run) or {"map": 0.5, "ap": {}})
    for per_class, times in ((100, 1), (100, 1), (50, 2)):
        changed = replace(config, evaluate={"per_class": per_class})
        fast_rcnn.train(changed, comparison, tmp_path)
        fast_rcnn.test(changed, comparison, tmp_path)
        assert len(evaluated) == times


def test_a_run_that_was_trained_anew_is_tested_anew(data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    evaluated = []
    monkeypatch.setattr(fast_rcnn, "_ranks", lambda detector: None)
    monkeypatch.setattr(fast_rcnn, "evaluate_run", lambda run: evaluated.append(run) or {"map": 0.5, "ap": {}})
    for seed, times in ((0, 1), (1, 2)):
        changed = replace(config, train={"seed": seed})
        fast_rcnn.train(changed, comparison, tmp_path)
        fast_rcnn.test(changed, comparison, tmp_path)
        assert len(evaluated) == times
        shutil.rmtree(tmp_path / "run")


def test_other_proposals_are_a_test_anew(data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    evaluated, open_all = [], fast_rcnn.open_proposals
    monkeypatch.setattr(fast_rcnn, "_ranks", lambda detector: None)
    monkeypatch.setattr(fast_rcnn, "evaluate_run", lambda run: evaluated.append(run) or {"map": 0.5, "ap": {}})
    fast_rcnn.train(config, comparison, tmp_path)
    for most, times in ((9, 1), (9, 1), (4, 2)):
        monkeypatch.setattr(
            fast_rcnn,
            "open_proposals",
            lambda dataset, *others, most=most: [boxes[:most] for boxes in open_all(dataset, *others)],
        )
        fast_rcnn.test(config, comparison, tmp_path)
        assert len(evaluated) == times


def test_the_compressed_run_follows_the_run(data, tmp_path, monkeypatch):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    tested, folder = [], tmp_path / "fast_rcnn-tiny"
    # The run of another command: its folder's neighbours are not ours to replace.
    theirs = tmp_path / "theirs/run-svd-fc6-8-fc7-4/checkpoints"
    theirs.mkdir(parents=True)
    folder.mkdir()
    (folder / "run").symlink_to(tmp_path / "theirs/run")
    (tmp_path / "theirs/run").mkdir()
    monkeypatch.setattr(
        fast_rcnn,
        "_test",
        lambda found, run, *_: tested.append((run, found.config.evaluate.per_class, found.step)),
    )
    for per_class, steps in ((100, 2), (50, 2), (50, 4)):
        changed = replace(config, evaluate={"per_class": per_class}, train={"steps": steps})
        fast_rcnn.train(changed, comparison, folder)
        fast_rcnn.test(changed, comparison, folder)
        assert tested == [(folder / name, per_class, steps) for name in ("run", "run-svd-fc6-8-fc7-4")]
        tested.clear()
    assert theirs.exists()


@pytest.mark.parametrize(
    ("length", "steps", "share"),
    [
        ({"evaluate_every": 2, "patience": 3}, 3, 2 / 12),  # the first of three steps of twelve is not timed
        ({"steps": 1}, 1, 1.0),
    ],
)
def test_a_share_of_the_steps_is_extrapolated(data, tmp_path, monkeypatch, length, steps, share):
    step_in_a_moment(monkeypatch.setattr)
    config, comparison = case(data)
    fast_rcnn.train(replace(config, train=length), dataclasses.replace(comparison, share=0.25), tmp_path)
    content = Record.read(tmp_path / "record.json").content
    assert (content["steps"], content["train"]["fine_tuning"]["share"]) == (steps, share)


def test_ranks():
    def detector(*shapes):
        head = {name: {"kernel": np.zeros(shape)} for name, shape in zip(("fc6", "fc7"), shapes, strict=False)}
        return SimpleNamespace(params={"head": head})

    assert fast_rcnn._ranks(detector((25088, 4096), (4096, 4096))) == {"fc6_rank": 1024, "fc7_rank": 256}
    assert fast_rcnn._ranks(detector((18432, 4096), (4096, 1024))) == {"fc6_rank": 1024, "fc7_rank": 256}
    assert fast_rcnn._ranks(detector((100, 512), (512, 256))) == {"fc6_rank": 100, "fc7_rank": 64}
    assert fast_rcnn._ranks(detector((100, 512))) is None


@pytest.mark.parametrize(
    ("scales", "evaluate"),
    [
        pytest.param((), {}, marks=pytest.mark.long),
        ((224, 320), {}),
        ((), {"flip": True, "second_pass": 4}),
    ],
)
def test_the_stages_together_detect(scales, evaluate):
    """With two scales the larger boxes are pooled at the first, the smaller ones at the second."""
    detector, stages = small_detector(), []
    settings = {"test_scales": scales, "test_max_size": 480}
    detector = dataclasses.replace(detector, config=replace(detector.config, input=settings, evaluate=evaluate))
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (200, 300, 3), np.uint8)
    low = random.uniform(0, 20, (12, 2))
    sides = np.where(np.arange(12)[:, None] % 3 == 0, [270, 175], random.uniform(30, 75, (12, 2)))
    boxes = np.concatenate([low, low + sides], axis=1).astype(np.float32)

    def watch(stage, *call, **static):
        stages.append(stage)
        return untimed(stage, *call, **static)

    found = trim(fast_rcnn._timed(detector)(watch, image, boxes))
    expected = detector.detect(image, boxes)
    assert len(expected.labels) > 0
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    views = 2 if evaluate else 1
    level = ["convolution"] * views + ["pooling"] * views
    once = ["resize", *level * (len(scales) or 1), "fc", "fc", "suppression"]
    assert stages == once + (["pooling"] * views + ["fc", "suppression"] if evaluate else [])
