"""Metrics, pictures, curves, page and results files, each read back."""

import html.parser
import inspect
import json
import os
import urllib.parse

import cv2
import matplotlib
import numpy as np
import pytest

from frcnn_jax.evaluation.drawing import PALETTE
from frcnn_jax.evaluation.report import draw_detections, plot_precision_recall, write_image, write_metrics, write_report
from frcnn_jax.evaluation.results import write_voc_results
from frcnn_jax.evaluation.voc_map import evaluate_voc, precision_recall
from frcnn_jax.types import Detections, GroundTruth

GREY = np.full((500, 600, 3), 128, np.uint8)


def detections(*rows):
    return Detections(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int32),
        mask=np.ones(len(rows), bool),
    )


def pixels(image, color):
    return (image == np.array(color)).all(axis=2)


def ink(image):
    """White letters with most of their soft edges."""
    return (image > 180).all(axis=2)


def test_boxes_are_drawn_where_they_are():
    image = GREY.copy()
    drawn = draw_detections(image, detections(([100, 200, 300, 400], 0.9, 2)), ["a", "b"])
    np.testing.assert_array_equal(image, GREY)
    assert drawn.shape == image.shape
    edge = pixels(drawn, PALETTE[1])
    for y, x in ((200, 200), (399, 200), (300, 100), (300, 299)):
        assert edge[y, x]
    rows, columns = np.nonzero(pixels(drawn, (128, 128, 128)) == 0)
    assert rows.max() <= 401  # nothing beyond the line below and beside the box
    assert columns.min() >= 98
    assert columns.max() <= 301
    assert pixels(drawn, (128, 128, 128))[205:395, 105:295].all()
    assert edge[170:195, 100:150].mean() > 0.2  # the plate of the text stands above


def test_only_real_detections_with_enough_score_are_drawn():
    both = detections(([100, 200, 300, 400], 0.5, 1), ([20, 200, 80, 400], 0.499, 2))
    drawn = draw_detections(GREY, both, ["a", "b"], min_score=0.5)
    assert pixels(drawn, PALETTE[0]).any()
    assert not pixels(drawn, PALETTE[1]).any()
    masked = both.replace(mask=np.array([False, True]))
    np.testing.assert_array_equal(draw_detections(GREY, masked, ["a", "b"]), GREY)


def test_text_stays_inside_the_image():
    height, width = GREY.shape[:2]
    for box in (
        [0, 0, 40, 30],
        [width - 20, 0, width, 30],
        [width - 9, height - 9, width, height],
        [0, 0, width, height],
    ):
        drawn = draw_detections(GREY, detections((box, 0.9, 1)), ["aeroplane"])
        letters = ink(drawn)
        rows, columns = np.nonzero(letters)
        assert letters.sum() > 50
        assert rows.min() > 0
        assert columns.min() > 0
        assert rows.max() < height - 1
        assert columns.max() < width - 1


def test_texts_of_overlapping_boxes_do_not_cover_each_other():
    box = [200, 200, 400, 400]
    alone = pixels(draw_detections(GREY, detections((box, 0.9, 1)), ["name", "name"]), PALETTE[0])[150:199].sum()
    drawn = draw_detections(GREY, detections((box, 0.9, 1), (box, 0.8, 2)), ["name", "name"])
    assert pixels(drawn, PALETTE[0])[150:199].sum() == alone > 200
    assert pixels(drawn, PALETTE[1]).sum() > 0.9 * alone


def test_lines_and_text_grow_with_the_image():
    def text_height(factor):
        image = np.full((500 * factor, 600 * factor, 3), 128, np.uint8)
        box = [200 * factor, 200 * factor, 400 * factor, 400 * factor]
        rows, _ = np.nonzero(ink(draw_detections(image, detections((box, 0.9, 1)), ["H"])))
        return rows.max() - rows.min() + 1

    assert text_height(1) >= 10
    assert 3 < text_height(4) / text_height(1) < 5


def test_small_images_are_enlarged_with_their_boxes():
    image = np.full((20, 30, 3), 128, np.uint8)
    drawn = draw_detections(image, detections(([10, 5, 20, 15], 0.9, 1)), ["a"])
    assert drawn.shape == (320, 480, 3)
    edge = pixels(drawn, PALETTE[0])
    assert edge[239, 240]
    assert edge[160, 160]
    assert edge[160, 319]
    assert draw_detections(np.zeros((1, 1, 3), np.uint8), detections(), []).shape == (480, 480, 3)
    long = draw_detections(np.zeros((2, 900, 3), np.uint8), detections(([0, 0, 900, 2], 0.9, 1)), ["a"])
    assert long.shape == (2, 900, 3)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_ground_truth_is_dashed_and_visible_on_any_background(background):
    image = np.full((500, 600, 3), background, np.uint8)
    truth = GroundTruth(boxes=np.array([[100, 200, 300, 400.0]]), labels=np.ones(1, int), difficult=np.zeros(1, bool))
    drawn = draw_detections(image, detections(), ["a"], ground_truth=truth)
    for side in (drawn[200, 100:300], drawn[399, 100:300], drawn[200:400, 100], drawn[200:400, 299]):
        white = (side == 255).all(axis=1)
        assert 0.4 < white.mean() < 0.8
        assert np.abs(np.diff(white.astype(int))).sum() > 10
    assert (drawn[205:395, 105:295] == background).all()


def test_more_classes_than_colors():
    drawn = draw_detections(GREY, detections(([100, 200, 300, 400], 0.9, 21)), [str(i) for i in range(21)])
    assert pixels(drawn, PALETTE[0]).any()
    assert len(set(PALETTE)) == len(PALETTE) == 20


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 4), (0, 5, 3), "float"])
def test_wrong_images_are_refused(tmp_path, shape):
    image = np.zeros((5, 5, 3), np.float32) if shape == "float" else np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"image: .*, expected uint8 \[H, W, 3\]"):
        inspect.unwrap(draw_detections)(image, detections(), [])
    with pytest.raises(ValueError, match=r"image: .*, expected uint8 \[H, W, 3\]"):
        inspect.unwrap(write_image)(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_unnamed_class_is_refused():
    with pytest.raises(ValueError, match=r"labels: 2 is outside 1 ... 1"):
        draw_detections(GREY, detections(([1, 2, 3, 4], 0.9, 2)), ["a"])


def test_image_file_keeps_rgb(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    write_image(tmp_path / "deep" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "deep" / "a.png"))[:, :, ::-1], image)
    with pytest.raises(ValueError, match=r"a\.xyz: '\.xyz' names no image format"):
        write_image(tmp_path / "a.xyz", image)


def test_metrics_are_json_and_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "eval" / "metrics.json"
    write_metrics(path, {"map": 0.5, "ap": {"a": None}})
    assert json.loads(path.read_text()) == {"map": 0.5, "ap": {"a": None}}
    for bad in (float("nan"), np.float32(1)):
        with pytest.raises(ValueError, match=r"metrics\.json: metrics cannot be written as JSON"):
            write_metrics(path, {"map": bad})

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="no space left"):
            write_metrics(path, {"map": 1.0})
    assert json.loads(path.read_text())["map"] == 0.5
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data.split()


@pytest.fixture
def evaluation():
    """Metrics and curves of two measured classes with awkward names and one without objects."""
    names = ["<b>&", "_x$y$", "none"]
    dets = [detections(([0, 0, 9, 9], 0.9, 1), ([50, 50, 60, 60], 0.8, 1), ([0, 0, 9, 9], 0.9, 2))]
    gts = [GroundTruth(boxes=np.array([[0, 0, 9, 9]] * 3), labels=np.array([1, 1, 2]), difficult=np.zeros(3, bool))]
    return evaluate_voc(dets, gts, class_names=names), precision_recall(dets, gts, class_names=names)


def test_report_page_and_its_files(tmp_path, evaluation):
    metrics, curves = evaluation
    ids = ["000004", "a b", "sub/dir", "../up", "ü%2F#?", "sub%2Fdir"]
    pictures = {name: np.full((20, 30, 3), 10 * i, np.uint8) for i, name in enumerate(ids)}
    index = write_report(tmp_path / "eval", {**metrics, "step": 300}, pictures, curves, title="Run <1>")
    assert index == tmp_path / "eval" / "index.html"
    text = index.read_text(encoding="utf-8")
    page = Page(text)
    assert {"Run", "<1>", "<b>&", "_x$y$", "none", "–", "1.0000", "0.5455", "0.7727", "300", "voc07,"} <= set(page.text)
    assert "<b>&" not in text
    assert len(page.links) == 1 + 2 * len(ids)
    files = {(index.parent / urllib.parse.unquote(link)).resolve() for link in page.links}
    assert len(files) == 1 + len(ids)
    written = {p.resolve() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == files | {index.resolve()}
    for i, link in enumerate(page.links[1::2]):
        picture = cv2.imread(str(index.parent / urllib.parse.unquote(link)))
        assert picture.shape == (20, 30, 3)
        assert abs(int(picture[0, 0, 0]) - 10 * i) <= 2


def test_report_of_nothing(tmp_path):
    page = write_report(tmp_path, evaluate_voc([], [], class_names=["a"]), {}, precision_recall([], [])).read_text()
    assert "not measured" in page
    assert "Pictures" not in page
    with pytest.raises(ValueError, match="metrics without 'ap'"):
        write_report(tmp_path, {"map": 1.0}, {}, {})


def test_curve_figure(tmp_path, evaluation):
    metrics, curves = evaluation
    plot_precision_recall(curves, tmp_path / "a.png", ap=metrics["ap"])
    figure = cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1]
    assert figure.shape == (600, 960, 3)
    assert pixels(figure, PALETTE[0]).any()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_precision_recall(curves, tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    for color, drawn in zip(PALETTE, (True, True, False), strict=False):
        assert ("stroke: #{:02x}{:02x}{:02x}".format(*color) in svg) == drawn
    assert "_x$y$</text>" in svg  # neither hidden as Matplotlib hides names with _, nor set as a formula


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
        ("a", ["c", "c"], "test", "a class is named twice"),
        ("a", [], "test", "labels: 1 is outside 1 ... 0"),
    ],
)
def test_voc_results_that_cannot_be_written(tmp_path, image, names, split, message):
    with pytest.raises(ValueError, match=message):
        write_voc_results(tmp_path, {image: detections(([0, 0, 1, 1], 0.5, 1))}, names, split)
    assert not list(tmp_path.iterdir())
