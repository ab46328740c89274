"""R-CNN end to end on drawn images with a small network, stage by stage."""

import dataclasses
import json
import shutil
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.comparison import rcnn
from frcnn_jax.comparison.feature_store import FeatureWriter
from frcnn_jax.comparison.rcnn import Warp
from frcnn_jax.comparison.stages import classifiers, network, run, testing
from frcnn_jax.comparison.stages.batches import WindowBatches
from frcnn_jax.comparison.stages.features import store_features
from frcnn_jax.comparison.stages.folder import load_arrays, save_arrays
from frcnn_jax.comparison.windows import candidates, label_windows
from frcnn_jax.config import replace
from frcnn_jax.detection.stages import untimed
from frcnn_jax.locks import FolderInUseError
from frcnn_jax.models.architectures import create_window_network
from frcnn_jax.models.heads import HiddenStages
from frcnn_jax.models.pixels import CENTERED_PIXELS, normalize_images
from frcnn_jax.ops.warp import warp_window
from tests.comparison.cases import case
from tests.conftest import COMPILATIONS

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def trained(data):
    """A folder with R-CNN trained and tested, and what the test returned."""
    folder = data / "rcnn"
    rcnn.train(*case(data), folder)
    return folder, rcnn.test(*case(data), folder)


def test_what_is_left_on_disk(trained):
    folder, metrics = trained
    assert metrics["images"] == 4
    assert metrics == json.loads((folder / "eval/metrics.json").read_text())
    assert (folder / "eval/index.html").exists()
    record = json.loads((folder / "record.json").read_text())
    assert set(record["train"]) == {"fine_tuning", "features", "svms", "regressors"}
    assert set(record["test"][""]) == {"warp", "convolution", "fc", "suppression"}
    assert all(stage["images"] == 4 for stage in record["test"][""].values())
    assert (record["steps"], record["windows"], record["paper_share"]) == (6, 72, 72 / (128 * 70_000))
    assert record["map"] == metrics["map"]
    assert record["proposals"] == 27 / 4
    # 7 objects, and 9 proposals of 7 images; the vector of 16, and 3 x 3 cells of 16.
    pairs = json.loads((folder / "pooled/settings.json").read_text())["counts"]
    assert record["disk_bytes"] == 4 * (70 * 16 + sum(pairs) * 144)


def test_features_are_those_of_each_window_alone(trained, data):
    folder, _ = trained
    config, comparison = case(data)
    network, params = create_window_network("tiny"), load_arrays(folder / "network.npz")
    with run.open_training(config, comparison, folder, "rcnn", comparison.rcnn) as opened:
        _, warp = rcnn.build(opened)
        # In reverse order windows without pooled features come before those with them.
        proposals = [np.asarray(opened.proposals[i])[::-1] for i in range(8)]
        opened = dataclasses.replace(opened, folder=data / "reversed", proposals=proposals)
        vectors, pooled, pairs = rcnn.compute_features(opened, network, params, warp)
        image = normalize_images(jnp.asarray(opened.images[4][None]), None, CENTERED_PIXELS)[0]
        boxes = candidates(opened.proposals[4], opened.annotations[4])
    windows = jax.vmap(lambda box: warp_window(image, box, size=48, context=4))(jnp.asarray(boxes))
    expected = jax.jit(network.apply)({"params": params}, windows)
    np.testing.assert_allclose(vectors[4], expected, rtol=1e-4, atol=1e-5)
    rows = pairs.rows[4]
    assert rows[-1] >= len(rows)
    cells = rcnn._pooled(params, windows, network=network)[rows].reshape(len(rows), -1)
    np.testing.assert_allclose(pooled[4], cells, rtol=1e-4, atol=1e-5)


def test_fine_tuning_sees_windows_of_all_images_and_drops_features(data, monkeypatch):
    config, comparison = case(data)
    given = []
    monkeypatch.setattr(rcnn, "fine_tune_once", lambda run, task, source, *_: given.extend([task, source]))
    with run.open_training(config, comparison, data / "batches", "rcnn", comparison.rcnn) as opened:
        network, _, _ = rcnn.fine_tune(opened)
        windows = label_windows(opened.proposals, opened.annotations)
        settings = comparison.rcnn.fine_tuning
        rows, labels, _ = WindowBatches(windows, np.arange(8), settings, lambda rows: rows, steps=6, seed=(0, 2))[0]
        task, source = given
        inputs, found, _ = source[0]
        loaded, cut = task.load(inputs), jax.jit(partial(warp_window, size=48, context=4))
        for window, image, box in zip(loaded, windows.images[rows], windows.boxes[rows], strict=True):
            pixels = normalize_images(jnp.asarray(opened.images[int(image)][None]), None, CENTERED_PIXELS)[0]
            np.testing.assert_allclose(window, cut(pixels, jnp.asarray(box)), atol=1e-5)
    np.testing.assert_array_equal(found, labels)
    assert len(set(windows.images[rows])) > 3
    assert network.head.dropout == 0.3
    keys = [None, jax.random.key(0), jax.random.key(1)]
    logits = [np.asarray(task.logits(task.params, loaded, key)) for key in keys]
    assert not np.allclose(logits[0], logits[1])
    assert not np.allclose(logits[1], logits[2])


def test_dropout_of_a_mean_vector():
    class Unchanged(nn.Module):
        dtype: Any = jnp.float32
        param_dtype: Any = jnp.float32

        def __call__(self, x):
            return x

    network, pooled = HiddenStages(Unchanged, dropout=0.3), jnp.ones((100, 2, 2, 8))
    np.testing.assert_array_equal(network.apply({}, pooled), np.ones((100, 8)))
    vectors = np.asarray(network.apply({}, pooled, train=True, rngs={"dropout": jax.random.key(0)}))
    np.testing.assert_allclose(vectors[vectors > 0], 1 / 0.7, rtol=1e-6)
    assert 0.25 < np.mean(vectors == 0) < 0.35


def test_what_is_done_is_not_done_again(trained, data, monkeypatch, capsys):
    folder, metrics = trained

    def again(*_, **__):
        raise AssertionError

    monkeypatch.setattr(network, "fine_tune", again)
    monkeypatch.setattr(classifiers, "mine_svms", again)
    monkeypatch.setattr(classifiers, "fit_box_regressors", again)
    monkeypatch.setattr(FeatureWriter, "write", again)
    rcnn.train(*case(data), folder)
    assert "Features of" not in capsys.readouterr().out
    before = json.loads((folder / "record.json").read_text())["test"]
    assert rcnn.test(*case(data), folder) == metrics
    assert json.loads((folder / "record.json").read_text())["test"] == before


def test_features_go_on_where_a_run_was_stopped(trained, data, monkeypatch):
    folder, _ = trained
    stopped, written, write = data / "stopped", [], FeatureWriter.write
    shutil.copytree(folder, stopped)
    for name in ("vectors", "pooled", "svms.npz", "regressors.npz", "mining.npz"):
        (shutil.rmtree if (stopped / name).is_dir() else type(stopped).unlink)(stopped / name)

    def write_some(self, index, rows):
        if len(written) == 7:  # both stores of three images, and one of the fourth
            raise ZeroDivisionError
        written.append((self.folder.name, index))
        write(self, index, rows)

    monkeypatch.setattr(FeatureWriter, "write", write_some)
    with pytest.raises(ZeroDivisionError):
        rcnn.train(*case(data), stopped)
    monkeypatch.setattr(FeatureWriter, "write", lambda *a: (written.append((a[0].folder.name, a[1])), write(*a)))
    rcnn.train(*case(data), stopped)
    assert [index for name, index in written if name == "vectors"] == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    for name in ("vectors/features.bin", "pooled/features.bin"):
        assert (stopped / name).read_bytes() == (folder / name).read_bytes()
    for name in ("svms.npz", "regressors.npz"):
        jax.tree.map(np.testing.assert_array_equal, load_arrays(stopped / name), load_arrays(folder / name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, s: (replace(c, model={"dropout": 0.5}), s), r"another model\.dropout, 0\.3 and not 0\.5"),
        (
            lambda c, s: (c, replace(s, svm={"c": 2.0})),
            r"another svm\.c, 0\.1 and not 2\.0: give that again, or another",
        ),
        (
            lambda c, s: (c, replace(s, rcnn={"fine_tuning": {"steps": 9}})),
            r"settings\.fine_tuning\.steps, 6 and not 9",
        ),
        (lambda c, s: (replace(c, train={"seed": 1}), s), r"another seed, 0 and not 1"),
    ],
)
def test_other_settings_are_refused(trained, data, change, message):
    for function in (rcnn.train, rcnn.test):
        with pytest.raises(ValueError, match=message):
            function(*change(*case(data)), trained[0])


def test_other_data_are_refused(trained, data, tmp_path):
    config, comparison = case(data)
    boxes = dict(np.load(data / "train.npz"))
    np.savez(tmp_path / "other.npz", **boxes | {"a0": boxes["a0"][1:]})
    config = replace(config, proposals={"train_files": (str(tmp_path / "other.npz"),)})
    with pytest.raises(ValueError, match="another proposals"):
        rcnn.train(config, comparison, trained[0])


def test_changed_annotations_are_refused_before_proposals_are_opened(trained, data, tmp_path):
    for folder in ("Annotations", "ImageSets", "JPEGImages"):
        shutil.copytree(data / folder, tmp_path / folder)
    path = tmp_path / "Annotations/a3.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    config, comparison = case(data)
    config = replace(config, data={"root": str(tmp_path), "tfds_dir": str(tmp_path / "prepared")})
    config = replace(config, proposals={"train_files": (str(tmp_path / "missing.npz"),)})
    with pytest.raises(ValueError, match=r"was made with another data, '.*' and not '.*': give that again, or another"):
        rcnn.train(config, comparison, trained[0])


def test_one_process_at_a_time(trained, data):
    config, comparison = case(data)
    with run.open_training(config, comparison, trained[0], "rcnn", comparison.rcnn):
        for function in (rcnn.train, rcnn.test):
            with pytest.raises(FolderInUseError, match="training rcnn"):
                function(config, comparison, trained[0])


def test_settings_of_the_test_may_change(trained, data):
    config, comparison = case(data)
    comparison = replace(comparison, selection={"per_class": 3, "nms_iou": 0.5})
    folder = data / "other_test"
    shutil.copytree(trained[0], folder)
    with pytest.raises(ValueError, match="per_class: 100 there and 3 here"):
        rcnn.test(config, comparison, folder)
    shutil.rmtree(folder / "tested")
    assert rcnn.test(config, comparison, folder)["images"] == 4


def test_before_training(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no trained rcnn: train it first"):
        rcnn.test(*case(data), tmp_path)


@pytest.mark.long
def test_a_share(data):
    """Times of a quarter of the images and a step of six beside the first."""
    config, comparison = case(data)
    comparison = dataclasses.replace(comparison, share=0.25)
    rcnn.train(config, comparison, data / "share")
    assert rcnn.test(config, comparison, data / "share") == {}
    record = json.loads((data / "share/record.json").read_text())
    shares = {stage: entry["share"] for stage, entry in record["train"].items()}
    assert shares == {"fine_tuning": 2 / 6, "features": 2 / 8, "svms": 2 / 8, "regressors": 2 / 8}
    assert {(entry["images"], entry["share"]) for entry in record["test"][""].values()} == {(1, 0.25)}
    assert "map" not in record


def test_the_part_of_an_image_gives_the_same_window():
    random = np.random.default_rng(0)
    image, warp = random.integers(0, 256, (150, 260, 3)).astype(np.uint8), Warp(32, 4, CENTERED_PIXELS)
    corners, sides = random.integers(-10, 200, (20, 2)), random.integers(1, 120, (20, 2))
    whole, size = rcnn.padded(image)
    assert whole.shape == (192, 384, 3)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    expected = warp(whole, size, boxes)
    for box, window in zip(boxes, expected, strict=True):
        part, part_size, moved = warp.around(image, box)
        np.testing.assert_allclose(warp(part, part_size, moved[None])[0], window, atol=1e-5)


@pytest.mark.parametrize("name", ["svms.npz", "regressors.npz", "mining.npz"])
def test_what_was_trained_on_another_network_is_refused(trained, data, tmp_path, name):
    folder, _ = trained
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    network = load_arrays(changed / "network.npz")
    network["head"]["cls_score"]["bias"] += 1
    save_arrays(changed / "network.npz", network)
    for part in {"vectors", "pooled", "svms.npz", "regressors.npz", "mining.npz"} - {name}:
        (shutil.rmtree if (changed / part).is_dir() else type(changed).unlink)(changed / part)
    with pytest.raises(ValueError, match=rf"{name}.* (another|other) network.*[dD]elete it"):
        rcnn.train(*case(data), changed)
    (changed / name).unlink()
    rcnn.train(*case(data), changed)


def test_features_of_another_network_are_refused(data):
    config, comparison = case(data)
    plan = {"vectors": ([0] * 8, 16)}
    with run.open_training(config, comparison, data / "other_features", "rcnn", comparison.rcnn) as opened:
        store_features(opened, plan, lambda index: {"vectors": np.zeros((0, 16), np.float32)}, np.zeros(2))
        with pytest.raises(ValueError, match=r"features made from other network: .* Delete the folder"):
            store_features(opened, plan, None, np.ones(2))


def test_another_number_of_proposals_compiles_nothing(trained, data):
    folder, _ = trained
    config, comparison = case(data)
    with run.open_test(config, comparison, folder, "rcnn", comparison.rcnn) as opened:
        network, warp = rcnn.build(opened)
        params, _ = rcnn.first_params(opened)
        svms = classifiers.load_svms(opened, load_arrays(folder / "network.npz"))
        describe = rcnn.describe(network, params, warp, 8)
        score, select = testing.score_by_svms(svms, None), testing.select_candidates
        counts = []
        for number in (5, 6, 7):
            boxes = np.asarray(opened.proposals[0][:number], np.float32)
            before = len(COMPILATIONS)
            found = testing._candidates(opened, 0, boxes, describe, score, select, untimed)
            assert np.isfinite(found.scores).sum() == 2 * number
            counts.append(len(COMPILATIONS) - before)
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
