"""A compressed run is a run: it evaluates, detects, exports and trains on; the one it comes from is only read."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.runs.compress import compress_run, compressed_workdir
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.runs.export import export_arrays, export_stablehlo
from frcnn_jax.training.loop import train
from frcnn_jax.training.workdir import read_config
from frcnn_jax.types import Detections
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights, read_metadata
from frcnn_jax.weights.svd import compress_head
from tests.runs.compress.reading import FULL, SMALL, contents, stored_state, with_ranks
from tests.training.runs import run_config
from tests.weights.detectors import assert_same_detections, image_and_boxes


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
