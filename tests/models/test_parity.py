"""S, M, L and L compressed by truncated SVD against OpenCV 4, which runs Caffe models: same weights, same numbers.

`make_fixtures.py` recorded them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024, CaffeNet
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import CAFFE_PIXELS

FIXTURES = Path(__file__).parent / "fixtures"
INPUTS = np.load(FIXTURES / "inputs.npz")
IMAGES = [INPUTS[f"image{i}"] for i in range(3)]
HIDDEN = ("fc6", "fc7")
# The model takes half-open boxes.
ROIS = [INPUTS[f"rois{i}"] + np.float32([0, 0, 1, 1]) for i in range(3)]
BACKBONES = {
    "caffenet": CaffeNet((8, 10, 8, 8, 6)),
    "vgg_cnn_m_1024": VGGCNNM1024((8, 8, 8, 8, 6)),
    "vgg16": VGG16((4, 5, 6, 7, 6)),
    "vgg16_svd": VGG16((4, 5, 6, 7, 6)),
}


@pytest.fixture(params=list(BACKBONES))
def case(request):
    """A detector of few channels, its parameters, and what OpenCV makes of them."""
    stored = np.load(FIXTURES / f"{request.param}.npz")
    grid = create_model(request.param.removesuffix("_svd"), 4).output_size
    layers = sorted({key.split("/")[0] for key in stored if key.endswith("/weight")})
    params = {"backbone": {}, "head": {}}
    for layer in layers:
        weight = stored[f"{layer}/weight"]
        if layer in ("fc6", "fc6_L"):  # inputs from channel, row, column to row, column, channel
            weight = weight.reshape(len(weight), -1, *grid).transpose(0, 2, 3, 1).reshape(weight.shape)
        part = "backbone" if weight.ndim == 4 else "head"
        params[part][layer] = {"kernel": weight.T if part == "head" else weight.transpose(2, 3, 1, 0)}
        if f"{layer}/bias" in stored:
            params[part][layer]["bias"] = stored[f"{layer}/bias"]
    model = FastRCNN(BACKBONES[request.param], head_of(stored), CAFFE_PIXELS, grid)
    return model, params, stored


def head_of(stored):
    """The head for fc6 and fc7 as they are stored, whole or compressed."""
    ranks = tuple(len(stored[f"{layer}_L/weight"]) if f"{layer}_L/weight" in stored else None for layer in HIDDEN)
    widths = tuple(
        len(stored[f"{layer if rank is None else layer + '_U'}/bias"])
        for layer, rank in zip(HIDDEN, ranks, strict=True)
    )
    return FastRCNNHead(4, widths, ranks=ranks)


def channels_last(array):
    return array.transpose(0, 2, 3, 1)


def assert_close(actual, expected):
    """Equal up to 1e-4 of each number, or of a hundredth of the largest where sums cancel."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_one_image_equals_opencv(case):
    model, params, stored = case
    image = 1

    @jax.jit
    def everything(params, images, rois):
        features, _ = model.apply({"params": params}, images, method="features")
        pooled = model.apply({"params": params}, features, rois, method="pool")
        return features, pooled, model.apply({"params": params}, images, rois)

    features, pooled, (logits, deltas) = everything(params, IMAGES[image][None], ROIS[image][None])
    assert_close(features, channels_last(stored[f"conv5/{image}"]))
    assert_close(pooled[0], channels_last(stored[f"roi_pool5/{image}"]))
    assert_close(logits[0], stored[f"cls_score/{image}"])
    assert_close(deltas[0], stored[f"bbox_pred/{image}"].reshape(-1, 4, 4))


def test_padded_batch_equals_opencv(case):
    """Three images of different sizes in one batch, with noise where the padding is."""
    model, params, stored = case
    images = np.random.default_rng(0).integers(0, 256, (3, 131, 149, 3), np.uint8)
    for i, image in enumerate(IMAGES):
        images[i, : image.shape[0], : image.shape[1]] = image
    sizes = jnp.array([image.shape[:2] for image in IMAGES])
    rois = np.stack(ROIS)

    @jax.jit
    def everything(params, images, sizes, rois):
        features = model.apply({"params": params}, images, sizes, method="features")
        return features, model.apply({"params": params}, images, rois, image_sizes=sizes)

    (features, feature_sizes), (logits, deltas) = everything(params, images, sizes, rois)
    for i in range(3):
        expected = channels_last(stored[f"conv5/{i}"])[0]
        height, width = feature_sizes[i].tolist()
        assert (height, width) == expected.shape[:2]
        assert_close(features[i, :height, :width], expected)
        assert not np.any(features[i, height:])
        assert not np.any(features[i, :, width:])
        assert_close(logits[i], stored[f"cls_score/{i}"])
        assert_close(deltas[i], stored[f"bbox_pred/{i}"].reshape(-1, 4, 4))


@pytest.mark.parametrize(
    ("name", "convolutions", "grid", "fc6", "fc7"),
    [
        (
            "caffenet",
            {
                "conv1": (11, 11, 3, 96),
                "conv2": (5, 5, 48, 256),
                "conv3": (3, 3, 256, 384),
                "conv4": (3, 3, 192, 384),
                "conv5": (3, 3, 192, 256),
            },
            (6, 6),
            (9216, 4096),
            (4096, 4096),
        ),
        (
            "vgg_cnn_m_1024",
            {
                "conv1": (7, 7, 3, 96),
                "conv2": (5, 5, 96, 256),
                "conv3": (3, 3, 256, 512),
                "conv4": (3, 3, 512, 512),
                "conv5": (3, 3, 512, 512),
            },
            (6, 6),
            (18432, 4096),
            (4096, 1024),
        ),
        (
            "vgg16",
            {
                f"conv{stage}_{i}": (3, 3, before if i == 1 else channels, channels)
                for stage, (count, before, channels) in enumerate(
                    [(2, 3, 64), (2, 64, 128), (3, 128, 256), (3, 256, 512), (3, 512, 512)], start=1
                )
                for i in range(1, count + 1)
            },
            (7, 7),
            (25088, 4096),
            (4096, 4096),
        ),
    ],
)
def test_published_shapes(name, convolutions, grid, fc6, fc7):
    model = create_model(name, 21)
    images, rois = jnp.zeros((1, 64, 80, 3)), jnp.zeros((1, 1, 4))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, rois))["params"]
    kernels = {layer: values["kernel"].shape for layer, values in params["backbone"].items()}
    assert kernels == convolutions
    assert all(values["bias"].shape == values["kernel"].shape[-1:] for values in params["backbone"].values())
    head = {layer: values["kernel"].shape for layer, values in params["head"].items()}
    assert all(values["bias"].shape == values["kernel"].shape[-1:] for values in params["head"].values())
    assert head == {"fc6": fc6, "fc7": fc7, "cls_score": (fc7[1], 21), "bbox_pred": (fc7[1], 84)}
    assert (model.output_size, model.spatial_scale, model.pixels) == (grid, 1 / 16, CAFFE_PIXELS)
