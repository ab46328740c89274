"""`.caffemodel` files: every form of them gives the same numbers, and every fault one line that names it."""

import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024, CaffeNet
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.weights.formats.caffe import read_caffemodel
from frcnn_jax.weights.load import load_weights, read_metadata, read_pixels
from tests.models.test_parity import head_of
from tests.weights import caffe_files
from tests.weights.caffe_files import chunk, encode_blob, encode_layer, encode_model
from tests.weights.networks import compressed_m_layers, draw, m_layers, small_m, small_vgg16, vgg16_layers

FIXTURES = Path(__file__).parents[2] / "models" / "fixtures"
TRUNKS = {
    "caffenet": CaffeNet((8, 10, 8, 8, 6)),
    "vgg_cnn_m_1024": VGGCNNM1024((8, 8, 8, 8, 6)),
    "vgg16": VGG16((4, 5, 6, 7, 6)),
    "vgg16_svd": VGG16((4, 5, 6, 7, 6)),
}
HEADS = ("cls_score", "bbox_pred")


def write(folder: Path, content: bytes, name: str = "net.caffemodel") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def load(folder: Path, content: bytes, model: FastRCNN | None = None, **options):
    return load_weights(write(folder, content), small_m() if model is None else model, **options)


@pytest.mark.parametrize("old", [False, True], ids=["layer", "layers"])
@pytest.mark.parametrize("shaped", [False, True], ids=["4d", "shape"])
@pytest.mark.parametrize("values", caffe_files.VALUES)
def test_every_form_gives_the_same_numbers(tmp_path, old, shaped, values):
    layers = m_layers()
    read = read_caffemodel(write(tmp_path, encode_model(layers, old, shaped, values)))
    assert list(read) == list(layers)
    for name, blobs in layers.items():
        for part, blob in zip(("weight", "bias"), blobs, strict=True):
            expected = blob if shaped else blob.reshape((1,) * (4 - blob.ndim) + blob.shape)
            assert read[name][part].shape == expected.shape
            np.testing.assert_array_equal(read[name][part].read(), expected)


@pytest.mark.parametrize("name", list(TRUNKS))
def test_published_networks_end_to_end(name):
    """A finished detector in each of the forms, run: the outputs that OpenCV 4 computed from the same file."""
    recorded, inputs = np.load(FIXTURES / f"{name}.npz"), np.load(FIXTURES / "inputs.npz")
    grid = create_model(name.removesuffix("_svd"), 4).output_size
    model = FastRCNN(TRUNKS[name], head_of(recorded), CAFFE_PIXELS, grid)
    params = load_weights(FIXTURES / f"{name}.caffemodel", model)
    # Recorded corners are inclusive.
    rois = jnp.asarray(inputs["rois0"] + np.float32([0, 0, 1, 1]))[None]
    logits, deltas = jax.jit(model.apply)({"params": params}, jnp.asarray(inputs["image0"])[None], rois)
    for ours, top in ((logits, "cls_score"), (deltas, "bbox_pred")):
        expected = recorded[f"{top}/0"]
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=1e-4, atol=tolerance)


def test_imagenet_network_gets_new_heads(tmp_path, caplog):
    content = encode_model(m_layers(heads=None), old=True, shaped=False)
    with caplog.at_level(logging.INFO):
        params = load(tmp_path, content)
    assert "net.caffemodel: loaded; only cls_score and bbox_pred are new and start at random" in caplog.text
    finished = load(tmp_path, encode_model(m_layers()))
    assert {name: array.shape for name, array in flatten_dict(params, sep="/").items()} == {
        name: array.shape for name, array in flatten_dict(finished, sep="/").items()
    }
    for name in ("fc6", "fc7"):
        jax.tree.map(np.testing.assert_array_equal, params["head"][name], finished["head"][name])
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], finished["backbone"])
    assert 0.003 < np.std(params["head"]["cls_score"]["kernel"]) < 0.03
    assert 0.0003 < np.std(params["head"]["bbox_pred"]["kernel"]) < 0.003
    for name in HEADS:
        np.testing.assert_array_equal(params["head"][name]["bias"], 0)
    other = load(tmp_path, content, key=jax.random.key(1))
    assert (other["head"]["cls_score"]["kernel"] != params["head"]["cls_score"]["kernel"]).all()


def test_a_detector_with_one_head_is_no_imagenet_network(tmp_path):
    layers = m_layers()
    del layers["bbox_pred"]
    with pytest.raises(ValueError, match=r"does not fit the model: missing: head/bbox_pred/bias .*, head/bbox_pred/k"):
        load(tmp_path, encode_model(layers))


def test_pixels(tmp_path):
    path = write(tmp_path, encode_model(m_layers()))
    assert read_pixels(path) == CAFFE_PIXELS
    with pytest.raises(ValueError, match="is for other pixels than the model"):
        load_weights(path, small_m().clone(pixels=TORCHVISION_PIXELS))
    with pytest.raises(FileNotFoundError, match="there is no "):
        read_pixels(tmp_path / "other.caffemodel")
    with pytest.raises(ValueError, match="weights are read from"):
        read_metadata(path)


def test_what_is_loaded_needs_the_file_no_more(tmp_path):
    """Nothing is a view of the file: writing to it later must not change a network."""
    content = encode_model(m_layers())
    params = load(tmp_path, content)
    before = jax.tree.map(np.array, params)
    with open(tmp_path / "net.caffemodel", "r+b") as file:
        file.write(bytes(len(content)))
        file.flush()
        os.fsync(file.fileno())
    jax.tree.map(np.testing.assert_array_equal, params, before)


def changed(name, blobs, old=False):
    layers = m_layers() | {name: blobs}
    return encode_model({name: blobs for name, blobs in layers.items() if blobs}, old)


RANDOM = np.random.default_rng(0)
WHOLE = encode_model(m_layers())
BAD_COUNT = encode_layer("conv1", [encode_blob(np.zeros(5, np.float32), True, "packed", (2, 3))], False)
FAULTS = {
    "empty": (b"", "it is empty"),
    "html": (b"<!DOCTYPE html><html><body>Not found</body></html>" * 50, "it is not a Caffe model"),
    "zip": (b"PK\x03\x04\x14\0\0\0\0\0" + bytes(200), "it is not a Caffe model"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + RANDOM.bytes(2000), "it is not a Caffe model"),
    "large file pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is not a Caffe model"),
    "text": (b"name: 'net' layer { name: 'conv1' }\n" * 9, "it is not a Caffe model"),
    "zeros": (bytes(5000), "it is not a Caffe model, or damaged: byte 0 begins no field"),
    "cut off in the last layer": (WHOLE[:-5], "cut off or damaged after layer cls_score"),
    "cut off in fc6": (WHOLE[: WHOLE.index(b"fc6") + 300], "cut off or damaged after layer conv5"),
    "cut off between layers": (encode_model({"conv1": m_layers()["conv1"]}), "missing: backbone/conv2/bias"),
    "no weights": (encode_model({}), "has no weights in any layer"),
    "no name": (chunk(1, b"net"), "has no weights in any layer"),
    "count": (BAD_COUNT, r"weight of layer conv1: 5 values for the shape \[2, 3\]"),
    "twice": (WHOLE + encode_model({"fc7": m_layers()["fc7"]}), "layer fc7 occurs twice"),
    "missing layer": (changed("conv3", None), r"missing: backbone/conv3/bias .*, backbone/conv3/kernel float32 \[3, 3"),
    "missing layer, old": (changed("fc7", None, old=True), "missing: head/fc7/bias .*, head/fc7/kernel"),
    "unknown layer": (changed("rpn_conv/3x3", draw(RANDOM, 3, 2, 3, 3)), "not in the model: rpn_conv/3x3/weight"),
    "batch normalisation": (changed("bn1", [RANDOM.random(3)] * 3), "not in the model: bn1/weight .*bn1/blob2"),
    "other kernel": (
        changed("conv1", draw(RANDOM, 4, 3, 11, 11)),
        r"backbone/conv1/kernel is float32 \[11, 11, 3, 4\] where the model has float32 \[7, 7, 3, 4\]",
    ),
    "other grid": (
        changed("fc6", draw(RANDOM, 10, 96)),
        r"head/fc6/kernel is float32 \[96, 10\] where the model has float32 \[36, 10\]",
    ),
    "another network": (encode_model(vgg16_layers()), "missing: backbone/conv1/bias .* not in the model: conv1_1/"),
    "half-size boxes": (changed("bbox_pred", draw(RANDOM, 8, 8)), r"head/bbox_pred/bias is float32 \[8\]"),
    "classes": (encode_model(m_layers(heads=21)), "is for 21 classes, the model for 4, background included"),
    "compressed": (
        encode_model(compressed_m_layers()),
        "has fc6 of rank 5 and fc7 of rank 3, the model fc6 whole and fc7 whole: "
        "create the model with fc6_rank=5, fc7_rank=3, in a config as model.fc6_rank",
    ),
    "half of a compressed layer": (changed("fc6_L", draw(RANDOM, 5, 36)[:1]), "has fc6 of rank 5, the model fc6 whole"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_named_in_one_line(tmp_path, fault):
    content, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, content)
    assert "net.caffemodel" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((5, 4), "has fc7 of rank 3, the model fc7 of rank 4: create the model with fc7_rank=3"),
        ((None, 3), "has fc6 of rank 5, the model fc6 whole: create the model with fc6_rank=5"),
    ],
)
def test_compressed_model_of_other_ranks(tmp_path, ranks, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, encode_model(compressed_m_layers()), small_m(ranks=ranks))
    assert "\n" not in str(caught.value)


def test_whole_detector_for_a_compressed_model(tmp_path):
    with pytest.raises(ValueError, match=r"has fc6 whole, the model fc6 of rank 5: create .* with fc6_rank=None"):
        load(tmp_path, encode_model(m_layers()), small_m(ranks=(5, None)))


def test_compressed_layers_may_be_replaced(tmp_path):
    """Listed layers are not compared."""
    path = write(tmp_path, encode_model(compressed_m_layers()))
    lists = {"allow_missing": ["head/fc[67]/.*"], "allow_extra": ["head/fc[67]_[LU]/.*"]}
    params = load_weights(path, small_m(), **lists, key=jax.random.key(0))
    assert params["head"]["fc6"]["kernel"].shape == (36, 10)


def test_bias_of_a_first_factor_is_named(tmp_path):
    layers = compressed_m_layers()
    layers["fc7_L"].append(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"not in the model: head/fc7_L/bias float32 \[3\]"):
        load(tmp_path, encode_model(layers), small_m(ranks=(5, 3)))


def test_every_cut_is_noticed(tmp_path):
    """Wherever a file ends: never another error, never weights."""
    layers = {name: blobs for name, blobs in m_layers().items() if name in ("conv1", "conv2")}
    content = encode_model(layers)
    for length in range(0, len(content), 7):
        with pytest.raises(ValueError, match=r"net\.caffemodel (cannot be read|does not fit)"):
            load(tmp_path, content[:length])


def test_fc8_may_have_any_form(tmp_path):
    layers = vgg16_layers(heads=None) | {"fc8_voc": draw(RANDOM, 20, 8)}
    assert load(tmp_path, encode_model(layers), small_vgg16())["head"]["fc7"]["kernel"].shape == (10, 8)
