"""Results files of the VOC server, read back."""

import numpy as np
import pytest

from frcnn_jax.evaluation.outputs.voc_results import check_image_ids, voc_results_files, voc_split, write_voc_results
from frcnn_jax.evaluation.voc_map import evaluate_voc
from frcnn_jax.types import GroundTruth
from tests.evaluation.records import detections


def test_voc_results_files(tmp_path):
    dets = {
        "000001": detections(([0, 0, 10, 20], 0.5, 1), ([1.5, 2.25, 30, 40], 1e-6, 2)),
        "000002": detections(([7, 8, 9, 10], 0.1, 1)).replace(mask=np.array([False])),
        "000003": detections(([7, 8, 9, 10], 0.1, 1)),
    }
    paths = write_voc_results(tmp_path, dets, ["cat", "dog", "emu"], "test")
    assert [p.name for p in paths] == [f"comp4_det_test_{name}.txt" for name in ("cat", "dog", "emu")]
    assert paths[0].read_text() == (
        "000001 0.5 1.000 1.000 10.000 20.000\n"  # half-open (0, 0, 10, 20) covers pixels 1 ... 10 and 1 ... 20
        "000003 0.1 8.000 9.000 9.000 10.000\n"
    )
    assert paths[1].read_text() == "000001 0.000001 2.500 3.250 30.000 40.000\n"
    assert paths[2].read_text() == ""


def test_voc_scores_stay_distinct(tmp_path):
    scores = np.nextafter(np.float32(0.07), np.float32(1)), np.float32(0.07)
    (path,) = write_voc_results(tmp_path, {"a": detections(*(([0, 0, 1, 1], s, 1) for s in scores))}, ["c"], "test")
    assert tuple(np.float32(line.split()[1]) for line in path.read_text().splitlines()) == scores


def read_voc_results(directory, image_ids, class_names):
    """Detections by image id from results files of split `test`."""
    rows = {image: [] for image in image_ids}
    for label, name in enumerate(class_names, start=1):
        for line in (directory / f"comp4_det_test_{name}.txt").read_text().splitlines():
            image, score, *corners = line.split()
            x1, y1, x2, y2 = map(float, corners)
            rows[image].append(([x1 - 1, y1 - 1, x2, y2], float(score), label))
    return {image: detections(*found) for image, found in rows.items()}


@pytest.mark.parametrize("use_07_metric", [True, False])
def test_results_files_read_back_give_the_same_ap(tmp_path, use_07_metric):
    random, names = np.random.default_rng(0), ["a", "b", "c"]
    dets, gts = {}, {}
    for i in range(40):
        low, shift = random.uniform(0, 400, (6, 2)), random.uniform(-9, 9, (60, 4))
        boxes = np.concatenate([low, low + random.uniform(20, 90, (6, 2))], axis=1)
        labels = random.integers(1, 3, 6)  # the last class has no objects
        gts[f"{i:06}"] = GroundTruth(boxes=boxes.astype(np.float32), labels=labels, difficult=random.random(6) < 0.2)
        scores = random.random(60).astype(np.float32) ** 20  # close to 0 as scores are, down to 1e-40
        scores[::4] = np.nextafter(scores[1::4], np.float32(1))
        dets[f"{i:06}"] = detections(
            *zip(np.tile(boxes, (10, 1)) + shift, scores, random.integers(1, 4, 60), strict=True)
        )
    write_voc_results(tmp_path, dets, names, "test")
    again = read_voc_results(tmp_path, dets, names)
    before, after = (
        evaluate_voc(found, gts, class_names=names, use_07_metric=use_07_metric) for found in (dets, again)
    )
    assert after == before
    assert 0.1 < before["map"] < 0.9


@pytest.mark.parametrize(
    ("image", "names", "split", "message"),
    [
        ("a b", ["c"], "test", "image id 'a b' is empty or has white space"),
        ("", ["c"], "test", "image id '' is empty"),
        ("a", ["c/d"], "test", "'c/d' cannot be part of the name"),
        ("a", ["c"], "../test", "'../test' cannot be part of the name"),
        ("a", ["c", "c"], "test", r"class_names: 'c' occurs twice in \['c', 'c'\]"),
        ("a", "c", "test", r"class_names: 'c' is one text, expected a sequence of names such as \['c'\]"),
        ("a", [], "test", "labels: 1 is outside 1 ... 0"),
    ],
)
def test_voc_results_that_cannot_be_written(tmp_path, image, names, split, message):
    with pytest.raises(ValueError, match=message):
        write_voc_results(tmp_path, {image: detections(([0, 0, 1, 1], 0.5, 1))}, names, split)
    assert not list(tmp_path.iterdir())


def test_ids_that_a_results_file_cannot_hold_are_counted(tmp_path):
    check_image_ids(tmp_path, ["a", "b-1", "\u732b"])
    with pytest.raises(ValueError, match=r"image id 'a b' is empty or has white space.* \(3 of 4 ids are or have\)"):
        check_image_ids(tmp_path, ["a", "a b", "", "c\td"])


def test_the_servers_name_of_a_split():
    names = ("voc/2012/validation", "voc/2007/test", "folder/mine")
    assert [voc_split(name) for name in names] == ["val", "test", "mine"]


def test_class_names_too_long_for_a_file(tmp_path):
    assert len(voc_results_files(tmp_path, ["x" * 236], "test")[0].name) == 255
    with pytest.raises(ValueError, match=r"comp4_det_test_x{237}\.txt is longer than the 255 bytes of a file's name"):
        voc_results_files(tmp_path, ["x" * 237], "test")
