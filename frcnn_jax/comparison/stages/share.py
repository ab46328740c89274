"""The images of a share of a data set, the same ones for all systems."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

__all__ = ["Chosen", "part_of", "spread"]


def part_of(count: int, share: float) -> int:
    """The number of items in a share of `count`, at least one unless `count` is 0."""
    return min(count, max(math.ceil(count * share), 1))


def spread(count: int, share: float) -> Int[np.ndarray, " n"]:
    """Positions of `part_of(count, share)` items, spread evenly over all of them to represent them."""
    return np.linspace(0, max(count - 1, 0), part_of(count, share)).astype(int)


class Chosen(Sequence):
    """Items of a sequence at some positions, read on access."""

    def __init__(self, items: Any, positions: Int[np.ndarray, " n"]):
        self._items, self._positions = items, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._items[int(position)] for position in self._positions[index]]
        return self._items[int(self._positions[index])]
