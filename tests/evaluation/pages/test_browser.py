"""The pages in headless Chromium: filters, scrolling, narrow and wide windows, and an empty console."""

import html
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from frcnn_jax.config import Config, replace
from frcnn_jax.evaluation.analysis.error_kinds import error_kinds
from frcnn_jax.evaluation.analysis.matches import match_dataset
from frcnn_jax.evaluation.analysis.measures import best_f1, recall_by_size
from frcnn_jax.evaluation.looking.page import write_page
from frcnn_jax.evaluation.looking.samples import sample_pictures
from frcnn_jax.evaluation.looking.survey import survey_folder
from frcnn_jax.evaluation.pages import gallery
from frcnn_jax.evaluation.report import write_report
from frcnn_jax.evaluation.voc_map import evaluate_voc, precision_recall
from tests.data.voc_files import VocFiles, object_xml
from tests.evaluation.pages.test_gallery import Scenes
from tests.evaluation.records import A, B, C, detections, truth

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
NAMES = ("<b>&</script>", "two")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium-headless-shell"),
]


def probed(page, script, *, width=1400, state=""):
    """The value that `script` returns in the page, in a window of that width; what the console says is an error."""
    copy = page.with_name("probe.html")
    probe = f"""<pre id="probe"></pre><script>addEventListener("load", () => {{
      const value = (() => {{ {script} }})();
      document.getElementById("probe").textContent = JSON.stringify(value);
    }})</script>"""
    copy.write_text(page.read_text("utf-8") + probe, "utf-8")
    options = ["--no-sandbox", "--disable-gpu", "--headless", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--window-size={width},800", "--dump-dom", f"{copy.as_uri()}{state}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """100 images: one with a false alarm, one with a missed object, one of class two, the others right."""
    directory = tmp_path_factory.mktemp("eval")
    ids = [f"{i:03d} <i>" for i in range(100)]
    truths, found = [truth((A,)) for _ in ids], [detections((A, 0.8)) for _ in ids]
    found[3] = detections((A, 0.8), (B, 0.7))
    found[5] = detections((A, 0.3))
    truths[7], found[7] = truth((A, 2), (C, 2, True)), detections((A, 0.9, 2), (C, 0.95, 2))
    by_id, truth_by_id = (dict(zip(ids, its, strict=True)) for its in (found, truths))
    matches = match_dataset(by_id, truth_by_id, num_classes=2)
    errors = error_kinds(matches, NAMES)
    curves = precision_recall(by_id, truth_by_id, class_names=NAMES)
    metrics = {
        **evaluate_voc(by_id, truth_by_id, class_names=NAMES),
        "best_f1": {name: best_f1(curve) for name, curve in curves.items()},
        "errors": errors["kinds"],
        "errors_by_class": errors["classes"],
        "recall_by_size": recall_by_size(matches),
    }
    chosen = gallery.write_gallery(directory, Scenes(ids, truths), by_id, matches, pictures=100, min_score=0.5)
    return write_report(directory, metrics, curves, gallery=chosen)


SHOWN = """
const names = () => [...document.querySelectorAll("#cards b")].map((node) => node.textContent);
const set = (id, value) => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event("input"));
};
"""


def test_filters(report):
    script = (
        SHOWN
        + """
    const seen = {};
    const note = (name) => { seen[name] = [document.getElementById("count").textContent, names(), location.hash]; };
    note("start"); set("show", "missed"); note("missed"); set("score", 0.2); note("lower");
    set("show", "false"); note("false"); set("score", 0.75); note("higher");
    set("class", 2); note("class"); set("show", "best"); note("best");
    set("show", "background"); set("class", 0); set("score", 0.5); note("background");
    set("show", "class"); note("confused");
    return seen;
    """
    )
    seen = probed(report, script)
    assert sorted(seen["start"][1]) == ["003 <i>", "005 <i>"]
    assert seen["start"][0] == "2 images"
    assert seen["missed"][:2] == ["1 image", ["005 <i>"]]
    assert seen["lower"][1] == []
    assert seen["false"][1] == ["003 <i>"]
    assert seen["higher"][1] == seen["class"][1] == []
    assert seen["best"][1] == ["007 <i>"]
    assert "class=two" in seen["best"][2]
    assert seen["background"][1] == ["003 <i>"]
    assert seen["confused"][1] == []


def test_a_link_keeps_the_filters(report):
    assert probed(report, SHOWN + "return names();", state="#show=best&class=two&score=0.6") == ["007 <i>"]


def test_cards_come_as_one_scrolls_and_pictures_are_lazy(report):
    script = (
        SHOWN
        + """
    set("show", "all");
    const first = names().length;
    document.getElementById("more").click();
    document.getElementById("more").click();
    const images = [...document.querySelectorAll("#cards img")];
    return [first, names().length, document.getElementById("more").hidden, images.every((i) => i.loading === "lazy")];
    """
    )
    assert probed(report, script) == [48, 100, True, True]


def test_boxes_are_drawn_over_the_picture(report):
    script = (
        SHOWN
        + """
    set("show", "best"); set("class", 2);
    const card = document.querySelector(".card");
    const of = (node) => ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
    return [...card.querySelectorAll("rect")].map((node) => [node.getAttribute("class"), node.textContent, of(node)]);
    """
    )
    assert probed(report, script) == [
        ["ignored", "two 0.95", [40, 0, 10, 10]],
        ["hit", "two 0.90", [0, 0, 10, 10]],
    ]


def test_many_images_do_not_choke_it(tmp_path, monkeypatch):
    """5,000 images with 100 detections each: 48 cards, however many there are, and filters over all of them."""
    monkeypatch.setattr(gallery, "draw_detections", lambda image, *_, **__: image)
    ids = [f"{i:04d}" for i in range(5000)]
    random = np.random.default_rng(0)
    boxes = np.tile(np.float32([[0, 0, 10, 10]]), (100, 1))
    found = {
        name: detections(*zip(boxes, random.random(100) ** 3, random.integers(1, 3, 100), strict=True)) for name in ids
    }
    truths = {name: truth((A,)) for name in ids}
    matches = match_dataset(found, truths, num_classes=2)
    chosen = gallery.write_gallery(tmp_path, Scenes(ids, truths.values()), found, matches, pictures=5000, min_score=0.5)
    metrics = evaluate_voc(found, truths, class_names=NAMES)
    page = write_report(tmp_path, metrics, precision_recall(found, truths, class_names=NAMES), gallery=chosen)
    assert page.stat().st_size < 20e6
    script = (
        SHOWN
        + """
    const before = names().length;
    set("show", "false"); set("class", 2); set("score", 0.99);
    return [before, document.getElementById("count").textContent, names().length];
    """
    )
    before, count, after = probed(page, script)
    sure = sum(bool((its.scores[its.labels == 2] >= 0.99).any()) for its in found.values())
    assert before == 48
    assert abs(int(count.split()[0]) - sure) < 0.05 * sure  # of rounded scores
    assert after == 48


@pytest.mark.parametrize("width", [360, 1400])
def test_report_fits_the_window(report, width):
    script = """
    const images = [...document.images].filter((image) => image.loading !== "lazy");
    return [document.documentElement.scrollWidth, innerWidth, images.every((image) => image.naturalWidth > 0)];
    """
    scroll, inner, loaded = probed(report, script, width=width)
    assert inner == width
    assert scroll <= inner
    assert loaded


@pytest.mark.parametrize("width", [360, 1400])
def test_look_at_the_data_fits_the_window(tmp_path, width):
    files = VocFiles(tmp_path)
    for i in range(4):
        files.image(f"a-rather-long-name-of-an-image-{i}", object_xml("cat", (2, 3, 10 + i, 22)))
    wide = cv2.imencode(".jpg", np.zeros((30, 900, 3), np.uint8))[1].tobytes()
    files.image("wide", object_xml("dog", (1, 1, 900, 30)), object_xml("dog", (5, 5, 5, 5)), xml=None)
    (tmp_path / "JPEGImages/wide.jpg").write_bytes(wide)
    (tmp_path / "Annotations/wide.xml").write_text(
        (tmp_path / "Annotations/wide.xml").read_text().replace("<width>40<", "<width>900<")
    )
    files.split("train", *(f"a-rather-long-name-of-an-image-{i}" for i in range(4)))
    files.split("test", "wide")
    config = replace(Config(), data={"root": str(tmp_path), "faults": {"tolerance": 0}})
    survey = survey_folder(config)
    page = write_page(survey, config, sample_pictures(survey), [], tmp_path / "look/index.html")
    script = """
    const images = [...document.images];
    return [document.documentElement.scrollWidth, innerWidth, images.length, images.every((i) => i.naturalWidth > 0)];
    """
    scroll, inner, count, loaded = probed(page, script, width=width)
    assert scroll <= inner == width
    assert count > 10
    assert loaded
