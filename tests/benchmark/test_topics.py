"""The topics of scripts/benchmark.py at small sizes: their rows, notes and file."""

import dataclasses
import json
import math
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest


def test_quick_run_prints_a_table_and_writes_json(tmp_path, capsys, tiny_sizes):
    import benchmark

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "roi_pool", "input", "--tflops", "2", "--bandwidth", "10", "--out", str(path)])
    document = json.loads(path.read_text())
    assert document["command"][1:3] == ["--quick", "--only"]
    assert {"cpu", "cores", "load", "device_kind", "versions", "date", "commit"} <= set(document["machine"])
    assert document["machine"]["versions"]["jax"] == jax.__version__
    assert (document["rates"]["flops"], document["rates"]["bandwidth"]) == (2e12, 10e9)
    rows = {row["what"]: row for row in document["rows"]}
    forward = rows["forward, 4 RoIs"]
    assert forward["floor"] == 4 * (6 * 7 * 3 + 4 * 49 * 3) / 10e9
    assert rows["forward+backward, 4 RoIs"]["floor"] == 2 * forward["floor"]
    assert forward["share_of_floor"] == forward["floor"] / forward["ours"]["median"]
    assert min(forward["ours"]["samples"]) == forward["ours"]["min"] > 0
    images, *_, kept, augmented = (row for row in document["rows"] if row["topic"] == "input")
    assert kept["what"].endswith(", 1 core, images kept decoded")
    assert augmented["what"] == kept["what"] + ", augmented"
    assert (images["items"], images["unit"], images["floor"]) == (2, "images", None)
    assert [row["target"] for row in document["rows"]] == [None] * len(document["rows"])  # they are for real sizes
    assert images["items_per_second"] == 2 / images["ours"]["median"]
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json"]


@pytest.mark.long
def test_accelerators_time_both_implementations_of_pooling_in_both_types(tiny_sizes, monkeypatch):
    from bench.floors import Rates
    from bench.sizes import QUICK
    from bench.topics import Setup
    from bench.topics.roi_pool import measure_roi_pool

    # The peer is left out: it would have to be on the same accelerator.
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")])
    rows = measure_roi_pool(Setup(QUICK, Rates(flops=1e12, bandwidth=1e11)))
    forward = "forward, 4 RoIs"
    assert [row.what for row in rows[:4]] == [
        forward,
        f"{forward}, pallas",
        f"{forward}, bfloat16",
        f"{forward}, bfloat16, pallas",
    ]
    assert len(rows) == 4 * 5
    assert rows[2].floor == rows[0].floor / 2


def test_step_and_test_time_have_rows_with_floors(tmp_path, tiny_sizes, small_models):
    import benchmark

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "train_step", "test", "--models", "tiny", "--out", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["topic"] for row in rows] == ["train_step", "test", "test", "test"]
    assert all(row["floor"] > 0 and row["ours"]["median"] > 0 and row["what"].startswith("tiny 32x48") for row in rows)
    assert rows[0]["note"].startswith("RoI pooling ")
    assert rows[3]["what"] == "tiny 32x48, 32 proposals, float32, frcnn.detect"
    distinct = int(rows[3]["note"].partition(" distinct RoIs")[0])
    assert 1 < distinct < 32
    assert rows[3]["floor"] < rows[2]["floor"]
    assert rows[0]["memory"] > 4 * 2 * (16 * 16 * 3 * 8 + 32 * 8)  # parameters and momentum at least


def test_the_two_ways_to_detections_are_compared_before_they_are_timed(tiny_sizes, small_models, monkeypatch):
    from bench.floors import Rates
    from bench.sizes import QUICK
    from bench.topics import Setup, test

    detect = test.frcnn.detect

    def shifted(*arguments, **settings):
        found = detect(*arguments, **settings)
        return found.replace(boxes=found.boxes + 0.01)  # 2e-4 of the image's side

    monkeypatch.setattr(test.frcnn, "detect", shifted)
    with pytest.raises(ValueError, match=r"test, tiny: frcnn\.detect differs from one program by 0\.0002\d*, class 1"):
        test.measure_test(Setup(QUICK, Rates(flops=1e12, bandwidth=1e11), models=["tiny"]))


def test_growth_is_given_as_a_power_of_what_grows():
    from bench.programs import compiled_call
    from bench.sizes import QUICK
    from bench.topics.growth import Case, measure_cases

    def case(section, letter, value):
        return Case(section, letter, value, lambda: compiled_call(lambda x: x + 1, np.zeros(value, np.float32)))

    cases = (case("a", "R", 64), case("a", "R", 512), case("a", "K", 512), case("b", "K", 64))
    rows = measure_cases(iter(cases), QUICK)
    assert [row.what for row in rows] == ["a, R=64", "a, R=512", "a, K=512", "b, K=64"]
    assert [row.memory for row in rows] == [2 * 4 * 64, 2 * 4 * 512, 2 * 4 * 512, 2 * 4 * 64]
    power = math.log(rows[1].ours.median / rows[0].ours.median) / math.log(8)
    assert [row.note for row in rows] == ["", f"time grows as R^{power:.2f}", "", ""]


@pytest.mark.long
def test_growth_of_parts_and_models(tiny_sizes, small_models):
    from bench import sizes
    from bench.topics import Setup, growth, model_growth

    few = dataclasses.replace(sizes.QUICK, growing_rois=(5,), growing_classes=(2,))
    parts = growth.measure_growth(Setup(few))
    assert [row.what.rpartition(", ")[2] for row in parts] == ["R=5", "R=5", "P=5", "R=5", "K=2", "R=5", "K=2", "B=5"]
    assert all(row.memory > 0 for row in parts)
    # A test of 32 x 48 pixels, and the first step.
    cases = list(model_growth._cases("tiny", few))
    assert [(case.letter, case.value) for case in cases[:5]] == [
        ("R", 5), ("side", 48), ("side", 96), ("N", 1), ("N", 2),
    ]  # fmt: skip
    assert len(cases) == 5 + 2 + 2 + 1 + 1
    small, large = model_growth.measure_cases(iter((cases[0], cases[-1])), few)
    assert small.what == "tiny: test of 32x48, R=5"
    assert large.what == "tiny: step, 32x48, N=2, K=2"
    assert min(small.memory, large.memory) > 0
    large = list(model_growth._cases("vgg16", few))
    assert len(large) == 5 + 2 + 2
    assert large[5].section == "vgg16: step, N=1"  # its sides need memory


@pytest.mark.long
def test_buckets_beside_one_size_for_all(tiny_sizes, small_models, monkeypatch):
    from bench.sizes import QUICK
    from bench.topics import Setup, buckets

    monkeypatch.setattr(buckets, "VOC_SIZES", 3 * [(60, 80)] + [(100, 60)])
    monkeypatch.setattr(buckets, "training_buckets", lambda config, stride: ((64, 80), (80, 64), (112, 64)))
    landscape, portrait, one, mean = buckets.measure_buckets(Setup(QUICK, models=["tiny"]))
    assert landscape.what == "tiny: step, N=2, 64x80, 75% of the images"
    assert portrait.what == "tiny: step, N=2, 112x64, 25% of the images"
    assert one.what == "tiny: step, N=2, 112x80, one size for all"
    weighted = 0.75 * landscape.ours.median + 0.25 * portrait.ours.median
    assert mean.ours.median == pytest.approx(weighted)
    # 3 * 4800 + 6000 pixels in 3 * 5120 + 7168, or in 4 * 8960
    assert "padding 10% of the images' pixels, one size 76%" in mean.note
    assert f"one size takes {one.ours.median / weighted:.2f} times as long" in mean.note


def test_assumed_sizes_of_voc_are_a_hundred():
    from bench.topics.buckets import VOC_SIZES

    assert len(VOC_SIZES) == 100
    assert max(max(size) for size in VOC_SIZES) == 500


@pytest.mark.long
def test_two_types_and_two_runs_are_compared(tiny_sizes, small_models):
    from bench.sizes import QUICK
    from bench.topics import Setup
    from bench.topics.precision import measure_precision

    single, half = measure_precision(Setup(QUICK, models=["tiny"]))
    assert (single.what, half.what) == ("tiny: step, float32", "tiny: step, bfloat16")
    assert single.note.startswith("loss ")
    assert single.note.endswith("; a second run is bit-equal")
    assert ", 0.0% from float32's on average; " in half.note  # the one layer is float32 in both


def test_evaluation_goes_from_files_to_detections(tiny_sizes, small_models):
    from bench.sizes import QUICK
    from bench.topics import Setup
    from bench.topics.evaluate import measure_evaluate

    (row,) = measure_evaluate(Setup(QUICK, models=["tiny"]))
    assert row.what.startswith("tiny: 3 JPEG files 48x64, ")
    assert (row.items, row.unit) == (3, "images")


def test_selective_search_says_how_many_cores_were_busy(monkeypatch):
    from bench.sizes import QUICK
    from bench.topics import Setup, proposals

    # 3 seconds of processor time in 2 seconds, then 1 in 4, 1 in 1 and 3 in 4.
    elapsed, busy = iter([10, 12, 20, 24, 30, 31, 40, 44]), iter([5, 8, 8, 9, 10, 11, 12, 15])
    clocks = SimpleNamespace(perf_counter=elapsed.__next__, process_time=busy.__next__)
    monkeypatch.setattr(proposals, "time", clocks)
    monkeypatch.setattr(proposals, "cores", lambda: 2)
    rows = proposals.measure_proposals(Setup(QUICK))
    assert [(row.what, row.items, row.unit, row.note) for row in rows] == [
        ("Selective Search fast, 48x64 at most 400, 1 core", 1, "images", "1.50 cores busy"),
        ("Selective Search mutual, 48x64 at most 320, 1 core", 1, "images", "0.25 cores busy"),
        ("Selective Search fast, 48x64 at most 400, 2 cores", 2, "images", "1.00 cores busy"),
        ("Selective Search mutual, 48x64 at most 320, 2 cores", 2, "images", "0.75 cores busy"),
    ]
    assert min(row.ours.fastest for row in rows) > 0


def test_first_step_of_a_process(capsys, tiny_sizes, small_models):
    from bench.sizes import QUICK
    from bench.topics import Setup, start

    start._first_step("tiny", quick=True)
    assert float(capsys.readouterr().out) > 0
    with pytest.raises(ValueError, match=r"start of nothing: .*no model 'nothing'"):
        start.measure_start(Setup(QUICK, models=["nothing"], quick=True))


def test_unknown_topic_and_useless_numbers_are_refused(capsys):
    import benchmark

    for wrong, message in (
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--tflops", "0"], "invalid positive float value: '0'"),
        (["--out", os.path.join("no", "such", "result.json")], "does not exist"),
    ):
        with pytest.raises(SystemExit):
            benchmark.main(wrong)
        assert message in capsys.readouterr().err


def test_every_topic_has_its_function_and_its_line_in_the_help(capsys):
    import benchmark
    from bench.topics import TOPICS, measure_function

    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    printed = capsys.readouterr().out
    for name, topic in TOPICS.items():
        assert callable(measure_function(name))
        assert f"    {name:14}{topic.help}\n" in printed
    assert printed.index("    proposals ") < printed.index("and, if named") < printed.index("    evaluate ")


def test_topics_without_only_are_the_usual_ones():
    import benchmark

    assert benchmark._parse([]).only == ("roi_pool", "train_step", "test", "input", "proposals")
