"""Metrics, pictures, curves and page, each read back."""

import json
import os
import re

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from frcnn_jax.evaluation.analysis.matches import KINDS
from frcnn_jax.evaluation.drawing import PALETTE
from frcnn_jax.evaluation.pages.figures import plot_f1, plot_precision_recall
from frcnn_jax.evaluation.pages.gallery import jpeg
from frcnn_jax.evaluation.report import write_image, write_metrics, write_report
from frcnn_jax.evaluation.voc_map import PrecisionRecall, evaluate_voc, precision_recall
from frcnn_jax.types import GroundTruth
from tests.evaluation.pages.reading import Page
from tests.evaluation.records import detections, pixels


def test_image_file_keeps_rgb(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    write_image(tmp_path / "deep" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "deep" / "a.png"))[:, :, ::-1], image)
    with pytest.raises(ValueError, match=r"a\.xyz: '\.xyz' names no image format"):
        write_image(tmp_path / "a.xyz", image)
    wide = np.zeros((4, 70000, 3), np.uint8)
    write_image(tmp_path / "a.jpg", wide)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape[1] == 65500
    assert cv2.imdecode(np.frombuffer(jpeg(wide), np.uint8), cv2.IMREAD_COLOR).shape[1] == 65500


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


@pytest.fixture
def evaluation():
    """Metrics and curves of two measured classes with awkward names and one without objects."""
    names = ["<b>&", "_x$y$", "none"]
    dets = [detections(([0, 0, 9, 9], 0.9, 1), ([50, 50, 60, 60], 0.8, 1), ([0, 0, 9, 9], 0.9, 2))]
    gts = [GroundTruth(boxes=np.array([[0, 0, 9, 9]] * 3), labels=np.array([1, 1, 2]), difficult=np.zeros(3, bool))]
    return evaluate_voc(dets, gts, class_names=names), precision_recall(dets, gts, class_names=names)


def test_report_page(tmp_path, evaluation):
    metrics, curves = evaluation
    more = {"step": 300, "dataset": "folder/test", "checkpoint": "the best of 2", "other_number": 0.123456}
    index = write_report(tmp_path / "eval", {**metrics, **more}, curves, title="Run <1>")
    assert index == tmp_path / "eval" / "index.html"
    text = index.read_text(encoding="utf-8")
    page = Page(text)
    assert {"Run", "<1>", "<b>&", "_x$y$", "none", "–", "1.0000", "0.5455", "0.7727"} <= set(page.words)
    shown = " ".join(page.words)
    assert (
        "1 image of folder/test; VOC 2007's AP at 11 points of recall, at an IoU of 0.5; after step 300; "
        "the checkpoint is the best of 2; other number 0.1235"
    ) in shown
    assert "the test has 3 objects in 1 image" in shown
    assert "<b>&" not in text
    assert page.links == ["precision_recall.png"]
    assert {path.name for path in index.parent.iterdir()} == {"index.html", "precision_recall.png"}


def test_report_of_nothing(tmp_path):
    page = write_report(tmp_path, evaluate_voc([], [], class_names=["a"]), precision_recall([], [])).read_text()
    assert "not measured" in page
    assert "Pictures" not in page
    with pytest.raises(ValueError, match="metrics without 'ap'"):
        write_report(tmp_path, {"map": 1.0}, {})
    with pytest.raises(ValueError, match="metrics without 'images'"):
        write_report(tmp_path, {"map": 1.0, "ap": {}, "objects": {}, "detections": {}}, {})


def test_report_shows_recall_by_size_with_numbers_of_objects(tmp_path, evaluation):
    metrics, curves = evaluation
    by_size = {"small": {"objects": 7, "recall": 0.25}, "medium": {"objects": 0, "recall": None}}
    page = write_report(tmp_path, {**metrics, "recall_by_size": by_size}, curves).read_text("utf-8")
    assert "size objects recall small (below 32²) 7 0.250 medium (32² to 96²) 0 –" in " ".join(Page(page).words)


def test_report_says_that_pictures_are_off(tmp_path, evaluation):
    page = write_report(tmp_path, *evaluation, pictures_off=True).read_text("utf-8")
    line = "Pictures None, as evaluate.pictures is 0: frcnn evaluate with --evaluate.pictures 200 draws some."
    assert line in " ".join(Page(page).words)
    drawn = write_report(tmp_path, *evaluation, gallery={"images": []}, pictures_off=False).read_text("utf-8")
    assert "evaluate.pictures" not in drawn


def test_report_shows_coco_measures_where_there_are_some(tmp_path, evaluation):
    metrics, curves = evaluation
    coco = {"AP": 0.4321, "AP_small": None, "ap": {"<b>&": 0.1234, "_x$y$": 0.5, "none": None}}
    words = Page(write_report(tmp_path, {**metrics, "coco": coco}, curves).read_text("utf-8")).words
    assert {"COCO's", "AP_small", "0.4321", "0.1234"} <= set(words)


def test_bars_of_ap_have_a_legend_and_ap_alone_is_green(tmp_path, evaluation):
    metrics, curves = evaluation
    errors = {"<b>&": dict.fromkeys(KINDS, 0.05)}
    page = write_report(tmp_path, {**metrics, "errors_by_class": errors}, curves).read_text("utf-8")
    assert f"The bars: AP lost to the errors {' '.join(KINDS)}" in " ".join(Page(page).words)
    legend, bar = (
        re.search(rf'class="{name}">.*?(?:</p>|</tr>)', page, re.DOTALL)[0] for name in ("note legend", "bar")
    )
    classes = ["ap", *KINDS]
    assert re.findall("kind-([a-z]+)", legend) == re.findall("kind-([a-z]+)", bar) == classes
    colors = dict(re.findall(r"\.kind-([a-z]+) { background: #([0-9a-f]{6}) }", page))
    assert [name for name in classes if colors[name][2:4] > colors[name][:2]] == ["ap"]
    assert len({colors[name] for name in classes}) == len(classes)


def test_f1_figure(tmp_path, evaluation):
    _, curves = evaluation
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_f1(curves, tmp_path / "f1.svg", best={"<b>&": {"f1": 0.6543}, "_x$y$": None, "none": None})
    svg = (tmp_path / "f1.svg").read_text()
    assert "0.654" in svg
    assert "_x$y$</text>" in svg
    assert [("stroke: #{:02x}{:02x}{:02x}".format(*color) in svg) for color in PALETTE[:3]] == [True, True, False]


def many(count, name):
    curve = PrecisionRecall(scores=np.linspace(1, 0, 5), true_positives=np.arange(1, 6), objects=5, detections=5)
    return {name.format(i): curve for i in range(count)}


@pytest.mark.parametrize("count", [41, 365])
def test_a_figure_of_many_classes_names_the_best_and_the_worst(tmp_path, count):
    curves = many(count, "class {}")
    ap = {name: None if i == 3 else i / count for i, name in enumerate(curves)}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_precision_recall(curves, tmp_path / "a.svg", ap=ap)
        plot_precision_recall(curves, tmp_path / "without.svg")
    named = [int(number) for number in re.findall(r">[.\d]+ +class (\d+)</text>", (tmp_path / "a.svg").read_text())]
    assert named == [*range(count - 1, count - 11, -1), 10, 9, 8, 7, 6, 5, 4, 2, 1, 0]
    assert f"best and worst 10 of {count}" in (tmp_path / "a.svg").read_text()
    assert not re.search(r">[^<]*class \d+</text>", (tmp_path / "without.svg").read_text())


def test_a_class_has_the_same_color_in_figures_and_pictures(tmp_path):
    curves = many(45, "class {}")
    ap = {name: i / 45 if i < 15 else None for i, name in enumerate(curves)}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_precision_recall(curves, tmp_path / "a.svg", ap=ap)
    text = (tmp_path / "a.svg").read_text()
    assert "15 of 45" in text
    assert "best and worst" not in text
    drawn = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1.5", text)
    for i in range(15):
        assert "#{:02x}{:02x}{:02x}".format(*PALETTE[i % len(PALETTE)]) in drawn


def test_no_two_classes_of_a_legend_look_alike(tmp_path):
    """Of 100 classes the first and the eighty-first would."""
    curves = many(100, "class {}")
    ap = {name: 0.5 if i in (0, 80) else None for i, name in enumerate(curves)}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_precision_recall(curves, tmp_path / "a.svg", ap=ap)
    drawn = re.findall(r"stroke: #[0-9a-f]{6}; stroke-width: 1.5[^\"]*", (tmp_path / "a.svg").read_text())
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("name", ["{}", "{} of a class with a long and descriptive name", "{} " + "long " * 40])
@pytest.mark.parametrize("count", [1, 13, 40, 150])
def test_the_legend_leaves_room_for_the_curves(tmp_path, monkeypatch, name, count):
    """A legend too wide or high for the figure is a warning of Matplotlib's."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs)
    )
    curves = many(count, name)
    plot_precision_recall(curves, tmp_path / "a.png", ap=dict.fromkeys(curves, 0.5))
    (axes,) = figures[0].axes
    assert axes.get_position().width > 0.35
    legend = axes.get_legend().get_window_extent()
    assert legend.y0 >= 0
    assert legend.y1 <= figures[0].bbox.height


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
