"""EfficientNet-Lite in PyTorch, in two parts, with folded batch normalisation."""

import re
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from bench.pytorch.detector import Arrays

PIXELS = ((127.0,) * 3, (128.0,) * 3, "rgb")
FROZEN = ("backbone/stem/", "backbone/stage1_", "backbone/stage2_", "backbone/stage3_")
HALVING = ("stem", "stage2_1", "stage3_1", "stage4_1", "stage6_1")  # the layers of stride 2


class Trunk(nn.Module):
    """Stem and first stages, to stride 16, and the first layer of the next stage if the trunk has it."""

    def __init__(self, arrays: Arrays):
        super().__init__()
        self.stem = _convolution(arrays, "backbone", "stem")
        self.order = []
        for name, block in _blocks(arrays, "backbone", same=False):
            self.add_module(name, block)
            self.order.append(name)
        if "backbone/stage6_1/expand/kernel" in arrays:
            self.stage6_1 = nn.ModuleDict({"expand": _convolution(arrays, "backbone/stage6_1", "expand")})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for name in self.order:
            x = getattr(self, name)(x)
        return self.stage6_1["expand"](x) if hasattr(self, "stage6_1") else x


def last_stages(arrays: Arrays) -> nn.Module:
    """The last stages, on each RoI, and the 1 x 1 convolution after them."""
    place = "head/stages"
    return nn.Sequential(OrderedDict([*_blocks(arrays, place, same=True), ("top", _convolution(arrays, place, "top"))]))


class Convolution(nn.Conv2d):
    """Convolution with bias, and ReLU6 if `activated`.

    At stride 2 the zeros before the first cell are those of TensorFlow on even sizes or, with `same`, on any size;
    after the last cell, as many as needed to halve the size, rounded up.
    """

    def __init__(
        self, channels: int, outputs: int, size: int, stride: int, groups: int = 1, *, same: bool, activated: bool
    ):
        super().__init__(channels, outputs, size, stride, size // 2, groups=groups)
        self.same, self.activated = same, activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x) if self.stride == (1, 1) else self._halve(x)
        return functional.relu6(y, inplace=True) if self.activated else y

    def _halve(self, x: torch.Tensor) -> torch.Tensor:
        size = self.kernel_size[0]
        top, left = ((size - 2) // 2 + (side % 2 if self.same else 0) for side in x.shape[2:])
        if (top, left) == self.padding:
            return super().forward(x)
        x = functional.pad(x, (left, size - 1 - left, top, size - 1 - top))
        return functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, arrays: Arrays, place: str, name: str, same: bool):
        super().__init__()
        path, stride = f"{place}/{name}", 2 if name in HALVING else 1
        expands = f"{path}/expand/kernel" in arrays
        self.expand = _convolution(arrays, path, "expand") if expands else nn.Identity()
        size, _, wide = arrays[f"{path}/depthwise/kernel"].shape
        self.depthwise = Convolution(wide, wide, size, stride, wide, same=same, activated=True)
        self.project = _convolution(arrays, path, "project", activated=False)
        channels = arrays[f"{path}/expand/kernel"].shape[2] if expands else wide
        self.residual = stride == 1 and channels == self.project.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def _convolution(arrays: Arrays, place: str, name: str, activated: bool = True) -> Convolution:
    size, _, channels, outputs = arrays[f"{place}/{name}/kernel"].shape
    return Convolution(channels, outputs, size, 2 if name in HALVING else 1, same=False, activated=activated)


def _blocks(arrays: Arrays, place: str, *, same: bool) -> Iterator[tuple[str, Block]]:
    """Names and blocks of the stages at `place`, in order."""
    stages = re.compile(rf"{place}/stage(\d+)_(\d+)/project/")
    found = {tuple(map(int, match.groups())) for match in map(stages.match, arrays) if match}
    for stage, i in sorted(found):
        yield f"stage{stage}_{i}", Block(arrays, place, f"stage{stage}_{i}", same)
