"""The trunk of `tiny` in PyTorch."""

import torch
from torch import nn
from torch.nn import functional

from bench.pytorch.detector import Arrays

PIXELS = ((127.5,) * 3, (64.0,) * 3, "rgb")
GROUP = 16  # channels in a normalisation group


class Trunk(nn.Module):
    """Blocks of 4 x 4 pixels as channels, a stem, and three stages of residual blocks."""

    def __init__(self, arrays: Arrays):
        super().__init__()
        self.stem, self.stem_norm = _convolution(arrays, "backbone/stem"), _norm(arrays, "backbone/stem_norm")
        self.order = sorted({path.split("/")[1] for path in arrays if path.startswith("backbone/stage")})
        for name in self.order:
            self.add_module(name, Block(arrays, name, 2 if name.endswith("_1") and name != "stage1_1" else 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        n, channels, height, width = x.shape
        # In this package's order: row, column, channel.
        x = x.view(n, channels, height // 4, 4, width // 4, 4).permute(0, 3, 5, 1, 2, 4)
        x = functional.relu(self.stem_norm(self.stem(x.reshape(n, 16 * channels, height // 4, width // 4))))
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class Block(nn.Module):
    """Two 3 x 3 convolutions with group normalisation, added to their input or to a 1 x 1 projection of it."""

    def __init__(self, arrays: Arrays, name: str, stride: int):
        super().__init__()
        path = f"backbone/{name}"
        self.conv1, self.norm1 = _convolution(arrays, f"{path}/conv1", stride), _norm(arrays, f"{path}/norm1")
        self.conv2, self.norm2 = _convolution(arrays, f"{path}/conv2"), _norm(arrays, f"{path}/norm2")
        self.projects = f"{path}/project/kernel" in arrays
        if self.projects:
            self.project, self.norm_project = (
                _convolution(arrays, f"{path}/project", stride), _norm(arrays, f"{path}/norm_project"),
            )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + (self.norm_project(self.project(x)) if self.projects else x))


def _convolution(arrays: Arrays, path: str, stride: int = 1) -> nn.Conv2d:
    size, _, channels, outputs = arrays[f"{path}/kernel"].shape
    return nn.Conv2d(channels, outputs, size, stride, size // 2, bias=False)


def _norm(arrays: Arrays, path: str) -> nn.GroupNorm:
    channels = len(arrays[f"{path}/scale"])
    return nn.GroupNorm(channels // GROUP, channels, eps=1e-5)
