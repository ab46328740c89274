"""A head of one's own: its weights keep their box statistics, or are refused, by whatever names its layers have."""

import dataclasses
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import Config, ModelConfig
from frcnn_jax.detection.detect import detect
from frcnn_jax.models import architectures
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import output_layers
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.runs.export import export_arrays
from frcnn_jax.training.initial import initial_params
from frcnn_jax.training.state import create_state
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.folding import fold_statistics, unfold_statistics
from frcnn_jax.weights.load import load_weights
from frcnn_jax.weights.svd import compress_head
from tests.weights.detectors import (
    CONFIG,
    PIXELS,
    SMALL_TINY,
    assert_same_detections,
    image_and_boxes,
    random_params,
    save_run,
    small_detector,
)

OURS = "own"


class Undeclared(nn.Module):
    """Two layers beside each other; that of offsets has an axis of its own for the coordinates."""

    num_classes: int
    dropout: float = 0.5
    dtype: np.dtype = np.dtype("float32")
    param_dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, pooled, *, train=False):
        x = pooled.reshape(pooled.shape[0], -1)
        return nn.Dense(self.num_classes, name="scores")(x), nn.DenseGeneral((self.num_classes, 4), name="boxes")(x)


class Declared(Undeclared):
    output_layers = "scores", "boxes"


class Flat(Declared):
    """With the layer of offsets as that of `FastRCNNHead`."""

    @nn.compact
    def __call__(self, pooled, *, train=False):
        x = pooled.reshape(pooled.shape[0], -1)
        deltas = nn.Dense(4 * self.num_classes, name="boxes")(x)
        return nn.Dense(self.num_classes, name="scores")(x), deltas.reshape(-1, self.num_classes, 4)


def detector_of(head):
    """`small_detector` with another head; its statistics matter."""
    model = FastRCNN(TinyBackbone((16, 16, 16), (1, 1, 1)), head(4), PIXELS, (3, 3))
    config = dataclasses.replace(CONFIG, model=ModelConfig(OURS))
    return dataclasses.replace(small_detector(), model=model, params=random_params(model), config=config)


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """An architecture with the head that a test sets."""
    table = {OURS: dataclasses.replace(SMALL_TINY, head=Declared)}
    monkeypatch.setattr(architectures, "ARCHITECTURES", table)
    monkeypatch.setattr("frcnn_jax.training.state.ARCHITECTURES", table)
    return table


def files_of(detector, folder):
    """Everything that its weights are loaded from."""
    for name in ("a.npz", "a.safetensors"):
        export_arrays(folder / name, detector)
        yield folder / name
    save_run(detector, folder / "run")
    yield folder / "run"


@pytest.mark.parametrize("head", [Declared, Flat])
def test_loaded_weights_give_the_boxes_of_the_detector(own, tmp_path, head):
    own[OURS] = dataclasses.replace(SMALL_TINY, head=head)
    detector = detector_of(head)
    image, boxes = image_and_boxes()
    settings = {name: getattr(CONFIG.evaluate, name) for name in ("nms_iou", "score_threshold", "per_class")}
    expected = detector.detect(image, boxes)
    for path in files_of(detector, tmp_path):
        params = load_weights(path, detector.model)
        assert_same_detections(
            detect(detector.model, params, image, boxes, scale=48, max_size=96, **settings), expected
        )
    assert_same_detections(load_detector(tmp_path / "run").detect(image, boxes), expected)


def test_training_starts_in_units_of_its_statistics(tmp_path):
    detector = detector_of(Declared)
    export_arrays(tmp_path / "a.npz", detector)
    config = Config(model=ModelConfig(OURS, weights=str(tmp_path / "a.npz")))
    statistics = BoxStatistics(mean=np.full((4, 4), 0.5, np.float32), std=np.full((4, 4), 2.0, np.float32))
    params = initial_params(config, detector.model, statistics, jax.random.key(0))
    again = fold_statistics(params, statistics, layer="boxes")
    alone = load_weights(tmp_path / "a.npz", detector.model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again, alone)
    assert np.abs(params["head"]["boxes"]["bias"] - alone["head"]["boxes"]["bias"]).max() > 0.1


def test_a_head_that_does_not_name_its_layers_is_refused(own, tmp_path):
    own[OURS] = dataclasses.replace(SMALL_TINY, head=Undeclared)
    detector = detector_of(Undeclared)
    message = (
        "box statistics cannot be folded into a head without head/bbox_pred/kernel and head/bbox_pred/bias: set "
        "output_layers of the head to the names of its layers of scores and offsets; it has boxes, scores"
    )
    for path in files_of(detector, tmp_path):
        with pytest.raises(ValueError, match=f"^{path}: {message}$"):
            load_weights(path, detector.model)
    for change in (fold_statistics, unfold_statistics):
        with pytest.raises(ValueError, match=f"^{message}$"):
            change(detector.params, detector.statistics)


def test_statistics_that_change_nothing_need_no_layer(tmp_path):
    ones = BoxStatistics(mean=np.zeros((4, 4), np.float32), std=np.ones((4, 4), np.float32))
    detector = dataclasses.replace(detector_of(Undeclared), statistics=ones)
    export_arrays(tmp_path / "a.npz", detector)
    loaded = load_weights(tmp_path / "a.npz", detector.model)
    jax.tree.map(np.testing.assert_array_equal, loaded, detector.params)


def test_new_heads_are_the_layers_that_the_head_names(tmp_path, caplog):
    detector = detector_of(Declared)
    export_arrays(tmp_path / "a.npz", detector)
    config = Config(model=ModelConfig(OURS, weights=str(tmp_path / "a.npz"), new_heads=True))
    caplog.set_level(logging.INFO, "frcnn_jax")
    params = initial_params(config, detector.model, detector.statistics, jax.random.key(0))
    assert "only scores and boxes are new and start at random" in caplog.text
    for layer in ("scores", "boxes"):
        assert np.abs(params["head"][layer]["kernel"] - detector.params["head"][layer]["kernel"]).max() > 0.01
        np.testing.assert_array_equal(params["head"][layer]["bias"], 0)
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], detector.params["backbone"])
    with pytest.raises(
        ValueError,
        match=r"^model\.new_heads draws cls_score and bbox_pred, and the head has no cls_score and no bbox_pred: "
        r"set its output_layers to two of boxes, scores$",
    ):
        initial_params(config, detector_of(Undeclared).model, detector.statistics, jax.random.key(0))


def test_other_classes_than_the_file_s(tmp_path):
    export_arrays(tmp_path / "a.npz", detector_of(Declared))
    model = FastRCNN(TinyBackbone((16, 16, 16), (1, 1, 1)), Declared(6), PIXELS, (3, 3))
    with pytest.raises(ValueError, match=r"a\.npz is for 4 classes, the model for 6, background included"):
        load_weights(tmp_path / "a.npz", model)


def test_a_state_counts_classes_by_the_layer_of_scores(own):
    detector = detector_of(Declared)
    assert create_state(detector.config, detector.params).statistics.mean.shape == (4, 4)
    assert create_state(detector.config, small_detector().params).statistics.mean.shape == (4, 4)
    own[OURS] = dataclasses.replace(SMALL_TINY, head=Undeclared)
    with pytest.raises(ValueError, match=r"no head/cls_score/bias to count classes by: give create_state the box"):
        create_state(detector.config, detector.params)


def test_a_head_without_fc6_is_not_called_compressed():
    detector = detector_of(Declared)
    with pytest.raises(ValueError, match=r"^the head has no layer fc6 to compress; it has boxes, scores$"):
        compress_head(detector.params, fc6_rank=2)
    twice = compress_head(small_detector().params, fc6_rank=2)
    with pytest.raises(ValueError, match=r"^fc6 is compressed already$"):
        compress_head(twice, fc6_rank=2)


@pytest.mark.parametrize("names", ["scores", ("scores",), ("scores", 3), None])
def test_output_layers_of_another_form(names):
    class Wrong(Undeclared):
        output_layers = names

    with pytest.raises(TypeError, match=r"^Wrong\.output_layers must name the layers of scores and of offsets, as in"):
        output_layers(Wrong(4))


def test_half_precision_is_kept():
    params = {"head": {"boxes": {"kernel": jnp.ones((2, 4, 4), jnp.bfloat16), "bias": jnp.ones((4, 4))}}}
    statistics = small_detector().statistics
    folded = fold_statistics(params, statistics, layer="boxes")["head"]["boxes"]
    assert folded["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(folded["bias"], statistics.std + statistics.mean, rtol=1e-6)
