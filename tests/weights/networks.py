"""Small networks with the published names, and random weights for them as Caffe and PyTorch store them."""

import numpy as np

from frcnn_jax.models.caffe_trunks import VGG16, VGGCNNM1024
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.pixels import CAFFE_PIXELS, PixelNormalization

Layers = dict[str, list[np.ndarray]]


def small_m(num_classes: int = 4, ranks: tuple[int | None, int | None] = (None, None)) -> FastRCNN:
    """VGG_CNN_M_1024 with few channels; fc6 and fc7 of these ranks if they are compressed."""
    head = FastRCNNHead(num_classes, (10, 8), ranks=ranks)
    return FastRCNN(VGGCNNM1024((4, 5, 6, 7, 6)), head, CAFFE_PIXELS, (2, 3))


def small_vgg16(num_classes: int = 4, pixels: PixelNormalization = CAFFE_PIXELS) -> FastRCNN:
    """VGG16 with few channels."""
    return FastRCNN(VGG16((4, 5, 6, 7, 6)), FastRCNNHead(num_classes, (10, 8)), pixels, (2, 3))


def draw(random: np.random.Generator, *shape: int) -> list[np.ndarray]:
    return [np.float32(random.standard_normal(shape)), np.float32(random.standard_normal(shape[0]))]


def m_layers(heads: int | None = 4) -> Layers:
    """All layers of `small_m`: a detector's of so many classes, or ImageNet's."""
    random = np.random.default_rng(1)
    sizes = {"conv1": (4, 3, 7, 7), "conv2": (5, 4, 5, 5), "conv3": (6, 5, 3, 3), "conv4": (7, 6, 3, 3)}
    sizes |= {"conv5": (6, 7, 3, 3), "fc6": (10, 36), "fc7": (8, 10)}
    return {name: draw(random, *size) for name, size in sizes.items()} | last_layers(random, heads)


def compressed_m_layers(fc6: int | None = 5, fc7: int | None = 3) -> Layers:
    """A detector's layers of `small_m` with the published names of compressed ones; None leaves a layer whole."""
    random, layers = np.random.default_rng(3), m_layers()
    for name, rank in (("fc6", fc6), ("fc7", fc7)):
        if rank is not None:
            outputs, inputs = layers.pop(name)[0].shape
            layers[f"{name}_L"] = [np.float32(random.standard_normal((rank, inputs)))]
            layers[f"{name}_U"] = draw(random, outputs, rank)
    return layers


def vgg16_layers(heads: int | None = 4) -> Layers:
    """All layers of `small_vgg16`: a detector's of so many classes, or ImageNet's."""
    random, layers, before = np.random.default_rng(2), {}, 3
    for stage, (count, channels) in enumerate([(2, 4), (2, 5), (3, 6), (3, 7), (3, 6)], start=1):
        for i in range(1, count + 1):
            layers[f"conv{stage}_{i}"] = draw(random, channels, before, 3, 3)
            before = channels
    layers |= {"fc6": draw(random, 10, 36), "fc7": draw(random, 8, 10)}
    return layers | last_layers(random, heads)


def last_layers(random: np.random.Generator, heads: int | None) -> Layers:
    if heads is None:
        return {"fc8": draw(random, 11, 8)}
    return {"cls_score": draw(random, heads, 8), "bbox_pred": draw(random, 4 * heads, 8)}
