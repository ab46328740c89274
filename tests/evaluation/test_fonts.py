"""Class names in any script: drawn with a font that has their characters, else numbered with a note; never blank."""

import cv2
import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from frcnn_jax.evaluation import fonts
from frcnn_jax.evaluation.drawing import draw_detections
from frcnn_jax.evaluation.pages.figures import plot_precision_recall
from frcnn_jax.evaluation.report import write_report
from frcnn_jax.evaluation.voc_map import evaluate_voc, precision_recall
from frcnn_jax.types import GroundTruth
from tests.evaluation.records import detections

GREY = np.full((500, 600, 3), 128, np.uint8)


@pytest.fixture(autouse=True)
def bundled_fonts(monkeypatch):
    """Only the fonts that come with Matplotlib, among them one with a box for every character."""
    data = matplotlib.get_data_path()
    monkeypatch.setattr(fontManager, "ttflist", [f for f in fontManager.ttflist if f.fname.startswith(data)])


def add_font(folder, name, characters):
    """Installs a font in which each of the characters is a black square."""
    pen = TTGlyphPen(None)
    for place, corner in enumerate(((100, 0), (100, 800), (900, 800), (900, 0))):
        (pen.lineTo if place else pen.moveTo)(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square" for character in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = folder / f"{name}.ttf"
    builder.save(path)
    fontManager.addfont(path)


def test_usual_fonts_come_first_and_others_only_for_what_they_lack(tmp_path):
    usual = matplotlib.rcParams["font.family"]
    assert fonts.font_families("cat, \u0436\u0443\u043a, caf\u00e9") == usual
    assert fonts.font_families("\u732b") is None  # the box for every character is no letter
    add_font(tmp_path, "Cats", "\u732b\u72ac")
    add_font(tmp_path, "Birds", "\u9ce5")
    assert fonts.font_families("cat \u732b") == [*usual, "Cats"]
    assert fonts.font_families("\u732b\u9ce5\u72ac") == [*usual, "Cats", "Birds"]
    assert fonts.font_families("\u732b\u9f8d") is None


def test_fonts_of_boxes_and_of_colored_bitmaps_are_not_used(tmp_path):
    for name in ("Last Resort Two", "Some Color Emoji"):
        add_font(tmp_path, name, "\u9f99")
    assert fonts.font_families("\u9f99") is None


def test_names_without_a_font_are_numbered_by_their_label(tmp_path):
    names = ["cat", "\u732b", "\u0436\u0443\u043a", "a\tb"]
    assert fonts.drawable_names(names) == ["cat", "class 2", "\u0436\u0443\u043a", "class 4"]
    add_font(tmp_path, "More Cats", "\u732b")
    assert fonts.drawable_names(names)[1] == "\u732b"


def measured(names):
    dets = [detections(*(([0, 0, 9, 9], 0.9, label) for label in range(1, len(names) + 1)))]
    boxes, labels = np.tile([0, 0, 9, 9], (len(names), 1)), np.arange(1, len(names) + 1)
    gts = [GroundTruth(boxes=boxes, labels=labels, difficult=np.zeros(len(names), bool))]
    return evaluate_voc(dets, gts, class_names=names), precision_recall(dets, gts, class_names=names)


def svg_text(curves, path):
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_precision_recall(curves, path)
    return path.read_text()


def test_figure_and_page_say_which_names_are_numbered(tmp_path):
    metrics, curves = measured(["cat", "\u9f8d", "\u0436\u0443\u043a"])
    svg = svg_text(curves, tmp_path / "a.svg")
    assert " class 2</text>" in svg
    assert " \u0436\u0443\u043a</text>" in svg
    assert "\u9f8d" not in svg
    assert "Names in characters that no installed font has are given as numbers, such as class 2." in svg
    page = write_report(tmp_path, metrics, curves).read_text(encoding="utf-8")
    assert "<tr><td>\u9f8d<td>class 2" in page
    assert "<tr><td>cat<td>cat" in page
    assert "In the figure and the pictures, \u9f8d: given as numbers" in page


def test_figure_and_page_with_a_font_for_every_name_say_nothing(tmp_path):
    add_font(tmp_path, "Dragons", "\u9f8d")
    metrics, curves = measured(["cat", "\u9f8d"])
    svg = svg_text(curves, tmp_path / "a.svg")
    assert " \u9f8d</text>" in svg
    assert "Dragons" in svg
    assert "given as numbers" not in svg
    page = write_report(tmp_path, metrics, curves).read_text(encoding="utf-8")
    assert "<tr><td>\u9f8d<td>1.0000" in page
    assert "numbers" not in page
    # The square, in the legend's ink.
    dark = (cv2.imread(str(tmp_path / "precision_recall.png"))[:, 800:] < 60).all(axis=2).astype(np.uint8)
    assert cv2.erode(dark, np.ones((7, 7))).any()


def test_pictures_show_names_in_the_font_that_has_them(tmp_path):
    found = detections(([100, 200, 300, 400], 0.9, 1))
    numbered = draw_detections(GREY, found, ["\u9d8f"])
    np.testing.assert_array_equal(numbered, draw_detections(GREY, found, ["class 1"]))
    add_font(tmp_path, "Hens", "\u9d8f")
    white = (draw_detections(GREY, found, ["\u9d8f"]) == 255).all(axis=2).astype(np.uint8)
    square = cv2.erode(white, np.ones((9, 9)))[:200, 100:130]
    assert square.any()  # filled, at the start of the text, on the plate above the box
    assert not cv2.erode((numbered == 255).all(axis=2).astype(np.uint8), np.ones((9, 9))).any()


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [560, 460, 600, 500], [0, 0, 600, 500]])
def test_other_letters_stay_inside_the_image(box):
    drawn = draw_detections(GREY, detections((box, 0.9, 1)), ["\u0436\u0443\u043a"])
    rows, columns = np.nonzero((drawn > 180).all(axis=2))
    assert len(rows) > 50
    assert min(rows.min(), columns.min()) > 0
    assert rows.max() < 499
    assert columns.max() < 599


def test_a_name_wider_than_the_image_is_cut_off():
    image = np.full((480, 20, 3), 128, np.uint8)
    drawn = draw_detections(image, detections(([0, 100, 20, 200], 0.9, 1)), ["\u0436" * 40])
    assert drawn.shape == image.shape
    assert (drawn > 180).all(axis=2).any()
