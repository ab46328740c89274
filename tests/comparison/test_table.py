"""The table of systems: cells by hand, the paper's figures, extrapolated figures, pages and Markdown."""

import html
import math
import re

import pytest

from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.table import _PAPER_SPEEDUPS, PAPER, build_table, to_html, to_markdown, write_table


@pytest.fixture
def records(tmp_path):
    fast = Record(tmp_path / "fast.json", system="fast_rcnn", model="vgg16")
    fast.set_train("fine_tuning", 1800.0)
    fast.add_test("convolution", 4.0, images=10)
    fast.add_test("fc", 1.0, images=10)
    fast.add_test("convolution", 4.0, images=10, variant="svd")
    fast.add_test("fc", 0.5, images=10, variant="svd")
    fast.set(map=0.5123, map_svd=0.5, steps=1200, paper_share=0.0301, images=[300, 150], device="cpu")
    rcnn = Record(tmp_path / "rcnn.json", system="rcnn", model="vgg16")
    rcnn.set_train("fine_tuning", 3600.0, share=0.5)
    rcnn.set_train("features", 7200.0)
    rcnn.set_train("svms", 0.02)
    rcnn.add_test("warp", 2.0, images=2)
    rcnn.add_test("fc", 30.0, images=2, share=0.1)
    rcnn.set(disk_bytes=3_500_000_000, windows=1280)
    spp = Record(tmp_path / "spp.json", system="sppnet", model="tiny")
    spp.set_train("features", 45.0, share=0.5)
    spp.set(disk_bytes=1234, paper_share=0.00004)
    return [rcnn, spp, fast]


def cells(table):
    return {row.name: list(row.ours) for row in table.rows}


def test_figures_by_hand(records):
    table = build_table(records)
    assert table.columns == ["Fast R-CNN vgg16 (L)", "R-CNN vgg16 (L)", "SPPnet tiny"]
    found = cells(table)
    # Half of the fine-tuning took an hour, the features two: four, eight times as long as Fast R-CNN.
    assert found["train time"] == ["30 min", "4 h†", "1.5 min† so far"]
    assert found["train speedup"] == ["8×†", "1×†", ""]
    # 1 + 15 s an image, over 0.5 s and 0.45 s.
    assert found["test time an image"] == ["0.5 s", "16 s†", ""]
    assert found["test speedup"] == ["32×†", "1×†", ""]
    assert found["test time an image with SVD"] == ["0.45 s", "", ""]
    assert found["test speedup with SVD"] == ["35.6×†", "", ""]
    assert (found["mAP"], found["mAP with SVD"]) == (["0.512", "", ""], ["0.500", "", ""])
    assert found["train: fine-tuning"] == ["30 min", "2 h†", ""]
    assert found["train: SVMs"] == ["", "20 ms", ""]
    assert found["test: warp"] == ["", "1 s", ""]
    assert found["test: layers after pooling"] == ["0.1 s", "15 s†", ""]
    assert found["test with SVD: layers after pooling"] == ["50 ms", "", ""]
    assert found["features on disk"] == ["", "3.5 GB", "2.47 kB†"]
    assert found["training steps made"] == ["1,200", "", ""]
    assert found["share of the paper's schedule"] == ["3%", "", "0.004%"]
    assert found["images to train, test"] == ["300, 150", "", ""]
    # What nobody has is left out.
    assert not {"test: pooling", "train: box regressors"} & found.keys()


def test_speedups_are_over_the_same_network(tmp_path):
    """R-CNN with `tiny` trains 100 s, with `vgg16` 1000 s; SPPnet 20 s with each, of which one is extrapolated."""
    records = []
    for system, model, seconds, share in (
        ("rcnn", "tiny", 100.0, 1.0), ("rcnn", "vgg16", 1000.0, 1.0), ("sppnet", "tiny", 10.0, 0.5),
        ("sppnet", "vgg16", 20.0, 1.0), ("sppnet", "resnet18", 20.0, 1.0),
    ):  # fmt: skip
        records.append(Record(tmp_path / f"{system} {model}.json", system=system, model=model))
        records[-1].set_train("fine_tuning", seconds, share=share)
        records[-1].add_test("fc", 1.0, images=1)
    table = build_table(records)
    assert table.columns == ["R-CNN vgg16 (L)", "R-CNN tiny", "SPPnet vgg16 (L)", "SPPnet resnet18", "SPPnet tiny"]
    assert cells(table)["train speedup"] == ["1×", "1×", "50×", "", "5×†"]


def test_a_training_that_has_not_ended_is_no_baseline(records):
    rcnn, _, fast = records
    rcnn.content["test"] = {}
    found = cells(build_table([rcnn, fast]))
    assert found["train time"] == ["30 min", "4 h† so far"]
    assert "train speedup" not in found
    assert "test speedup" not in found


def test_a_training_whose_record_was_deleted_has_no_time(records):
    rcnn, _, fast = records
    del rcnn.content["train"]["fine_tuning"]
    found = cells(build_table([rcnn, fast]))
    assert found["train time"] == ["30 min", ""]
    assert "train speedup" not in found
    assert found["train: features"] == ["", "2 h"]


def test_the_papers_figures_stand_beside(records):
    paper = {row.name: list(row.paper) for row in build_table(records).rows}
    assert paper["train time"] == ["9.5 h", "84 h", ""]
    assert paper["train speedup"] == ["8.8×", "1×", ""]
    assert paper["test speedup with SVD"] == ["213×", "", ""]
    assert paper["test time an image"] == ["0.32 s", "47 s", ""]
    assert paper["test time an image with SVD"] == ["0.22 s", "", ""]
    assert paper["mAP with SVD"] == ["0.666", "", ""]
    assert len(PAPER) == 10
    assert not any(paper["peak memory"])


def test_the_papers_speedups_are_those_of_its_times():
    """Within 5 %, as they were computed from times before rounding; and each mAP as in its tables."""
    base = {model: PAPER["rcnn", model] for system, model in PAPER if system == "rcnn"}
    for (system, model), speedups in _PAPER_SPEEDUPS.items():
        hours, seconds, compressed = PAPER[system, model][:3]
        expected = [base[model][0] / hours, base[model][1] / seconds, base[model][1] / (compressed or float("nan"))]
        for speedup, value in zip(speedups, expected, strict=True):
            assert speedup == pytest.approx(value, rel=0.05) if speedup else math.isnan(value)
    found = {}
    for (system, _), figures in PAPER.items():
        found.setdefault(system, []).extend(figures[3:])
    assert found == {
        "fast_rcnn": [0.571, 0.565, 0.592, 0.587, 0.669, 0.666],
        "fast_rcnn_svm": [0.563, None, 0.587, None, 0.668, None],
        "rcnn": [0.585, None, 0.602, None, 0.660, None],
        "sppnet": [0.631, None],
    }


def test_only_what_is_there_is_noted(records):
    assert any(note.startswith("† ") for note in build_table(records).notes)
    assert not any(note.startswith("† ") for note in build_table(records[2:]).notes)
    assert not any(note.startswith("In brackets") for note in build_table(records[1:2]).notes)
    assert build_table([]).columns == []


def test_files(records, tmp_path):
    table = write_table(tmp_path / "out", records)
    markdown = (tmp_path / "out/comparison.md").read_text()
    assert markdown == to_markdown(table)
    lines = markdown.splitlines()
    assert lines[0] == "|  | Fast R-CNN vgg16 (L) | R-CNN vgg16 (L) | SPPnet tiny |"
    assert lines[2] == "| train time | 30 min (9.5 h) | 4 h† (84 h) | 1.5 min† so far |"
    assert {line.count("|") for line in lines if line.startswith("|")} == {5}
    assert lines[-1].startswith("† ")
    page = (tmp_path / "out/comparison.html").read_text()
    assert page == to_html(table, "Comparison of systems")
    rows = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    assert len(rows) == len(table.rows) + 1
    assert {row.count("<td>") for row in rows[1:]} == {4}
    assert "4 h† <i>(84 h)</i>" in page
    for note in table.notes:
        assert f"<p>{note}</p>" in html.unescape(page)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (61.0, "1.02 min"), (999.4 * 3600, "999 h"), (999.6 * 3600, "1,000 h"), (6.7e6, "1,860 h")],
)
def test_times_have_three_digits_and_no_exponent(tmp_path, seconds, text):
    record = Record(tmp_path / "a.json", system="rcnn", model="tiny")
    record.set_train("features", seconds)
    row = next(row for row in build_table([record]).rows if row.name == "train: features")
    assert row.ours[0].removesuffix(" so far") == text


def test_names_are_escaped(tmp_path):
    record = Record(tmp_path / "a.json", system="rcnn", model="a<b|c")
    record.set_train("features", 1)
    table = build_table([record])
    assert "a&lt;b|c" in to_html(table, "t")
    assert r"R-CNN a<b\|c" in to_markdown(table)
