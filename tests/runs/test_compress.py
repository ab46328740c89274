"""A compressed run is a run: it evaluates, detects, exports and trains on; the one it comes from is only read."""

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.config import Config
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.compress import compress_run, compressed_workdir
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.runs.export import export_arrays, export_stablehlo
from frcnn_jax.training.initial import abstract_state
from frcnn_jax.training.loop import train
from frcnn_jax.training.workdir import claim_workdir, read_config
from frcnn_jax.types import Detections
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights, read_metadata
from frcnn_jax.weights.svd import compress_head
from tests.training.runs import run_config, shrink_tiny, write_data
from tests.weights.detectors import assert_same_detections, image_and_boxes

SCRIPT = Path(__file__).parents[2] / "scripts" / "compress.py"
FULL = {"fc6_rank": 32, "fc7_rank": 16}  # of `tiny` as `shrink_tiny` makes it
SMALL = {"fc6_rank": 6, "fc7_rank": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        yield


@pytest.fixture(scope="module")
def workdir(small, data, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(run_config(data, steps=4), folder)
    return folder


@pytest.fixture(scope="module")
def compressed(workdir):
    out = compressed_workdir(workdir, **SMALL)
    assert compress_run(workdir, out, **SMALL)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored_state(folder: Path):
    """State, key and data position of the newest checkpoint."""
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(abstract_state(read_config(folder), len(checkpoints.metadata().classes) + 1))
    finally:
        checkpoints.close()


def with_ranks(config: Config, **ranks) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **ranks))


def test_name():
    assert compressed_workdir("/runs/voc07", fc6_rank=1024, fc7_rank=256) == Path("/runs/voc07-svd-fc6-1024-fc7-256")
    assert compressed_workdir("/runs/voc07.b/", fc7_rank=5) == Path("/runs/voc07.b-svd-fc7-5")
    assert compressed_workdir("here", fc6_rank=5) == Path.cwd() / "here-svd-fc6-5"


def test_what_is_in_it(workdir, compressed, data):
    assert sorted(path.name for path in compressed.iterdir()) == ["checkpoints", "config.json", "data.npz"]
    assert read_config(compressed) == with_ranks(run_config(data, steps=4), **SMALL)
    whole, ours = load_detector(workdir), load_detector(compressed)
    assert (ours.step, ours.classes, ours.model.pixels) == (4, whole.classes, whole.model.pixels)
    jax.tree.map(np.testing.assert_array_equal, ours.statistics, whole.statistics)
    jax.tree.map(np.testing.assert_array_equal, ours.params, compress_head(whole.params, **SMALL))
    assert ours.params["head"]["fc6_L"]["kernel"].shape == (144, 6)


def test_training_state_is_carried_over(workdir, compressed):
    """All but the momentum of what was truncated."""
    (before, key, position), (after, own_key, own_position) = map(stored_state, (workdir, compressed))
    assert (int(after.step), own_position) == (4, position)
    assert jax.random.key_data(own_key).tolist() == jax.random.key_data(key).tolist()
    old = dict(jax.tree_util.tree_leaves_with_path(before.opt_state))
    seen = 0
    for path, array in jax.tree_util.tree_leaves_with_path(after.opt_state):
        if path in old:
            np.testing.assert_array_equal(array, old[path])
            seen += bool(np.any(array))
        else:
            assert "fc6_" in jax.tree_util.keystr(path) or "fc7_" in jax.tree_util.keystr(path)
            np.testing.assert_array_equal(array, 0)
    assert seen > 10


def test_full_rank_is_the_same_detector(workdir, tmp_path):
    compress_run(workdir, tmp_path / "full", **FULL)
    whole, full = load_detector(workdir), load_detector(tmp_path / "full")
    scene = image_and_boxes()
    assert_same_detections(full.detect(*scene), whole.detect(*scene), 1e-6)
    one, other = (evaluate_run(f, directory=tmp_path / f.name) for f in (workdir, tmp_path / "full"))
    assert other["map"] == pytest.approx(one["map"], abs=1e-6)
    assert other["detections"] == one["detections"]


def test_exported_function(compressed, tmp_path):
    detector = load_detector(compressed)
    image, boxes = image_and_boxes()
    batch = make_batch(image, boxes, scale=64, max_size=96)
    path = tmp_path / "a.stablehlo"
    room = {"bucket": batch.images.shape[1:3], "proposals": batch.proposals.shape[1]}
    export_stablehlo(path, detector, **room, platforms=["cpu"])
    function = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    inputs = ("images", "image_sizes", "original_sizes", "scales", "proposals", "proposal_mask")
    found = function(*(getattr(batch, name)[0] for name in inputs))
    kept = np.asarray(found["mask"])
    found = Detections(**{name: np.asarray(array)[kept] for name, array in found.items()})
    assert_same_detections(found, detector.detect(image, boxes), 1e-5)
    assert read_metadata(path).config.model.fc6_rank == 6


def test_exported_weights(compressed, tmp_path):
    detector = load_detector(compressed)
    for name in ("a.safetensors", "a.npz"):
        export_arrays(tmp_path / name, detector)
        model = read_metadata(tmp_path / name).config.model
        assert (model.fc6_rank, model.fc7_rank) == (6, 3)
        loaded = load_weights(tmp_path / name, detector.model)
        jax.tree.map(np.testing.assert_array_equal, loaded, fold_statistics(detector.params, detector.statistics))
        with pytest.raises(ValueError, match=r"has fc6 of rank 6 and fc7 of rank 3, the model fc6 whole and fc7 whole"):
            load_weights(tmp_path / name, detector.model.clone(head=detector.model.head.clone(ranks=(None, None))))


def test_training_goes_on(compressed, data, tmp_path, capsys):
    folder = tmp_path / "on"
    shutil.copytree(compressed, folder)
    with pytest.raises(ValueError, match=r"model\.fc6_rank is 6 there and None here"):
        train(run_config(data, steps=6), folder)
    state = train(with_ranks(run_config(data, steps=6), **SMALL), folder)
    assert "Going on from step 4" in capsys.readouterr().out
    assert int(state.step) == 6
    before = load_detector(compressed).params["head"]["fc6_L"]["kernel"]
    assert np.any(np.asarray(state.params["head"]["fc6_L"]["kernel"]) != before)


def test_twice_is_once(workdir, compressed):
    before = contents(compressed)
    assert not compress_run(workdir, compressed, **SMALL)
    assert contents(compressed) == before


def other_step(folder, data):
    train(with_ranks(run_config(data, steps=5), **SMALL), folder)


def other_parameters(folder, data):
    """The same settings and step, from other weights."""
    state, key, position = stored_state(folder)
    checkpoints = Checkpoints(folder)
    metadata = checkpoints.metadata()
    checkpoints.close()
    shutil.rmtree(folder / "checkpoints")
    changed = dataclasses.replace(state, trainable=jax.tree.map(lambda x: x + 1, state.trainable))
    checkpoints = Checkpoints(folder)
    checkpoints.save(changed, key, position, metadata)
    checkpoints.close()


def no_run(folder, data):
    shutil.rmtree(folder / "checkpoints")


def half_a_run(folder, data):
    (folder / "config.json").write_text("{")


CHANGES = {
    other_step: r"holds another run, its settings are not those of .*whole with fc6_rank=6, fc7_rank=3: give another",
    other_parameters: "holds another run, its parameters are not those of",
    no_run: "already exists and is not a compressed run: give another --out",
    half_a_run: "already exists and is not a compressed run",
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_nothing_is_overwritten(workdir, compressed, data, tmp_path, change):
    folder = tmp_path / "out"
    shutil.copytree(compressed, folder)
    change(folder, data)
    before = contents(folder)
    with pytest.raises(FileExistsError, match=CHANGES[change]) as caught:
        compress_run(workdir, folder, **SMALL)
    assert str(caught.value).startswith(str(folder))
    assert contents(folder) == before


def test_a_run_that_went_on_is_another(workdir, compressed, data, tmp_path):
    shutil.copytree(workdir, tmp_path / "whole")
    train(run_config(data, steps=5), tmp_path / "whole")
    config = read_config(workdir)
    (tmp_path / "whole/config.json").unlink()
    claim_workdir(tmp_path / "whole", config)
    with pytest.raises(FileExistsError, match=r"holds another run, it is at step 4, .*whole at 5: give another --out"):
        compress_run(tmp_path / "whole", compressed, **SMALL)


def test_faults(workdir, compressed, data, tmp_path):
    out = tmp_path / "out"
    cases = [
        ((workdir, out), {}, ValueError, "no rank is given for fc6 or fc7"),
        ((workdir, out), {"fc6_rank": 33}, ValueError, r"^fc6: rank 33 is not in 1 \.\.\. 32: the layer is 144 x 32$"),
        ((workdir, out), {"fc7_rank": 0}, ValueError, r"^model\.fc7_rank must be at least 1, not 0$"),
        (
            (compressed, out),
            {"fc6_rank": 3},
            ValueError,
            r"is compressed already: its model has fc6_rank=6, fc7_rank=3",
        ),
        ((workdir, workdir), SMALL, ValueError, "which is only read"),
        ((workdir, workdir / "a/b"), SMALL, ValueError, "which is only read"),
        ((tmp_path / "none", out), SMALL, FileNotFoundError, "none holds no run"),
    ]
    before = contents(workdir)
    for arguments, ranks, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            compress_run(*arguments, **ranks)
        assert "\n" not in str(caught.value)
    claim_workdir(tmp_path / "empty", run_config(data))
    with pytest.raises(FileNotFoundError, match="empty holds no checkpoint yet"):
        compress_run(tmp_path / "empty", out, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["config.json"]
    assert contents(workdir) == before


def test_stopped_half_way_it_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(Checkpoints, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        compress_run(workdir, tmp_path / "a/out", **SMALL)
    assert list((tmp_path / "a").iterdir()) == []


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script(workdir, tmp_path, monkeypatch, capsys):
    out, before = tmp_path / "out", contents(workdir)
    options = ["--fc6", "6", "--fc7", "3", "--images", "2", "--evaluate.metric", "voc10"]
    arguments = ["--workdir", workdir, "--out", out, *options]
    script(monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "Compressed in " in printed
    figures = json.loads((out / "compression.json").read_text())
    assert (figures["fc6_rank"], figures["fc7_rank"], figures["step"]) == (6, 3, 4)
    # 144 * 32 + 32 * 16 + 16 * 3 + 16 * 12, and 6 * (144 + 32) + 3 * (32 + 16) in place of the first two.
    assert figures["before"]["multiply_adds_of_an_roi"] == 5360
    assert figures["after"]["multiply_adds_of_an_roi"] == 1440
    assert figures["before"]["parameters"] - figures["after"]["parameters"] == 5360 - 1440
    for name, report in (("before", "eval_before"), ("after", "eval")):
        metrics = json.loads((out / report / "metrics.json").read_text())
        assert (metrics["map"], metrics["metric"]) == (figures[name]["map"], "voc10")
        assert figures[name]["milliseconds"] > 0
        row = next(line.split() for line in printed.splitlines() if line.startswith("mAP"))
        assert f"{figures[name]['map']:.4f}" in row
    assert contents(workdir) == before

    with pytest.raises(SystemExit, match=r"^compress\.py: model\.dropout, train\.steps: not a setting of"):
        script(
            *(monkeypatch, "--workdir", workdir, "--out", tmp_path / "new", "--fc6", 6, "--no-evaluate"),
            *("--train.steps", 9, "--model.dropout", 0.1),
        )
    assert not (tmp_path / "new").exists()
    script(monkeypatch, *arguments, "--no-evaluate")
    assert "already holds this compression" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^compress\.py: .*out holds another run, its settings are not those"):
        script(monkeypatch, "--workdir", workdir, "--fc6", 5, "--out", out)
    with pytest.raises(SystemExit, match=r"^compress\.py: no rank is given"):
        script(monkeypatch, "--workdir", workdir)
    with pytest.raises(SystemExit, match="2"):
        script(monkeypatch, "--workdir", workdir, "--fc6", -5)
    assert "must not be negative" in capsys.readouterr().err


def test_plugins_of_a_run_are_trusted_in_its_compressed_copy(workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/plugin_of_a_run.py").write_text("")
    run = shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(stored | {"plugins": ["plugin_of_a_run"]}))
    load_plugins(["plugin_of_a_run"], run)
    compress_run(run, tmp_path / "out", **SMALL)
    monkeypatch.delitem(sys.modules, "plugin_of_a_run")
    assert load_detector(tmp_path / "out").config.plugins == ("plugin_of_a_run",)
