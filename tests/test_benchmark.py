"""scripts/benchmark.py at small sizes, its floors against known figures, and a peer made of NumPy loops."""

import json
import os
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for an interpreter with PyTorch: answers the question for versions, and pools with the reference's loops.
PEER = """#!{python}
import json, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"torch": "0", "torchvision": "0", "cuda": False}}))
    sys.exit()
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from tests.ops.reference import roi_max_pool, roi_max_pool_gradient
folder = Path(sys.argv[3])
job, inputs, outputs = json.loads((folder / "job.json").read_text()), np.load(folder / "inputs.npz"), {{}}
for case in job["cases"]:
    maps, rois = inputs[case + "/features"], inputs[case + "/rois"]
    pooled, argmax = zip(*(roi_max_pool(f, r, (7, 7), 1 / 16) for f, r in zip(maps, rois)))
    outputs[case + "/pooled"] = np.stack(pooled) + {error}
    if case + "/cotangent" in inputs:
        parts = zip(argmax, inputs[case + "/cotangent"])
        outputs[case + "/gradient"] = np.stack([roi_max_pool_gradient(a, c, maps[0].shape) for a, c in parts])
np.savez(folder / "outputs.npz", **outputs)
result = {{"samples": {{case: [0.5, 1.5, 1.0] for case in job["cases"]}}, "notes": {{}}, "facts": {{}}}}
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts are no package: they import what lies beside them."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def tiny_sizes(monkeypatch):
    """Smaller still than --quick, for loops in Python."""
    import dataclasses

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


def write_peer(folder: Path, error: float = 0.0) -> str:
    path = folder / "python"
    path.write_text(PEER.format(python=sys.executable, root=str(ROOT), error=error))
    path.chmod(0o755)
    return str(path)


def test_quick_run_prints_a_table_and_writes_json(tmp_path, capsys, tiny_sizes):
    import benchmark

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "roi_pool", "input", "--tflops", "2", "--bandwidth", "10", "--out", str(path)])
    document = json.loads(path.read_text())
    assert document["command"][1:3] == ["--quick", "--only"]
    assert {"cpu", "cores", "device_kind", "versions", "date", "commit"} <= set(document["machine"])
    assert document["machine"]["versions"]["jax"] == jax.__version__
    assert (document["rates"]["flops"], document["rates"]["bandwidth"]) == (2e12, 10e9)
    rows = {row["what"]: row for row in document["rows"]}
    forward = rows["forward, 4 RoIs"]
    assert forward["floor"] == 4 * (6 * 7 * 3 + 4 * 49 * 3) / 10e9
    assert rows["forward+backward, 4 RoIs"]["floor"] == 2 * forward["floor"]
    assert forward["share_of_floor"] == forward["floor"] / forward["ours"]["median"]
    assert min(forward["ours"]["samples"]) == forward["ours"]["min"] > 0
    images = next(row for row in document["rows"] if row["topic"] == "input")
    assert (images["items"], images["unit"], images["floor"]) == (2, "images", None)
    assert images["items_per_second"] == 2 / images["ours"]["median"]
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json"]


def test_step_and_test_time_have_rows_with_floors(tmp_path, tiny_sizes, monkeypatch):
    import bench.detection
    import bench.train_step
    import benchmark

    for module in (bench.detection, bench.train_step):
        monkeypatch.setattr(module, "build_model", lambda name, sizes: one_layer_model(sizes.num_classes))
        monkeypatch.setattr(module, "init_params", constant_params)

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "train_step", "test", "--models", "tiny", "--out", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["topic"] for row in rows] == ["train_step", "test", "test"]
    assert all(row["floor"] > 0 and row["ours"]["median"] > 0 and row["what"].startswith("tiny 32x48") for row in rows)


def test_peer_in_a_second_process_is_compared_and_timed(tmp_path, capsys, tiny_sizes, monkeypatch):
    import benchmark

    path = tmp_path / "result.json"
    monkeypatch.chdir(tmp_path)
    assert write_peer(tmp_path) == str(tmp_path / "python")
    benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", "./python", "--out", str(path)])
    document = json.loads(path.read_text())
    assert document["peer"] == {"torch": "0", "torchvision": "0"}
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


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('torchvision')", reason="needs torchvision")
def test_pytorch_as_the_peer(tmp_path):
    import benchmark

    path = tmp_path / "result.json"
    benchmark.main(["--quick", "--only", "roi_pool", "train_step", "test", "--models", "vgg16", "--out", str(path)])
    assert all(row["peer"]["median"] > 0 for row in json.loads(path.read_text())["rows"])
