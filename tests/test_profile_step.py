"""scripts/profile_step.py: kernels of the profiler as a table by share of time and by part of the network."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "profile_step.py"
PROGRAM = """
  %fusion.1 = f32[2] fusion(%a), metadata={op_name="jit(step)/jvp(FastRCNN)/FastRCNN.pool/max"}
  ROOT %convolution.3 = f32[2] convolution(%a), metadata={op_name="jit(step)/transpose(jvp(FastRCNN))/backbone/conv"}
"""


@pytest.fixture
def profile_step(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as the script sets it
    spec = importlib.util.spec_from_file_location("profile_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(name, *events):
    return SimpleNamespace(
        name=name, events=[SimpleNamespace(name=n, duration_ns=t, stats=[("hlo_op", op)]) for n, op, t in events]
    )


def test_kernels_of_a_gpus_streams_are_found_by_instruction_and_by_name(profile_step):
    planes = [
        SimpleNamespace(name="/host:CPU", lines=[line("Stream #1", ("host", "", 9.0))]),
        SimpleNamespace(
            name="/device:GPU:0",
            lines=[
                line("Stream #13", ("sm90", "convolution.3", 2e6), ("fusion_1", "", 1e6)),
                line("XLA Ops", ("x", "", 5.0)),
            ],
        ),
    ]
    events = list(profile_step.kernel_events(SimpleNamespace(planes=planes)))
    assert events == [("sm90", "convolution.3", 2e6), ("fusion_1", "", 1e6)]
    sources = profile_step.sources(PROGRAM)
    assert profile_step.part_of(sources["convolution.3"]) == "backbone, backward"
    assert profile_step.part_of(sources["fusion_1"]) == "FastRCNN.pool"
    assert profile_step.part_of("jit(step)/add") == "rest"


def test_the_table_has_the_longest_kernels_the_parts_and_the_whole(profile_step):
    kernels = [
        profile_step.Kernel("long", "a/backbone/conv", 3.0, 1),
        profile_step.Kernel("short", "a/head/fc6", 0.75, 2),
        profile_step.Kernel("shorter", "", 0.25, 1),
    ]
    lines = profile_step.report(kernels, rows=1).splitlines()
    assert lines[1].split() == ["3.0000", "75.0%", "1.0", "long", "a/backbone/conv"]
    assert lines[2].split() == ["1.0000", "25.0%", "3.0", "2", "others"]
    assert [row.split() for row in lines[4:7]] == [
        ["3.0000", "75.0%", "backbone"], ["0.7500", "18.8%", "head"], ["0.2500", "6.2%", "rest"]
    ]  # fmt: skip
    assert lines[7].split() == ["4.0000", "100.0%", "4.0", "all", "kernels"]


def test_a_step_is_profiled_on_this_device(profile_step, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    profile_step.main(["--quick", "--model", "tiny", "--calls", "2", "--rows", "4", "--what", "test"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].endswith("all kernels")
    assert any(row.endswith(" backbone") for row in printed)
