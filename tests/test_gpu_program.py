"""scripts/gpu_program.py: what it reads from a compiled program's text."""

from pathlib import Path

import pytest


@pytest.fixture
def gpu_program(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    import gpu_program

    return gpu_program


TEXT = """
HloModule jit_step

%sorting (p: s32[4]) -> (s32[4], f32[4]) {
  %p = s32[4]{0} parameter(0)
  ROOT %sort.1 = (s32[4]{0}, f32[4]{0}) sort(%p, %p), dimensions={0}, to_apply=%less
}

ENTRY %main (features: bf16[2,3,8], count: s32[]) -> f32[2,8] {
  %features = bf16[2,3,8]{2,1,0} parameter(0)
  %count = s32[] parameter(1)
  %pair = (bf16[2,8]{1,0}, /*index=1*/pred[2]{0}) fusion(%features, %count), kind=kLoop, metadata={op_name="a/FastRCNN.pool/max"}
  %first = bf16[2,8]{1,0} get-tuple-element(%pair), index=0
  %loop = bf16[2,8]{1,0} while(%first), body=%turn, metadata={op_name="a/FastRCNN.pool/while"}
  ROOT %fc6 = f32[2,8]{1,0} custom-call(%loop), custom_call_target="gemm", metadata={op_name="a/head/fc6/dot"}
}
"""  # noqa: E501


def test_kernels_are_those_of_the_main_computation_with_what_they_read_and_write(gpu_program):
    assert list(gpu_program.kernels(TEXT)) == [
        ("fusion", "a/FastRCNN.pool/max", 2 * 8 * 2 + 2 + 2 * 3 * 8 * 2 + 4),
        ("while", "a/FastRCNN.pool/while", 64),
        ("custom-call", "a/head/fc6/dot", 64 + 32),
    ]


def test_report_by_part_leaves_out_the_bytes_of_loops(gpu_program):
    lines = [line.split() for line in gpu_program.report(list(gpu_program.kernels(TEXT))).splitlines()]
    assert lines[1:] == [["FastRCNN.pool", "2", "0.0", "58.3%"], ["head", "1", "0.0", "41.7%"], ["all", "3", "0.0"]]


def test_slow_operations_are_found_inside_fusions_too(gpu_program):
    lines = list(gpu_program.slow_operations(TEXT))
    assert lines[:3] == [
        "while: 1, the largest bf16[2,8]{1,0}",
        "sort: 1, the largest (s32[4]{0}, f32[4]{0})",
        "scatter: 0",
    ]


def test_what_devices_exchange_is_counted_in_bytes(gpu_program):
    assert list(gpu_program.exchanges(TEXT)) == []
    program = """
ENTRY %main (x: f32[3,5]) -> f32[3,5] {
  %x = f32[3,5]{1,0} parameter(0)
  %sums = (f32[3,5]{1,0}, bf16[7]{0}) all-reduce-start(%x, %y), to_apply=%add
  %sum = (f32[3,5]{1,0}, bf16[7]{0}) all-reduce-done(%sums)
  %one = f32[] all-reduce(%z), to_apply=%add
  %all = pred[2]{0} all-gather(%finite), dimensions={0}
}
"""
    assert list(gpu_program.exchanges(program)) == ["all-reduce: 2, 78 bytes", "all-gather: 1, 2 bytes"]


def test_without_cudas_plugin_one_line_says_what_is_missing(gpu_program, monkeypatch):
    def missing(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(SystemExit, match=r"JAX knows no CUDA here; pip install \"jax\[cuda13\]\""):
        gpu_program.main(["--model", "tiny", "--what", "test"])


def test_unknown_model_and_type_are_refused_in_one_line(gpu_program):
    with pytest.raises(SystemExit, match=r"gpu_program\.py: no model 'nosuch'; there are caffenet"):
        gpu_program.main(["--model", "nosuch"])
    with pytest.raises(SystemExit, match=r"gpu_program\.py: data type 'float17' not understood"):
        gpu_program.main(["--model", "tiny", "--dtype", "float17"])
