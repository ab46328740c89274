"""scripts/benchmark.py at small sizes, its floors against known figures, and a peer made of NumPy loops."""

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for an interpreter with PyTorch: answers the question for versions, pools with the reference's loops, and
# says 0.5 s and 1.5 s in turns where it is asked for its time.
PEER = """#!{python}
import itertools, json, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"torch": "0", "torchvision": "0", "cuda": False}}))
    sys.exit()
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from tests.ops.reference import roi_max_pool, roi_max_pool_gradient
folder = Path(sys.argv[3])
job, inputs, outputs = json.loads((folder / "job.json").read_text()), np.load(folder / "inputs.npz"), {{}}
for case in job["cases"] if job["topic"] == "roi_pool" else ():
    maps, rois = inputs[case + "/features"], inputs[case + "/rois"]
    pooled, argmax = zip(*(roi_max_pool(f, r, (7, 7), 1 / 16) for f, r in zip(maps, rois)))
    outputs[case + "/pooled"] = np.stack(pooled) + {error}
    if case + "/cotangent" in inputs:
        parts = zip(argmax, inputs[case + "/cotangent"])
        outputs[case + "/gradient"] = np.stack([roi_max_pool_gradient(a, c, maps[0].shape) for a, c in parts])
np.savez(folder / "outputs.npz", **outputs)
print(json.dumps({{"notes": {{}}, "facts": {{}}}}), flush=True)
for line, seconds in zip(sys.stdin, itertools.cycle([0.5, 1.5])):
    if "{last}" in line:
        sys.exit("the peer had enough")
    print(seconds, flush=True)
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts are no package: they import what lies beside them. The tests' own process keeps its allocator."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("bench.memory.keep_freed_memory", lambda: False)


@pytest.fixture
def tiny_sizes(monkeypatch):
    """Smaller still than --quick, for loops in Python."""
    from bench import sizes

    monkeypatch.setattr(
        sizes,
        "QUICK",
        dataclasses.replace(sizes.QUICK, feature_map=(6, 7, 3), pooled_rois=(4, 6), image=(32, 48), num_classes=3),
    )


def one_layer_model(num_classes: int):
    """Compiles in a fraction of the time of a real one."""
    from frcnn_jax.models.detector import FastRCNN
    from frcnn_jax.models.heads import FastRCNNHead

    class OneLayer(nn.Module):
        dtype: type = jnp.float32

        @nn.compact
        def __call__(self, x, sizes):
            features = nn.Conv(8, (16, 16), strides=(16, 16), name="conv")(x)
            return features, None if sizes is None else -(-sizes // 16)

    return FastRCNN(backbone=OneLayer(), head=FastRCNNHead(num_classes, (8, 8)), output_size=(2, 2))


def constant_params(model, key):
    """Needs no compiling, as random ones do."""
    from frcnn_jax.models.detector import init_params

    shapes = jax.eval_shape(lambda: init_params(model, key))
    return jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 0.01, leaf.dtype)), shapes)


def write_peer(folder: Path, error: float = 0.0, last: str = "no such case") -> str:
    path = folder / "python"
    path.write_text(PEER.format(python=sys.executable, root=str(ROOT), error=error, last=last))
    path.chmod(0o755)
    return str(path)


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
    images, *_, kept = (row for row in document["rows"] if row["topic"] == "input")
    assert kept["what"].endswith(", 1 core, images kept decoded")
    assert (images["items"], images["unit"], images["floor"]) == (2, "images", None)
    assert [row["target"] for row in document["rows"]] == [None] * len(document["rows"])  # they are for real sizes
    assert images["items_per_second"] == 2 / images["ours"]["median"]
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json"]


def test_accelerators_time_both_implementations_of_pooling_in_both_types(tiny_sizes, monkeypatch):
    from bench.floors import Rates
    from bench.roi_pool import measure_roi_pool
    from bench.sizes import QUICK

    # The peer is left out: it would have to be on the same accelerator.
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")])
    rows = measure_roi_pool(QUICK, Rates(flops=1e12, bandwidth=1e11), None)
    forward = "forward, 4 RoIs"
    assert [row.what for row in rows[:4]] == [
        forward,
        f"{forward}, pallas",
        f"{forward}, bfloat16",
        f"{forward}, bfloat16, pallas",
    ]
    assert len(rows) == 4 * 5
    assert rows[2].floor == rows[0].floor / 2


@pytest.fixture
def small_models(monkeypatch):
    """One layer in place of each model, with weights that need no compiling."""
    import importlib

    names = ("detection", "train_step", "precision", "model_growth", "buckets", "end_to_end", "scene")
    for module in (importlib.import_module(f"bench.{name}") for name in names):
        monkeypatch.setattr(module, "build_model", lambda name, sizes, dtype=None: one_layer_model(sizes.num_classes))
        if hasattr(module, "init_params"):
            monkeypatch.setattr(module, "init_params", constant_params)


def test_step_and_test_time_have_rows_with_floors(tmp_path, tiny_sizes, small_models):
    import benchmark

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "train_step", "test", "--models", "tiny", "--out", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["topic"] for row in rows] == ["train_step", "test", "test"]
    assert all(row["floor"] > 0 and row["ours"]["median"] > 0 and row["what"].startswith("tiny 32x48") for row in rows)
    assert rows[0]["note"].startswith("RoI pooling ")
    assert rows[0]["memory"] > 4 * 2 * (16 * 16 * 3 * 8 + 32 * 8)  # parameters and momentum at least


def test_growth_is_given_as_a_power_of_what_grows():
    from bench.growth import Case, compiled_call, measure_cases
    from bench.sizes import QUICK

    def case(section, letter, value):
        return Case(section, letter, value, lambda: compiled_call(lambda x: x + 1, np.zeros(value, np.float32)))

    cases = (case("a", "R", 64), case("a", "R", 512), case("a", "K", 512), case("b", "K", 64))
    rows = measure_cases(iter(cases), QUICK)
    assert [row.what for row in rows] == ["a, R=64", "a, R=512", "a, K=512", "b, K=64"]
    assert [row.memory for row in rows] == [2 * 4 * 64, 2 * 4 * 512, 2 * 4 * 512, 2 * 4 * 64]
    power = math.log(rows[1].ours.median / rows[0].ours.median) / math.log(8)
    assert [row.note for row in rows] == ["", f"time grows as R^{power:.2f}", "", ""]


def test_growth_of_parts_and_models(tiny_sizes, small_models):
    from bench import growth, model_growth, sizes

    few = dataclasses.replace(sizes.QUICK, growing_rois=(5,), growing_classes=(2,))
    parts = growth.measure_growth(few)
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


def test_buckets_beside_one_size_for_all(tiny_sizes, small_models, monkeypatch):
    from bench import buckets
    from bench.sizes import QUICK

    monkeypatch.setattr(buckets, "VOC_SIZES", 3 * [(60, 80)] + [(100, 60)])
    monkeypatch.setattr(buckets, "training_buckets", lambda config: ((64, 80), (80, 64), (112, 64)))
    landscape, portrait, one, mean = buckets.measure_buckets(QUICK, ["tiny"], None)
    assert landscape.what == "tiny: step, N=2, 64x80, 75% of the images"
    assert portrait.what == "tiny: step, N=2, 112x64, 25% of the images"
    assert one.what == "tiny: step, N=2, 112x80, one size for all"
    weighted = 0.75 * landscape.ours.median + 0.25 * portrait.ours.median
    assert mean.ours.median == pytest.approx(weighted)
    # 3 * 4800 + 6000 pixels in 3 * 5120 + 7168, or in 4 * 8960
    assert "padding 10% of the images' pixels, one size 76%" in mean.note
    assert f"one size takes {one.ours.median / weighted:.2f} times as long" in mean.note


def test_assumed_sizes_of_voc_are_a_hundred():
    from bench.buckets import VOC_SIZES

    assert len(VOC_SIZES) == 100
    assert max(max(size) for size in VOC_SIZES) == 500


def test_two_types_and_two_runs_are_compared(tiny_sizes, small_models):
    from bench.precision import measure_precision
    from bench.sizes import QUICK

    single, half = measure_precision(QUICK, ["tiny"])
    assert (single.what, half.what) == ("tiny: step, float32", "tiny: step, bfloat16")
    assert single.note.startswith("loss ")
    assert single.note.endswith("; a second run is bit-equal")
    assert ", 0.0% from float32's on average; " in half.note  # the one layer is float32 in both


def test_evaluation_goes_from_files_to_detections(tiny_sizes, small_models):
    from bench.end_to_end import measure_evaluation
    from bench.sizes import QUICK

    (row,) = measure_evaluation(QUICK, ["tiny"], None)
    assert row.what.startswith("tiny: 3 JPEG files 48x64, ")
    assert (row.items, row.unit) == (3, "images")


def test_selective_search_says_how_many_cores_were_busy(monkeypatch):
    from bench import proposals
    from bench.sizes import QUICK

    # 3 seconds of processor time in 2 seconds, then 1 in 4.
    clocks = SimpleNamespace(perf_counter=iter([10, 12, 20, 24]).__next__, process_time=iter([5, 8, 8, 9]).__next__)
    monkeypatch.setattr(proposals, "time", clocks)
    monkeypatch.setattr(proposals, "cores", lambda: 2)
    one, two = proposals.measure_proposals(QUICK, None)
    assert (one.what, one.items, one.unit) == ("Selective Search fast, 48x64, 1 core", 1, "images")
    assert (two.what, two.items) == ("Selective Search fast, 48x64, 2 cores", 2)
    assert (one.note, two.note) == ("1.50 cores busy", "0.25 cores busy")
    assert min(one.ours.fastest, two.ours.fastest) > 0


def test_first_step_of_a_process(capsys, tiny_sizes, small_models):
    from bench import start

    start._first_step("tiny", quick=True)
    assert float(capsys.readouterr().out) > 0
    with pytest.raises(ValueError, match=r"start of nothing: .*no model 'nothing'"):
        start.measure_start(None, ["nothing"], quick=True)


def test_peer_in_a_second_process_is_compared_and_timed(tmp_path, capsys, tiny_sizes, monkeypatch):
    import benchmark

    path = tmp_path / "result.json"
    monkeypatch.chdir(tmp_path)
    assert write_peer(tmp_path) == str(tmp_path / "python")
    benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", "./python", "--out", str(path)])
    document = json.loads(path.read_text())
    assert document["peer"] == {"torch": "0", "torchvision": "0"}
    assert [row["peer"]["samples"] for row in document["rows"]] == [[0.5, 1.5]] * 5
    assert [row["peer"]["median"] for row in document["rows"]] == [1.0] * 5
    assert document["rows"][0]["ratio"] == document["rows"][0]["ours"]["median"]
    assert "1000 (500-1500)" in capsys.readouterr().out


def test_peer_that_computes_something_else_is_an_error(tmp_path, tiny_sizes):
    import benchmark

    path = tmp_path / "result.json"
    peer = write_peer(tmp_path, error=1e-6)
    with pytest.raises(SystemExit, match="forward, 4 RoIs: pooled differs from the peer's"):
        benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", peer, "--out", str(path)])
    assert not path.exists()


def test_peer_that_ends_early_is_an_error_with_its_last_words(tmp_path, tiny_sizes):
    import benchmark

    peer = write_peer(tmp_path, last="forward, 2 images")
    with pytest.raises(SystemExit, match=r"benchmark\.py: the peer failed in topic roi_pool: the peer had enough"):
        benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", peer])


def test_interpreter_without_torch_is_an_error_that_names_it(tmp_path):
    import benchmark

    with pytest.raises(SystemExit, match=r"benchmark\.py: .*nowhere: No such file"):
        benchmark.main(["--quick", "--peer-python", str(tmp_path / "nowhere")])
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('ModuleNotFoundError: no torch')\n")
    path.chmod(0o755)
    with pytest.raises(SystemExit, match="does not import torch and torchvision: ModuleNotFoundError: no torch"):
        benchmark.main(["--quick", "--peer-python", str(path)])


def test_unknown_topic_and_useless_numbers_are_refused(capsys):
    import benchmark

    for wrong, message in (
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--tflops", "0"], "invalid positive float value: '0'"),
        (["--out", os.path.join("no", "such", "result.json")], "there is no folder"),
    ):
        with pytest.raises(SystemExit):
            benchmark.main(wrong)
        assert message in capsys.readouterr().err


def test_floor_of_vgg16_counts_its_layers():
    """Worked by hand: 13 convolutions of 3 x 3 on a 32 x 48 image, and the four layers of the head for 5 RoIs."""
    from bench import floors

    from frcnn_jax.models.detector import create_model

    model = create_model("vgg16", 21, dtype=jnp.bfloat16)
    forward = floors.layer_operations(model, 2, (32, 48), 5)
    cells = [2 * 32 * 48 // 4**stage for stage in range(5)]
    widths = [(0, 3, 64), (0, 64, 64), (1, 64, 128), (1, 128, 128), (2, 128, 256), (2, 256, 256), (2, 256, 256)]
    widths += [(3, 256, 512), (3, 512, 512), (3, 512, 512)] + 3 * [(4, 512, 512)]
    heads = [(25088, 4096), (4096, 4096), (4096, 21), (4096, 84)]
    expected = [2 * 9 * cells[stage] * c * d for stage, c, d in widths] + [2 * 10 * a * b for a, b in heads]
    assert [op.flops for op in forward] == expected
    moved = [2 * (cells[stage] * (c + d) + 9 * c * d) for stage, c, d in widths]
    moved += [2 * (10 * (a + b) + a * b) for a, b in heads]
    assert [op.bytes for op in forward] == moved

    backward = floors.backward_operations(forward, 4)
    assert sum(op.flops for op in backward) == 2 * sum(expected[4:]) - expected[4]
    assert floors.pooling_operation(model, 2, (32, 48), 5).bytes == 2 * 512 * (cells[4] + 10 * 49)
    rates = floors.Rates(flops=1e9, bandwidth=1e6)
    assert floors.seconds([floors.Operation("a", 3e9, 1e6), floors.Operation("b", 1e9, 2e6)], rates) == 5.0
    assert floors.update_operation({"kernel": np.zeros((3, 2), np.float32), "frozen": None}).bytes == 5 * 24


def test_short_calls_are_grouped_and_waited_for_once():
    from bench.timing import Effort, measure

    calls, waits = [], []
    timing = measure(lambda: calls.append(0) or len(calls), waits.append, Effort(3, 0, sample_seconds=1e-3))
    assert len(timing.samples) == 3
    assert len(waits) == 5  # warm-up, trial, three samples
    assert waits[0] == 1
    assert waits[1] == 2
    assert len(calls) == waits[-1] >= 2 + 3 * 2
    assert timing.fastest <= timing.median <= timing.slowest


def test_samples_are_taken_in_turns():
    from bench.timing import Effort, take_turns

    asked = []

    def sampler(name, seconds):
        return lambda: asked.append(name) or seconds

    timings = take_turns([sampler("a", 1.0), sampler("b", 2.0)], Effort(min_runs=3, min_seconds=0))
    assert asked == ["a", "b"] * 3
    assert [timing.samples for timing in timings] == [(1.0,) * 3, (2.0,) * 3]


def test_targets_are_judged_by_what_they_are_about():
    from bench.result import Row, Target
    from bench.timing import Timing

    row = Row(topic="test", what="x", ours=Timing((2.0, 1.0, 5.0)), peer=Timing((4.0,)), floor=0.5, items=10)
    cases = {("ratio", 0.5): True, ("ratio", 0.49): False, ("share", 0.25): True, ("share", 0.26): False,
             ("rate", 5.0): True, ("rate", 5.1): False}  # fmt: skip
    for (measure, bound), reached in cases.items():
        changed = dataclasses.replace(row, target=Target(measure, bound))
        assert changed.reached is reached
        assert changed.to_json()["reached"] is reached
    assert dataclasses.replace(row, peer=None, target=Target("ratio", 0.5)).reached is None
    assert [str(Target(m, b)) for m, b in (("ratio", 0.7), ("share", 0.4), ("rate", 250))] == [
        "<= 0.7 x peer", ">= 40% of floor", ">= 250/s",
    ]  # fmt: skip


def test_difference_is_measured_against_the_length(monkeypatch):
    from bench.agreement import check_close
    from bench.peer_process import PeerError

    theirs = np.array([3.0, 4.0])
    check_close("x", np.array([3.0, 4.0049]), theirs)
    with pytest.raises(PeerError, match=r"x differs from the peer's by 0\.001"):
        check_close("x", np.array([3.0, 4.0051]), theirs)
    with pytest.raises(PeerError, match="x differs"):
        check_close("x", np.array([np.nan, 4.0]), theirs)
    with pytest.raises(PeerError, match=r"x is \(1,\), the peer's \(2,\)"):
        check_close("x", theirs[:1], theirs)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_stays_unless_the_environment_has_settings():
    program = (
        "import resource, numpy as np; from bench.memory import keep_freed_memory; print(keep_freed_memory())\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(1 << 24); before = faults(); np.ones(1 << 24); print(faults() - before)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for extra, kept in (({}, "True"), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT / "scripts",
            env=environment | extra,
            capture_output=True,
            text=True,
        )
        said, faults = done.stdout.split()
        assert said == kept, done.stderr
        if kept == "True":
            assert int(faults) < 100  # mapped anew, 128 MB are 32768 pages of 4 kB


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('torchvision')", reason="needs torchvision")
def test_pytorch_as_the_peer(tmp_path):
    import benchmark

    path = tmp_path / "result.json"
    models = ["vgg16", "caffenet", "vgg_cnn_m_1024"]
    topics = ["roi_pool", "train_step", "test", "input"]
    benchmark.main(["--quick", "--only", *topics, "--models", *models, "--out", str(path)])
    assert all(row["peer"]["median"] > 0 for row in json.loads(path.read_text())["rows"])
