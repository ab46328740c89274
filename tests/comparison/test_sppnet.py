"""SPPnet end to end on drawn images with a small network, stage by stage."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.comparison import sppnet
from frcnn_jax.comparison.mining import feature_scale
from frcnn_jax.comparison.ridge import fit_box_regressors
from frcnn_jax.comparison.stages import run
from frcnn_jax.comparison.stages.folder import load_arrays
from frcnn_jax.comparison.windows import candidates, keep_windows, label_windows
from frcnn_jax.config import replace
from frcnn_jax.detection.stages import untimed
from frcnn_jax.ops.spatial_pyramid import pyramid_cells, spatial_pyramid_pool
from tests.comparison.cases import case

pytestmark = pytest.mark.usefixtures("small")


def settings(data):
    config, comparison = case(data)
    return config, replace(comparison, sppnet={"fine_tuning": {"background_iou": (0.1, 0.5)}})


@pytest.fixture(scope="module")
def trained(data):
    """A folder with SPPnet trained and tested, and what the test returned."""
    folder = data / "sppnet"
    sppnet.train(*settings(data), folder)
    return folder, sppnet.test(*settings(data), folder)


@pytest.fixture
def opened(trained, data):
    config, comparison = settings(data)
    with run.open_training(config, comparison, trained[0], "sppnet", comparison.sppnet) as opened:
        yield opened


def test_what_is_left_on_disk(trained):
    folder, metrics = trained
    assert metrics == json.loads((folder / "eval/metrics.json").read_text())
    record = json.loads((folder / "record.json").read_text())
    assert set(record["train"]) == {"fine_tuning", "features", "svms", "regressors"}
    assert set(record["test"][""]) == {"resize", "convolution", "pooling", "fc", "suppression"}
    assert (record["steps"], record["windows"], record["images"]) == (6, 72, [8, 4])
    assert record["paper_share"] == 72 / (128 * 90_000)
    assert record["map"] == metrics["map"]


def test_the_convolutions_are_not_trained(trained, opened):
    before = sppnet.first_params(opened, sppnet.build(opened))
    after = load_arrays(trained[0] / "network.npz")
    np.testing.assert_array_equal(after["backbone"]["stem"]["kernel"], before["backbone"]["stem"]["kernel"])
    for layer in ("fc6", "fc7", "cls_score"):
        assert not np.array_equal(after["head"][layer]["kernel"], before["head"][layer]["kernel"])
    assert after["head"]["fc6"]["kernel"].shape == (50 * 16, 32)
    assert 0.007 < np.std(before["head"]["cls_score"]["kernel"]) < 0.013


def test_each_box_is_pooled_at_the_scale_where_its_area_is_closest(opened):
    """Of 30 x 40 pixels, at scales 48 / 30 and 64 / 30; the area is that of 24 x 24.

    Half of the difference between the scales' squares: a square of s pixels belongs to the first where
    s^2 (1.6^2 + 2.13^2) / 2 > 24^2, that is above 12.7.
    """
    network = sppnet.build(opened)
    params = sppnet.first_params(opened, network)
    image = opened.images[3]
    assert network.level(image, 48) == (1.6, (48, 64))
    boxes = np.array([[0, 0, 12, 12], [5, 5, 19, 19], [2, 2, 14, 14], [0, 0, 40, 30]], np.float32)
    parts = list(sppnet.pool(network, params, image, boxes, untimed))
    assert [rows.tolist() for rows, _ in parts] == [[1, 3], [0, 2]]
    for (rows, pooled), shorter in zip(parts, (48, 64), strict=True):
        pixels, size = sppnet.resize(image, shorter / 30, network.level(image, shorter)[1])
        features, valid = sppnet.convolve(params, pixels, size, model=network.model)
        cells = pyramid_cells(jnp.asarray(boxes[rows]), shorter / 30, valid)
        expected = jax.jit(spatial_pyramid_pool)(features, cells, valid_size=valid)
        np.testing.assert_allclose(pooled[: len(rows)], expected.reshape(len(rows), -1), rtol=1e-5, atol=1e-6)


def test_the_codes_rule_of_cells(opened):
    network = sppnet.build(opened)
    params = sppnet.first_params(opened, network)
    network = replace(network, settings={"cells": "code", "origin": 5.0, "margin": 9.0})
    image, boxes = opened.images[3], np.array([[10, 8, 26, 24], [12, 0, 40, 20]], np.float32)
    ((_, pooled),) = sppnet.pool(network, params, image, boxes, untimed)
    pixels, size = sppnet.resize(image, 1.6, (48, 64))
    features, valid = sppnet.convolve(params, pixels, size, model=network.model)
    cells = pyramid_cells(jnp.asarray(boxes), 1.6, valid, rule="code", origin=5.0, margin=9.0)
    # Without the rule the second box begins at 1, without origin and margin the first one at 2 and ends at 2.
    assert cells.tolist() == [[1, 1, 2, 1], [2, 0, 3, 1]]
    expected = jax.jit(spatial_pyramid_pool)(features, cells, valid_size=valid)
    np.testing.assert_allclose(pooled[:2], expected.reshape(2, -1), rtol=1e-5, atol=1e-6)


def test_regressors_are_fitted_to_their_windows(trained, opened):
    network = sppnet.build(opened)
    params = sppnet.first_params(opened, network)
    pooled, kept, pairs = sppnet.pool_windows(opened, network, params)
    rows = kept.rows_of(pairs.rows)
    assert not np.array_equal(rows, np.arange(len(rows)))
    scale = feature_scale(pooled, 20.0, seed=opened.seed)
    settings = {"num_classes": 2, "regularization": 10, "scale": scale}
    expected = fit_box_regressors(pooled.select(rows), pairs.labels, pairs.targets, **settings)
    found = load_arrays(trained[0] / "regressors.npz")
    np.testing.assert_allclose(found["weights"], expected.weights, atol=1e-6)
    np.testing.assert_allclose(found["biases"], expected.biases, atol=1e-6)


def test_stored_are_the_windows_that_are_learned_from(opened):
    network = sppnet.build(opened)
    params = sppnet.first_params(opened, network)
    pooled, kept, pairs = sppnet.pool_windows(opened, network, params)
    windows = label_windows(opened.proposals, opened.annotations)
    assert len(windows) == 70
    np.testing.assert_array_equal(kept.windows.boxes, windows.boxes[windows.overlaps >= 0.1])
    assert pooled.shape == (len(kept.windows), 800)
    for row, target in zip(kept.rows_of(pairs.rows)[::5], pairs.labels[::5], strict=True):
        image = kept.windows.images[row]
        assert kept.windows.labels[row] == target
        assert kept.windows.overlaps[row] > 0.6
        ((_, alone),) = sppnet.pool(network, params, opened.images[image], kept.windows.boxes[row : row + 1], untimed)
        np.testing.assert_allclose(pooled.select(np.array([row]))[0], alone[0], rtol=1e-4, atol=1e-5)


def test_vectors_are_of_every_window_after_fine_tuning(trained, opened):
    network = sppnet.build(opened)
    params = load_arrays(trained[0] / "network.npz")
    vectors = sppnet.compute_vectors(opened, network, params)
    assert vectors.shape == (70, 16)
    boxes = candidates(opened.proposals[4], opened.annotations[4])
    ((_, pooled),) = sppnet.pool(network, params, opened.images[4], boxes[:1], untimed)
    layers = params["head"]
    hidden = np.maximum(pooled[0] @ layers["fc6"]["kernel"] + layers["fc6"]["bias"], 0)
    expected = np.maximum(hidden @ layers["fc7"]["kernel"] + layers["fc7"]["bias"], 0)
    np.testing.assert_allclose(vectors[4][0], expected, rtol=1e-4, atol=1e-5)


def test_rows_of_a_store_by_hand():
    from tests.comparison.test_windows import windows

    # IoUs 1, 1, .5, .5, .82, 0, 0, .09 in image 1 and 0 in image 2.
    kept = keep_windows(windows(), 3, 0.1)
    assert [places.tolist() for places in kept.places] == [[], [0, 1, 2, 3, 4, -1, -1, -1], [-1]]
    np.testing.assert_array_equal(kept.rows_of([np.zeros(0, int), np.array([1, 4]), np.zeros(0, int)]), [1, 4])


def test_the_record_may_be_deleted_before_a_test(trained, data, tmp_path):
    folder, metrics = trained
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/record.json").unlink()
    assert sppnet.test(*settings(data), tmp_path / "copy") == metrics
    record = json.loads((tmp_path / "copy/record.json").read_text())
    assert (record["map"], record["images"]) == (metrics["map"], [None, 4])


def test_a_finished_folder_is_tested_without_its_file_of_weights(trained, data, tmp_path):
    folder, metrics = trained
    config, comparison = settings(data)
    copy, weights = tmp_path / "copy", str(tmp_path / "deleted.safetensors")
    shutil.copytree(folder, copy)
    stored = json.loads((copy / "settings.json").read_text())
    stored["model"]["weights"] = weights
    (copy / "settings.json").write_text(json.dumps(stored))
    config = replace(config, model={"weights": weights})
    assert sppnet.test(config, comparison, copy) == metrics
    (copy / "network.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"deleted.safetensors"):
        sppnet.test(config, comparison, copy)
