"""Sizes of all measurements: the paper's, or small ones for a smoke run."""

import dataclasses
from typing import Any

from bench.timing import Effort

# Side of a feature cell in pixels in the paper's networks, and of VGG16's RoI grid in cells.
STRIDE = 16
GRID = (7, 7)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Defaults are the paper's on VOC."""

    image: tuple[int, int] = (600, 1000)  # height, width of the network's input
    images: int = 2  # in a training step
    rois_per_image: int = 64  # in a training step
    proposals: int = 2000  # per image, at test time and to sample from
    batched_images: int = 8  # at test time, if images are batched
    num_classes: int = 21
    widths: tuple[int, int] | None = None  # of fc6 and fc7; the model's own if None
    compared_image: tuple[int, int] = (128, 192)  # gradients are compared with the peer's at this size and these widths
    compared_widths: tuple[int, int] = (64, 32)
    feature_map: tuple[int, int, int] = (38, 63, 512)
    pooled_rois: tuple[int, int] = (128, 2000)
    growing_rois: tuple[int, ...] = (16, 128, 512, 2000, 8000)
    growing_sides: tuple[int, ...] = (300, 600, 1200, 2000)
    growing_images: tuple[int, ...] = (1, 2, 4, 8)
    growing_classes: tuple[int, ...] = (1, 20, 100, 1000)
    curve_steps: int = 60  # steps of training in two types, to compare losses
    evaluated: int = 8  # images of the evaluate topic
    files: int = 32  # JPEG files of the input topic
    searched: int = 3  # images per core of the proposals topic
    file_size: tuple[int, int] = (375, 500)  # height, width of a JPEG file
    shorter: int = 600  # the input topic resizes to this shorter and longest side
    longest: int = 1000
    matmul: int = 2048  # side of the matrices for measuring the device's rate
    copied_bytes: int = 1 << 28
    effort: Effort = dataclasses.field(default_factory=Effort)


QUICK = Sizes(
    image=(64, 96),
    images=2,
    rois_per_image=4,
    proposals=32,
    batched_images=2,
    num_classes=4,
    widths=(32, 16),
    compared_image=(64, 96),
    compared_widths=(32, 16),
    feature_map=(10, 12, 16),
    pooled_rois=(8, 24),
    growing_rois=(4, 16),
    growing_sides=(48, 96),
    growing_images=(1, 2),
    growing_classes=(1, 20),
    curve_steps=4,
    evaluated=3,
    files=2,
    searched=1,
    file_size=(48, 64),
    shorter=60,
    longest=100,
    matmul=512,
    copied_bytes=1 << 24,
    effort=Effort(min_runs=2, min_seconds=0, sample_seconds=0),
)


# Sizes of photographs, for networks that are not the paper's.
_PHOTOGRAPHS = {"image": (480, 640), "images": 4, "rois_per_image": 128, "proposals": 1000}


def sizes_of(name: str, sizes: Sizes) -> Sizes:
    """`sizes`, with those of photographs instead of the paper's if the model is EfficientNet-Lite."""
    photographs = name.startswith("efficientnet_lite") and sizes.image == Sizes.image
    return dataclasses.replace(sizes, **_PHOTOGRAPHS) if photographs else sizes


def decode_sizes(value: dict[str, Any]) -> Sizes:
    """`Sizes` from the JSON of `dataclasses.asdict`."""
    fields = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return Sizes(**{**fields, "effort": Effort(**fields["effort"])})
