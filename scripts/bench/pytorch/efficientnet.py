"""EfficientNet-Lite0 as a detector in PyTorch: the last stages on each RoI; batch normalisation folded, as in ours."""

from collections import OrderedDict

import torch
import torchvision
from torch import nn
from torch.nn import functional

from bench.pytorch.parameters import Network
from bench.sizes import STRIDE

# Kernel, stride, expansion, channels and number of the blocks of each stage.
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
          (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))  # fmt: skip
TRUNK = 5  # stages before RoI pooling
GRID = 7


class EfficientNetLite(Network):
    """Trunk, RoI pooling, the last stages on each RoI, their mean, class logits and box offsets."""

    frozen = ("trunk.stem.", "trunk.stage1_", "trunk.stage2_", "trunk.stage3_")

    def __init__(self, num_classes: int):
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict([("stem", Convolution(3, 32, 3, 2, before=0)), *_blocks(32, 1, STAGES[:TRUNK], odd=False)])
        )
        self.stages = nn.Sequential(
            OrderedDict([*_blocks(112, TRUNK + 1, STAGES[TRUNK:], odd=True), ("top", Convolution(320, 1280, 1))])
        )
        self.cls_score, self.bbox_pred = nn.Linear(1280, num_classes), nn.Linear(1280, 4 * num_classes)

    def forward(self, images: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit RGB [N, 3, H, W] and RoIs [R, 5] (image, inclusive corners) to logits [R, K1], offsets [R, K1, 4]."""
        weight = self.cls_score.weight
        features = self.trunk(((images.float() - 127) / 128).to(weight.dtype))
        # torchvision pools in single precision only, not in bfloat16.
        pooled = torchvision.ops.roi_pool(features.float(), rois, (GRID, GRID), 1 / STRIDE).to(features.dtype)
        x = functional.dropout(self.stages(pooled).mean((2, 3)), 0.5, self.training)
        return self.cls_score(x).float(), self.bbox_pred(x).float().view(len(x), -1, 4)

    def windows(self, windows: torch.Tensor) -> torch.Tensor:
        """8-bit RGB windows [B, 3, H, W] to the vector before ImageNet's classifier."""
        return self.stages(self.trunk((windows.float() - 127) / 128)).mean((2, 3))


class Convolution(nn.Conv2d):
    """With bias, and ReLU6 if `activated`. Zeros on both sides or, with `before`, that many and as many after as the
    last cell needs, on even sizes."""

    def __init__(
        self, channels: int, outputs: int, size: int, stride: int = 1, groups: int = 1, *, before: int | None = None,
        activated: bool = True,
    ):  # fmt: skip
        uneven = before is not None and stride == 2
        super().__init__(channels, outputs, size, stride, 0 if uneven else size // 2, groups=groups)
        self.sides = (before, size - 2 - before) * 2 if uneven else None
        self.activated = activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x if self.sides is None else functional.pad(x, self.sides))
        return functional.relu6(y, inplace=True) if self.activated else y


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, channels: int, outputs: int, size: int, stride: int, expansion: int, odd: bool):
        super().__init__()
        wide = expansion * channels
        self.expand = nn.Identity() if expansion == 1 else Convolution(channels, wide, 1)
        before = None if odd else (size - stride) // 2
        self.depthwise = Convolution(wide, wide, size, stride, groups=wide, before=before)
        self.project = Convolution(wide, outputs, 1, activated=False)
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def _blocks(channels: int, first: int, stages: tuple, *, odd: bool):
    """Names and blocks; `odd` maps have as many zeros on all sides."""
    for number, (size, stride, expansion, outputs, count) in enumerate(stages, start=first):
        for i in range(1, count + 1):
            yield f"stage{number}_{i}", Block(channels, outputs, size, stride if i == 1 else 1, expansion, odd)
            channels = outputs
