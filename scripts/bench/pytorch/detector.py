"""The detector in PyTorch, with the same computation: trunk, RoI pooling and head, built from this package's
parameters.

Channels, kernels and widths follow from the arrays; the trunks only define strides, padding and activations.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

Arrays = Mapping[str, np.ndarray]  # this package's parameters by path, such as `backbone/conv1_1/kernel`
_KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class Detector(nn.Module):
    """Modules have this package's names, so that parameters have its paths.

    Args:
        grid: side of the grid of an RoI.
        stride: pixels from one feature cell to the next.
        pixels: mean and deviation of the network's channels, 0 ... 255, and their order, "rgb" or "bgr".
        frozen: prefixes of the paths of parameters that `freeze` freezes.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, grid: int, stride: int,
        pixels: tuple[tuple[float, ...], tuple[float, ...], str], frozen: tuple[str, ...] = (),
    ):  # fmt: skip
        super().__init__()
        self.backbone, self.head, self.grid, self.stride, self.frozen = backbone, head, grid, stride, frozen
        mean, std, self.order = pixels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.scaled = any(value != 1 for value in std)

    def forward(self, images: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit RGB [N, 3, H, W] and RoIs [R, 5] (image, inclusive corners) to logits [R, K1], offsets [R, K1, 4]."""
        return self.head(self.pool(self.features(images), rois))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The trunk's maps [N, C, h, w] of 8-bit images without padding."""
        x = (images.flip(1) if self.order == "bgr" else images).float() - self.mean.float()
        x = x / self.std.float() if self.scaled else x
        return self.backbone(x.to(next(self.parameters()).dtype))

    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """The grids [R, C, side, side] of RoIs [R, 5] (image, inclusive corners in pixels)."""
        # torchvision pools only in single precision, not in bfloat16; there its bins are Caffe's.
        return torchvision.ops.roi_pool(features.float(), rois, self.grid, 1 / self.stride).to(features.dtype)

    def freeze(self) -> "Detector":
        """Freezes the first layers."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not our_path(name, parameter).startswith(self.frozen))
        return self

    def load(self, arrays: Arrays) -> "Detector":
        """Loads this package's parameters; raises KeyError if they do not fit the network."""
        parameters = dict(self.named_parameters())
        names = {path: _torch_name(path) for path in arrays}
        if set(names.values()) != set(parameters):
            raise KeyError(f"not in both networks: {sorted(set(names.values()) ^ set(parameters))}")
        with torch.no_grad():
            for path, array in arrays.items():
                parameters[names[path]].copy_(torch.from_numpy(self.arrange(path, array)))
        return self

    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients of the learned parameters, with this package's paths and layout."""
        found = {}
        for name, parameter in self.named_parameters():
            if parameter.grad is not None:
                path = our_path(name, parameter)
                found[path] = self.arrange(path, parameter.grad.numpy(), back=True)
        return found

    def arrange(self, path: str, array: np.ndarray, back: bool = False) -> np.ndarray:
        """An array of this package in PyTorch's layout, or with `back` the reverse: kernels [height, width, in, out]
        are [out, in, height, width] there.
        """
        if array.ndim == 1:
            return array
        if path.endswith("depthwise/kernel"):
            return array[:, 0].transpose(1, 2, 0) if back else array.transpose(2, 0, 1)[:, None]
        if array.ndim == 4:
            return array.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
        if path != "head/fc6/kernel":
            return array.T
        # Its inputs have the order of the grid: row, column, channel, or channel, row, column.
        if back:
            grids = array.reshape(len(array), -1, self.grid, self.grid)
            return grids.transpose(2, 3, 1, 0).reshape(-1, len(array))
        grids = array.reshape(self.grid, self.grid, -1, array.shape[1])
        return grids.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)


class FullyConnectedHead(nn.Module):
    """fc6 and fc7 with ReLU and dropout, class logits and box offsets."""

    def __init__(self, arrays: Arrays):
        super().__init__()
        for name in ("fc6", "fc7", "cls_score", "bbox_pred"):
            setattr(self, name, linear(arrays, f"head/{name}"))

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = functional.dropout(functional.relu(self.fc6(pooled.flatten(1))), 0.5, self.training)
        x = functional.dropout(functional.relu(self.fc7(x)), 0.5, self.training)
        return self.cls_score(x).float(), self.bbox_pred(x).float().view(len(x), -1, 4)


class StagesHead(nn.Module):
    """The last stages of a network on each RoI, their mean with dropout, class logits and box offsets."""

    def __init__(self, arrays: Arrays, stages: nn.Module):
        super().__init__()
        self.stages = stages
        self.cls_score, self.bbox_pred = linear(arrays, "head/cls_score"), linear(arrays, "head/bbox_pred")

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = functional.dropout(self.stages(pooled).mean((2, 3)), 0.5, self.training)
        return self.cls_score(x).float(), self.bbox_pred(x).float().view(len(x), -1, 4)


def linear(arrays: Arrays, path: str) -> nn.Linear:
    """A fully connected layer with the size of the kernel at `path`."""
    return nn.Linear(*arrays[f"{path}/kernel"].shape)


def our_path(name: str, parameter: torch.Tensor) -> str:
    """Path of the parameter of that name."""
    *layer, kind = name.split(".")
    if kind == "weight":
        kind = "scale" if parameter.ndim == 1 else "kernel"
    return "/".join([*layer, kind])


def _torch_name(path: str) -> str:
    *layer, kind = path.split("/")
    return ".".join([*layer, _KINDS[kind]])
