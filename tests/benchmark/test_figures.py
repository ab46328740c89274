"""The parts of the benchmark's figures: floors, samples, targets, differences, kept memory."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_floor_of_vgg16_counts_its_layers():
    """Worked by hand: 13 convolutions of 3 x 3 on a 32 x 48 image, and the four layers of the head for 5 RoIs."""
    from bench import floors

    from frcnn_jax.models.architectures import create_model

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
    moved[-2] += 2 * 10 * 21  # logits and offsets are float32
    moved[-1] += 2 * 10 * 84
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
    from bench.peer import PeerError

    theirs = np.array([3.0, 4.0])
    check_close("x", np.array([3.0, 4.0049]), theirs)
    with pytest.raises(PeerError, match=r"x differs from the peer's by 0\.001"):
        check_close("x", np.array([3.0, 4.0051]), theirs)
    with pytest.raises(PeerError, match="x differs"):
        check_close("x", np.array([np.nan, 4.0]), theirs)
    with pytest.raises(PeerError, match=r"x is \(1,\), the peer's \(2,\)"):
        check_close("x", theirs[:1], theirs)


def test_detections_are_paired_by_class_in_any_order():
    from bench.agreement import check_detections

    from frcnn_jax.types import Detections

    def found(*rows):
        boxes, scores, labels = (np.array(column) for column in zip(*rows, strict=True))
        return Detections(boxes=boxes, scores=scores, labels=labels, mask=np.ones(len(rows), bool))

    a, b = ([0.0, 0.0, 10.0, 10.0], 0.5, 1), ([20.0, 0.0, 30.0, 10.0], 0.5, 2)
    check_detections("x", found(a, b), found(b, ([0.0, 0.0, 10.0, 10.0009], 0.500009, 1)), 100)
    with pytest.raises(ValueError, match="x gives 2 detections, one program 1"):
        check_detections("x", found(a, b), found(b), 100)
    with pytest.raises(ValueError, match="x gives 1 detections of class 1, one program 2"):
        check_detections("x", found(a, b), found(a, a), 100)
    for other in (([0.0, 0.0, 10.0, 10.002], 0.5, 1), ([0.0, 0.0, 10.0, 10.0], 0.50002, 1)):
        with pytest.raises(ValueError, match="x differs from one program by 2e-05, class 1"):
            check_detections("x", found(a, b), found(other, b), 100)


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
            assert int(faults) < 1000  # mapped anew, 128 MB are 32768 pages of 4 kB
