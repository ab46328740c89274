"""The depthwise convolutions of EfficientNet-Lite0, for both sides; the peer makes the same arrays itself."""

import dataclasses

import numpy as np

from bench.sizes import Sizes

PARTS = ("forward", "input gradient", "kernel gradient")


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution with zero padding of half its kernel on all sides."""

    images: int
    height: int
    width: int
    channels: int
    size: int
    stride: int

    @property
    def name(self) -> str:
        return (
            f"{self.images} x {self.height} x {self.width} x {self.channels}, "
            f"{self.size} x {self.size}, stride {self.stride}"
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the map, the kernel and the output."""
        rows, columns = (-(-length // self.stride) for length in (self.height, self.width))
        return (
            (self.images, self.height, self.width, self.channels),
            (self.size, self.size, self.channels),
            (self.images, rows, columns, self.channels),
        )

    def arrays(self) -> list[np.ndarray]:
        """Map, kernel and the output's cotangent."""
        random = np.random.default_rng(0)
        return [random.standard_normal(shape, np.float32) for shape in self.shapes]


def cases(sizes: Sizes) -> tuple[Case, ...]:
    """Four photographs of 480 x 640, their 512 pooled RoIs, and 64 windows of 224 x 224; or two small ones."""
    if sizes.image != Sizes.image:
        return Case(2, 12, 16, 8, 3, 2), Case(4, 4, 4, 16, 5, 1)
    return (
        Case(4, 240, 320, 32, 3, 1),
        Case(4, 240, 320, 96, 3, 2),
        Case(4, 120, 160, 144, 3, 1),
        Case(4, 120, 160, 144, 5, 2),
        Case(4, 60, 80, 240, 5, 1),
        Case(4, 60, 80, 240, 3, 2),
        Case(4, 30, 40, 480, 3, 1),
        Case(4, 30, 40, 480, 5, 1),
        Case(4, 30, 40, 672, 5, 1),
        Case(512, 7, 7, 672, 5, 2),
        Case(512, 4, 4, 1152, 5, 1),
        Case(512, 4, 4, 1152, 3, 1),
        Case(64, 112, 112, 32, 3, 1),
    )


def compared(part: str, array: np.ndarray) -> np.ndarray:
    """The compared part of a result: some channels of the last map, or the whole kernel."""
    return array if part == "kernel gradient" else array[-1, ..., :8]
