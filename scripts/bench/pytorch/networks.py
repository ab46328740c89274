"""Models S, M and L of the paper in PyTorch, the same computation as ours, and our parameters put into them."""

from collections import OrderedDict

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

from bench.pytorch.parameters import Network
from bench.sizes import STRIDE

MEAN = (102.9801, 115.9465, 122.7717)  # blue, green, red

# Widths of fc6 and fc7, side of the RoI grid, and the layers that do not learn.
HEADS = {"caffenet": (4096, 4096, 6), "vgg_cnn_m_1024": (4096, 1024, 6), "vgg16": (4096, 4096, 7)}
FROZEN = {
    "caffenet": ("trunk.conv1.",),
    "vgg_cnn_m_1024": ("trunk.conv1.",),
    "vgg16": ("trunk.conv1_", "trunk.conv2_"),
}


class FastRCNN(Network):
    """Trunk without its last pooling, RoI pooling, fc6 and fc7 with dropout, class logits and box offsets."""

    def __init__(self, name: str, num_classes: int, widths: tuple[int, int] | None):
        super().__init__()
        self.frozen = FROZEN[name]
        self.trunk = nn.Sequential(OrderedDict({"vgg16": _vgg16, "caffenet": _s, "vgg_cnn_m_1024": _m}[name]()))
        fc6, fc7, self.grid = HEADS[name]
        fc6, fc7 = (fc6, fc7) if widths is None else widths
        channels = next(layer.out_channels for layer in reversed(self.trunk) if isinstance(layer, nn.Conv2d))
        self.fc6, self.fc7 = nn.Linear(self.grid**2 * channels, fc6), nn.Linear(fc6, fc7)
        self.cls_score, self.bbox_pred = nn.Linear(fc7, num_classes), nn.Linear(fc7, 4 * num_classes)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit RGB [N, 3, H, W] and RoIs [R, 5] (image, inclusive corners) to logits [R, K1], offsets [R, K1, 4]."""
        pixels = images.flip(1).float() - self.mean.float()
        features = self.trunk(pixels.to(self.fc6.weight.dtype))
        # torchvision pools in single precision only, not in bfloat16.
        pooled = torchvision.ops.roi_pool(features.float(), rois, (self.grid, self.grid), 1 / STRIDE).to(features.dtype)
        x = functional.dropout(functional.relu(self.fc6(pooled.flatten(1))), 0.5, self.training)
        x = functional.dropout(functional.relu(self.fc7(x)), 0.5, self.training)
        return self.cls_score(x).float(), self.bbox_pred(x).float().view(len(x), -1, 4)

    def arrange(self, path: str, array: np.ndarray, back: bool = False) -> np.ndarray:
        """As any network's; fc6's inputs are ordered as its input is."""
        if path == "head/fc6/kernel":
            if back:
                grid = array.reshape(len(array), -1, self.grid, self.grid)
                return grid.transpose(2, 3, 1, 0).reshape(-1, len(array))
            grid = array.reshape(self.grid, self.grid, -1, array.shape[1])
            return grid.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
        return super().arrange(path, array, back)


def _vgg16():
    channels = 3
    for stage, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        if stage > 1:
            yield f"pool{stage - 1}", nn.MaxPool2d(2, ceil_mode=True)
        for i in range(1, count + 1):
            yield from _conv(f"conv{stage}_{i}", channels, width, 3, padding=1)
            channels = width


def _s():
    yield from _conv("conv1", 3, 96, 11, stride=4, padding=5)
    yield "pool1", nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    yield "norm1", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    yield from _conv("conv2", 96, 256, 5, padding=2, groups=2)
    yield "pool2", nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    yield "norm2", nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    yield from _conv("conv3", 256, 384, 3, padding=1)
    yield from _conv("conv4", 384, 384, 3, padding=1, groups=2)
    yield from _conv("conv5", 384, 256, 3, padding=1, groups=2)


def _m():
    yield from _conv("conv1", 3, 96, 7, stride=2)
    yield "norm1", nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    yield "pool1", nn.MaxPool2d(3, 2, ceil_mode=True)
    yield from _conv("conv2", 96, 256, 5, stride=2, padding=1)
    yield "norm2", nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    yield "pool2", nn.MaxPool2d(3, 2, ceil_mode=True)
    yield from _conv("conv3", 256, 512, 3, padding=1)
    yield from _conv("conv4", 512, 512, 3, padding=1)
    yield from _conv("conv5", 512, 512, 3, padding=1)


def _conv(name: str, *arguments: int, **options: int):
    yield name, nn.Conv2d(*arguments, **options)
    yield f"{name}_relu", nn.ReLU(inplace=True)
