"""The trunks of models S, M and L of the paper in PyTorch."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from bench.pytorch.detector import Arrays

PIXELS = ((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")


def vgg16(arrays: Arrays) -> nn.Module:
    """Model L without its last pooling."""
    return _sequence(_vgg16(arrays))


def caffenet(arrays: Arrays) -> nn.Module:
    """Model S without its last pooling."""
    return _sequence(_caffenet(arrays))


def vgg_cnn_m_1024(arrays: Arrays) -> nn.Module:
    """Model M without its last pooling."""
    return _sequence(_vgg_cnn_m_1024(arrays))


def _sequence(layers: Iterator[tuple[str, nn.Module]]) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))


def _vgg16(arrays):
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        if stage > 1:
            yield f"pool{stage - 1}", nn.MaxPool2d(2, ceil_mode=True)
        for i in range(1, count + 1):
            yield from _conv(arrays, f"conv{stage}_{i}", padding=1)


def _caffenet(arrays):
    yield from _conv(arrays, "conv1", stride=4, padding=5)
    yield "pool1", nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    yield "norm1", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    yield from _conv(arrays, "conv2", padding=2, groups=2)
    yield "pool2", nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    yield "norm2", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    yield from _conv(arrays, "conv3", padding=1)
    yield from _conv(arrays, "conv4", padding=1, groups=2)
    yield from _conv(arrays, "conv5", padding=1, groups=2)


def _vgg_cnn_m_1024(arrays):
    yield from _conv(arrays, "conv1", stride=2)
    yield "norm1", nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    yield "pool1", nn.MaxPool2d(3, 2, ceil_mode=True)
    yield from _conv(arrays, "conv2", stride=2, padding=1)
    yield "norm2", nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    yield "pool2", nn.MaxPool2d(3, 2, ceil_mode=True)
    yield from _conv(arrays, "conv3", padding=1)
    yield from _conv(arrays, "conv4", padding=1)
    yield from _conv(arrays, "conv5", padding=1)


def _conv(arrays: Arrays, name: str, groups: int = 1, **options: Any) -> Iterator[tuple[str, nn.Module]]:
    size, _, inputs, outputs = arrays[f"backbone/{name}/kernel"].shape
    yield name, nn.Conv2d(groups * inputs, outputs, size, groups=groups, **options)
    yield f"{name}_relu", nn.ReLU(inplace=True)
