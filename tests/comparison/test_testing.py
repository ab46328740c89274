"""The test of a system by hand: parts, offsets, clipping, settings; kills, other inputs, times."""

from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.comparison.feature_store import FeatureWriter
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.scoring import CandidatePool
from frcnn_jax.comparison.settings import SelectionConfig
from frcnn_jax.comparison.stages.features import Part
from frcnn_jax.comparison.stages.testing import detect_all

WEIGHTS = {"svms": np.ones(3, np.float32)}
# Two boxes with an IoU of 0.8, one at the lower border of 20 rows and 40 columns, one at the right one.
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 10, 30, 20], [30, 0, 40, 10]], np.float32)


def opened(folder, proposals=(BOXES, BOXES[:0], BOXES[1:]), share=1.0, fingerprint="abc", **selection):
    """The fields of a run that `detect_all` reads: three images of 20 x 40 pixels, two classes."""
    return SimpleNamespace(
        comparison=SimpleNamespace(selection=SelectionConfig(**selection)),
        dataset=SimpleNamespace(classes=("cat", "dog"), fingerprint=fingerprint),
        image_ids=["a", "b", "c"],
        sizes=[(20, 40)] * 3,
        proposals=proposals,
        num_images=len(proposals),
        images=[f"image {index}" for index in range(3)],
        folder=folder,
        record=Record(folder / "record.json", system="rcnn", model="tiny"),
        share=share,
    )


def describe(image, boxes, watch):
    """Two parts in reverse order; features are the boxes' corners, followed by padding."""
    for rows in (np.arange(len(boxes))[1::2], np.arange(len(boxes))[::2]):
        if len(rows):
            features = watch("convolution", np.pad, boxes[rows], ((0, 3), (0, 0)), constant_values=9)
            yield Part(rows, features, features)


def score(pooled, vectors):
    """Cats by the left border, dogs by the upper one; cats move down by half of their height, dogs stay."""
    scores = np.stack([-0.1 * vectors[:, 0], 0.1 * vectors[:, 1] - 3], axis=1).astype(np.float32)
    deltas = np.zeros((len(pooled), 2, 4), np.float32)
    deltas[:, 0, 1] = 0.5
    return scores, deltas


def cats(detections):
    chosen = detections.labels == 1
    return detections.boxes[chosen].tolist(), np.round(detections.scores[chosen], 4).tolist()


def test_by_hand(tmp_path):
    run = opened(tmp_path)
    found = detect_all(run, describe, score, WEIGHTS)
    assert list(found) == ["a", "b", "c"]
    # The first box suppresses the second; the third would leave the image, and is clipped at row 20.
    assert cats(found["a"]) == ([[0, 5, 10, 15], [20, 15, 30, 20], [30, 5, 40, 15]], [0, -2, -3])
    assert not len(found["b"].scores)
    assert cats(found["c"]) == ([[0, 4, 10, 12], [20, 15, 30, 20], [30, 5, 40, 15]], [0, -2, -3])
    dogs = found["c"].labels == 2
    assert found["c"].boxes[dogs].tolist() == [[20, 10, 30, 20], [0, 0, 10, 8], [30, 0, 40, 10]]
    assert np.round(found["c"].scores[dogs], 4).tolist() == [-2, -3, -3]
    times = run.record.content["test"][""]
    assert {name: entry["images"] for name, entry in times.items()} == dict.fromkeys(times, 3)
    assert times.keys() == {"convolution", "fc", "suppression"}


def test_offsets_may_be_missing(tmp_path):
    found = detect_all(opened(tmp_path), describe, lambda *a: (score(*a)[0], None), WEIGHTS)
    assert cats(found["a"])[0] == [[0, 0, 10, 10], [20, 10, 30, 20], [30, 0, 40, 10]]


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        ({"nms_iou": 0.9}, {"a": 4, "c": 3}),
        ({"per_class": 2}, {"a": 1, "c": 2}),
        ({"average": 1}, {"a": 1, "c": 1}),  # of the three best of all images the second in "a" is suppressed
    ],
)
def test_settings_of_selection_count(tmp_path, selection, kept):
    found = detect_all(opened(tmp_path, **selection), describe, score, WEIGHTS)
    assert {image: len(cats(found[image])[1]) for image in "ac"} == kept


def test_a_killed_test_continues_at_the_missing_image(tmp_path, monkeypatch):
    whole = detect_all(opened(tmp_path / "whole"), describe, score, WEIGHTS)
    seen = []

    def dying(image, boxes, watch):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return describe(image, boxes, watch)

    with pytest.raises(KeyboardInterrupt):
        detect_all(opened(tmp_path), dying, score, WEIGHTS)
    run = opened(tmp_path)
    found = detect_all(run, dying, score, WEIGHTS)
    assert seen == ["image 0", "image 1", "image 2", "image 2"]
    for image in "abc":
        np.testing.assert_array_equal(found[image].boxes, whole[image].boxes)
        np.testing.assert_array_equal(found[image].scores, whole[image].scores)
    assert {entry["images"] for entry in run.record.content["test"][""].values()} == {1}
    # Finished images are not scored again, and times stay.
    before = run.record.content["test"]
    monkeypatch.setattr(FeatureWriter, "write", None)
    run = opened(tmp_path)
    detect_all(run, dying, score, WEIGHTS)
    assert len(seen) == 4
    assert run.record.content["test"] == before


def test_a_kill_before_the_times_are_recorded_does_not_lose_them(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CandidatePool, "detections", None)
        with pytest.raises(TypeError):
            detect_all(opened(tmp_path), describe, score, WEIGHTS)
    run = opened(tmp_path)
    assert run.record.content["test"] == {}
    detect_all(run, describe, score, WEIGHTS)
    times = run.record.content["test"][""]
    assert times.keys() == {"convolution", "fc", "suppression"}
    assert all(entry["images"] == 1 and entry["seconds"] > 0 for entry in times.values())


def test_time_of_the_last_suppression_is_shared_among_all_images(tmp_path, monkeypatch):
    """One of three images is timed, and has a third of the 30 seconds."""
    detect_all(opened(tmp_path), describe, score, WEIGHTS)
    with (tmp_path / "tested/written.bin").open("r+b") as file:
        file.write(bytes(8))
    seconds = {"suppression of all": 30.0}

    def watched(self, stage, function, *arguments, **static):
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds.get(stage, 1.0)
        return function(*arguments, **static)

    monkeypatch.setattr("frcnn_jax.comparison.stages.testing.Watch.__call__", watched)
    run = opened(tmp_path, share=0.5)
    detect_all(run, describe, score, WEIGHTS)
    times = run.record.content["test"][""]
    assert times["suppression"] == {"seconds": 1 + 30 / 3, "images": 1, "share": 0.5}
    assert times["convolution"] == {"seconds": 2.0, "images": 1, "share": 0.5}


@pytest.mark.parametrize(
    ("change", "weights", "message"),
    [
        ({}, {"svms": np.zeros(3, np.float32)}, "other system"),
        ({"proposals": (BOXES, BOXES[:0], BOXES[1:] + 1)}, WEIGHTS, "other proposals"),
        ({"fingerprint": "xyz"}, WEIGHTS, "other data: 'abc' there and 'xyz' here. Delete the folder"),
    ],
)
def test_boxes_of_another_test_are_refused(tmp_path, change, weights, message):
    detect_all(opened(tmp_path), describe, score, WEIGHTS)
    with pytest.raises(ValueError, match=message):
        detect_all(opened(tmp_path, **change), describe, score, weights)
