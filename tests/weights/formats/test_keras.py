"""Keras's VGG16: every layout gives the numbers of the Caffe network, and every fault is one line that names it."""

import builtins
import logging

import jax
import numpy as np
import pytest

from frcnn_jax.config import Config, ModelConfig
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.training.initial import initial_params
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.convert import convert_weights
from frcnn_jax.weights.formats.keras import read_vgg16
from frcnn_jax.weights.load import load_weights, read_pixels
from tests.weights.caffe_files import encode_model
from tests.weights.formats.keras_files import keras_layers, write_groups, write_variables
from tests.weights.networks import small_m, small_vgg16, vgg16_layers

MODEL = small_vgg16()
LAYOUTS = {
    "Keras 1": lambda path, layers: write_groups(path, layers, "{0}_{2}_1:0"),
    "Keras 2": write_groups,
    "Keras 3, whole model": lambda path, layers: write_groups(path, layers, "{0}/{1}", below="model_weights"),
    "Keras 3": write_variables,
    "Keras 3, before names": lambda path, layers: write_variables(path, layers, named=False),
    "Keras 3, nested": lambda path, layers: write_variables(path, layers, nested=True),
    "Keras 3, nested, before names": lambda path, layers: write_variables(path, layers, nested=True, named=False),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The same numbers by way of a .caffemodel."""
    path = tmp_path_factory.mktemp("caffe") / "vgg16.caffemodel"
    path.write_bytes(encode_model(vgg16_layers(heads=None)))
    return load_weights(path, MODEL)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_same_as_the_caffe_network(tmp_path, expected, layout):
    path = LAYOUTS[layout](tmp_path / "a.weights.h5", keras_layers())
    assert read_pixels(path) == CAFFE_PIXELS
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, MODEL), expected)


@pytest.mark.parametrize("layout", ["Keras 2", "Keras 3, nested, before names"])
def test_without_top(tmp_path, expected, layout, caplog):
    """fc6 and fc7 are drawn as a new network's, which is said."""
    path = LAYOUTS[layout](tmp_path / "a.h5", keras_layers(top=False))
    with caplog.at_level(logging.INFO):
        params = load_weights(path, MODEL)
    assert "a.h5: loaded; only fc6, fc7, cls_score and bbox_pred are new and start at random" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected["backbone"])
    assert jax.tree.map(np.shape, params["head"]) == jax.tree.map(np.shape, expected["head"])
    kernel = params["head"]["fc6"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), (2 / 36) ** 0.5, rtol=0.2)
    assert np.any(load_weights(path, MODEL, key=jax.random.key(1))["head"]["fc6"]["kernel"] != kernel)


def test_training_starts_without_top(tmp_path, expected, caplog):
    path = write_groups(tmp_path / "a.h5", keras_layers(top=False))
    statistics = BoxStatistics(mean=np.zeros((4, 4), np.float32), std=np.full((4, 4), 0.2, np.float32))
    config = Config(model=ModelConfig("vgg16", weights=str(path)))
    with caplog.at_level(logging.INFO):
        params = initial_params(config, MODEL, statistics, jax.random.key(0))
    assert "only fc6, fc7, cls_score and bbox_pred are new and start at random" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected["backbone"])
    # A compressed head is drawn as well.
    compressed = MODEL.clone(head=MODEL.head.clone(ranks=(3, None)))
    assert load_weights(path, compressed)["head"]["fc6_L"]["kernel"].shape == (36, 3)


def test_converted(tmp_path, monkeypatch):
    """The converted file names the layers to draw."""

    def create(name, num_classes, pixels=CAFFE_PIXELS, **ranks):
        return small_vgg16(num_classes, pixels)

    monkeypatch.setattr("frcnn_jax.weights.convert.create_model", create)
    source = write_groups(tmp_path / "a.h5", keras_layers(top=False))
    done = convert_weights(source, "vgg16", tmp_path / "out")
    assert done.metadata.drawn == ("head/fc6/bias", "head/fc6/kernel", "head/fc7/bias", "head/fc7/kernel")
    loaded = (load_weights(path, MODEL, key=jax.random.key(3)) for path in (source, tmp_path / "out"))
    jax.tree.map(np.testing.assert_array_equal, *loaded)


def test_the_edge_detector_hed(tmp_path, expected):
    """Its side outputs are left; what else there is would be named."""
    outputs = {name: [np.ones((1, 1, 4, 1), np.float32), np.ones(1, np.float32)] for name in ("dsn1", "dsn5", "fuse")}
    for named in (True, False):
        path = write_variables(tmp_path / f"{named}.h5", outputs | keras_layers(top=False), nested=True, named=named)
        params = load_weights(path, MODEL)
        jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected["backbone"])
    path = write_variables(tmp_path / "more.h5", {"extra": outputs["fuse"]} | keras_layers(), nested=True)
    with pytest.raises(ValueError, match=r"more\.h5 does not fit the model: not in the model: extra/kernel float32 \["):
        load_weights(path, MODEL)


def test_half_precision_and_big_endian_numbers(tmp_path):
    layers = {name: [array.astype(">f8") for array in arrays] for name, arrays in keras_layers().items()}
    layers["block1_conv1"] = [array.astype(np.float16) for array in layers["block1_conv1"]]
    path = write_groups(tmp_path / "a.h5", layers)
    params = load_weights(path, MODEL)
    # As they are, for a converted file.
    assert all(array.dtype.isnative for array in read_vgg16(path, MODEL).arrays.values())
    np.testing.assert_array_equal(params["backbone"]["conv1_1"]["kernel"], layers["block1_conv1"][0].astype(np.float32))
    np.testing.assert_array_equal(params["head"]["fc7"]["kernel"], layers["fc2"][0].astype(np.float32))
    assert params["head"]["fc7"]["kernel"].dtype == np.float32


def without(*names):
    return {name: arrays for name, arrays in keras_layers().items() if name not in names}


CONV = [np.ones((3, 3, 4, 4), np.float32), np.ones(4, np.float32)]
FAULTS = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as weights: ."),
    "html": (lambda path: path.write_bytes(b"<html>" * 99), "cannot be read as weights: .*file signature not found"),
    "another network": (
        lambda path: write_groups(path, {"conv1_conv": CONV, "conv2_block1_1_conv": CONV}),
        "it is not Keras's VGG16: it has no block1_conv1, but conv1_conv, conv2_block1_1_conv$",
    ),
    "another network of Keras 3": (
        lambda path: write_variables(path, {f"conv{i}_conv": CONV for i in range(20)}, named=False),
        "it is not Keras's VGG16: it has no block1_conv1, but layers/conv2d, layers/conv2d_1, .* and 10 more$",
    ),
    "nothing": (lambda path: write_groups(path, {}), "it is not Keras's VGG16: it has no block1_conv1, but no layers$"),
    "VGG19": (
        lambda path: write_groups(path, keras_layers() | {f"block{i}_conv4": CONV for i in (3, 4, 5)}),
        "holds vgg19, the model is VGG16$",
    ),
    "a layer is missing": (
        lambda path: write_groups(path, without("block3_conv2")),
        r"missing: backbone/conv3_2/bias float32 \[6\], backbone/conv3_2/kernel float32 \[3, 3, 6, 6\]$",
    ),
    "half of the top": (lambda path: write_groups(path, without("fc2")), "missing: head/fc7/bias .*, head/fc7/kernel"),
    "other channels": (
        lambda path: write_groups(path, keras_layers() | {"block1_conv2": [*CONV[:1], np.ones(5, np.float32)]}),
        r"backbone/conv1_2/bias is float32 \[5\] where the model has float32 \[4\]$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_named_in_one_line(tmp_path, fault):
    write, message = FAULTS[fault]
    write(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(tmp_path / "a.h5", MODEL)
    assert "a.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated(tmp_path):
    path = write_groups(tmp_path / "a.h5", keras_layers())
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 3000, 8):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.h5 cannot be read as weights: .") as caught:
            load_weights(path, MODEL)
        assert "\n" not in str(caught.value)


def test_a_model_of_another_network(tmp_path):
    path = write_groups(tmp_path / "a.h5", keras_layers(top=False))
    message = (
        r"a\.h5 holds vgg16, the model is VGGCNNM1024: create the model by that name, in a config as --model\.name v"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(path, small_m())


def test_h5py_is_missing(tmp_path, monkeypatch):
    path, load = write_groups(tmp_path / "a.h5", keras_layers()), builtins.__import__

    def without_h5py(name, *arguments, **options):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ModuleNotFoundError, match=r"a\.h5 is read with h5py, which is missing: pip install h5py$"):
        load_weights(path, MODEL)
