"""Check of shapes: arrays that do not fit would broadcast, or be indexed beyond their end, without an error."""

import re
from typing import Any

import numpy as np


def check_shapes(function: str, shapes: str, *arrays: Any) -> None:
    """Compares the shapes of a function's arrays with letters.

    Args:
        function: its name, for the message.
        shapes: names and shapes, as in "boxes [B, 4], scores [B]"; a letter is the same number in all of them, and
            "..." the same numbers.
        arrays: in the same order; None is skipped.

    Raises:
        ValueError: a shape does not fit those before it; names the array.
    """
    known: dict[str, Any] = {}
    for (name, text), array in zip(re.findall(r"(\w+) \[(.*?)\]", shapes), arrays, strict=True):
        if array is None:
            continue
        letters, shape = text.split(", "), _shape(array)
        sizes = list(shape)
        if letters[0] == "...":
            leading = len(shape) - len(letters) + 1
            sizes = [shape[: max(leading, 0)], *shape[max(leading, 0) :]]
        wanted = [int(letter) if letter.isdigit() else known.get(letter, letter) for letter in letters]
        fits = len(sizes) == len(wanted) and all(
            isinstance(expected, str) or expected == size for expected, size in zip(wanted, sizes, strict=True)
        )
        if not fits:
            numbers = ", ".join(", ".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in wanted if x != ())
            equal = f" = [{numbers}]" if numbers != text else ""
            raise ValueError(f"{function} takes {name} [{text}]{equal}, not {list(shape)}")
        known |= dict(zip(letters, sizes, strict=True))


def _shape(array: Any) -> tuple[int, ...]:
    """The shape of an array, or of nested sequences of numbers, which may be traced."""
    if isinstance(array, list | tuple):
        return (len(array), *(_shape(array[0]) if len(array) else ()))
    return np.shape(array)
