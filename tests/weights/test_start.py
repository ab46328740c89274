"""A run starts from published weights: the pixels are theirs, and the deltas are in the right units."""

import jax
import numpy as np
import pytest

from frcnn_jax.config import Config, ModelConfig
from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.training.initial import build_model, initial_params
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights
from tests.weights.caffe_files import encode_model
from tests.weights.formats.test_torch_vgg16 import state_dict
from tests.weights.networks import m_layers, small_m
from tests.weights.torch_files import write_zip

STATISTICS = BoxStatistics(
    mean=np.float32([[0, 0, 0, 0], [0.1, 0.2, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, 0.3]]),
    std=np.float32([[1, 1, 1, 1], [0.1, 0.1, 0.2, 0.2], [0.3, 0.1, 0.2, 0.2], [0.1, 0.2, 0.2, 0.2]]),
)
KEY = jax.random.key(3)


@pytest.fixture
def weights(tmp_path):
    """A finished detector of four classes and its ImageNet network."""
    for name, heads in (("finished", 4), ("imagenet", None)):
        (tmp_path / f"{name}.caffemodel").write_bytes(encode_model(m_layers(heads)))
    return tmp_path


def start(path, **settings):
    return initial_params(Config(model=ModelConfig("vgg16", weights=str(path), **settings)), small_m(), STATISTICS, KEY)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_finished_detector_in_units_of_the_training_set(weights):
    path = weights / "finished.caffemodel"
    params, plain = start(path), load_weights(path, small_m())
    assert np.abs(params["head"]["bbox_pred"]["kernel"] - plain["head"]["bbox_pred"]["kernel"]).max() > 1
    assert_close(fold_statistics(params, STATISTICS), plain)


def test_new_heads_start_as_the_paper_says_whatever_the_statistics(weights):
    params = start(weights / "imagenet.caffemodel")
    np.testing.assert_array_equal(params["head"]["bbox_pred"]["bias"], 0)
    assert 0.0003 < np.std(params["head"]["bbox_pred"]["kernel"]) < 0.003
    # Asked for: drawn although those in the file would fit.
    asked = start(weights / "finished.caffemodel", new_heads=True)
    jax.tree.map(np.testing.assert_array_equal, asked, params)


def test_new_heads_for_other_classes(weights):
    path = weights / "other.caffemodel"
    path.write_bytes(encode_model(m_layers(heads=6)))
    assert start(path, new_heads=True)["head"]["bbox_pred"]["kernel"].shape == (8, 16)
    with pytest.raises(ValueError, match=r"other\.caffemodel is for 6 classes, the model for 4"):
        start(path)


def test_the_model_has_the_pixels_of_its_weights(weights):
    write_zip(weights / "a.pth", state_dict())
    for name, pixels in (("a.pth", TORCHVISION_PIXELS), ("imagenet.caffemodel", CAFFE_PIXELS)):
        config = Config(model=ModelConfig("vgg16", weights=str(weights / name)))
        assert build_model(config, 21).pixels == pixels
    with pytest.raises(FileNotFoundError, match=r"there is no none\.pth"):
        build_model(Config(model=ModelConfig("vgg16", weights="none.pth")), 21)
