"""MATLAB's `.mat` files of levels 4 and 5 (-v4, -v6, -v7): numbers, texts and cells of these.

SciPy's reader crashes the process on some damaged files. Here every length is checked against the available bytes.

Level 5: 128 bytes of header, then elements, each of a tag (kind and size), its content, and padding to 8 bytes. A
variable is an element of elements: flags with its class, sizes, name, and numbers in column order, maybe in a smaller
kind than its class, or nested variables in a cell. A compressed element holds another element, packed by zlib. Level 4:
variables one after the other, each a header of five numbers, its name and its numbers.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["NotNumbers", "read_mat"]

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_KINDS = _NUMBERS | {16: "u1", 17: "u2", 18: "u4"}  # UTF-8, 16 and 32
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _CHARACTERS, _OPAQUE = 1, 4, 17
_OTHER_CLASSES = {
    _CELL: "a cell",
    2: "a struct",
    3: "an object",
    5: "a sparse matrix",
    16: "a function",
    _OPAQUE: "an object",
}
_COMPLEX = 0x08  # in the flags
_LEVEL_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_MOST_SIZES = 32  # axes of an array
_LONGEST_NAME = 63  # letters, as MATLAB allows


@dataclasses.dataclass(frozen=True)
class NotNumbers:
    """A variable, or an item of a cell, that is not read."""

    kind: str  # with its article


def read_mat(path: Path, wanted: Collection[str]) -> tuple[dict[str, np.ndarray | NotNumbers], list[str]]:
    """The wanted variables of a file, and the names of all its variables. Of the others only the names are read.

    Numbers have the type of their class. A cell is an object array of these. A text is an array of one string. Any
    other variable, and a cell in a cell, is `NotNumbers`.

    Raises:
        ValueError: it is not a `.mat` file of these levels, or damaged; one line, without the file's name.
    """
    data = memoryview(path.read_bytes())
    found: dict[str, np.ndarray | NotNumbers] = {}
    names: list[str] = []
    if len(data) < 20:
        raise ValueError("it ends too early")
    level_4 = 0 in bytes(data[:4])  # level 5 begins with a text
    for name, read in _level_4(data) if level_4 else _level_5(data):
        if name:  # MATLAB stores the content of its objects without one
            names.append("".join(letter if letter.isprintable() else "?" for letter in name[:_LONGEST_NAME]))
        if name in wanted:
            found[name] = read()
    return found, names


def _level_5(data: memoryview) -> Iterator[tuple[str, Callable[[], np.ndarray | NotNumbers]]]:
    mark = bytes(data[126:128])
    if mark not in (b"IM", b"MI"):
        raise ValueError("it is not a .mat file")
    order = "<" if mark == b"IM" else ">"
    if _number(data, 124, 2, order) >> 8 == 2:
        raise ValueError("a MATLAB 7.3 file; save it with the option -v7")
    position = _HEADER
    while position + 8 <= len(data):
        kind, content, position = _element(data, position, order, aligned=False)
        if kind == _COMPRESSED:
            kind, content, _ = _element(_unpacked(content, order), 0, order)
        if kind != _MATRIX:
            raise ValueError(f"an element of kind {kind} stands in place of a variable")
        if len(content) == 0:
            continue
        yield _name(content, order), lambda content=content: _matrix(content, order, cells=True)
    if position < len(data):
        raise ValueError("it ends too early")


def _element(data: memoryview, position: int, order: str, aligned: bool = True) -> tuple[int, memoryview, int]:
    """Kind and content of an element, and the position after it.

    Padding counts from the start of the element, as one that follows a compressed variable may begin anywhere.
    """
    kind = _number(data, position, 4, order)
    start = position + 8
    if kind >> 16:  # a small element: its size is in the same number, followed by up to four bytes
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"a small element of {size} bytes")
        start, stop, after = position + 4, position + 4 + size, position + 8
    else:
        stop = start + _number(data, position + 4, 4, order)
        after = stop + -(stop - start) % 8 if aligned or kind != _COMPRESSED else stop
    if stop > len(data):
        raise ValueError(f"an element ends at byte {stop} of {len(data)}")
    return kind, data[start:stop], after


def _unpacked(content: memoryview, order: str) -> memoryview:
    """The element inside a compressed one, with the size stated in its tag."""
    packed = zlib.decompressobj()
    try:
        tag = packed.decompress(content, 8)
        size = _number(memoryview(tag), 4, 4, order)
        body = packed.decompress(packed.unconsumed_tail, size) if size else b""
    except (zlib.error, MemoryError) as error:
        raise ValueError(f"a compressed variable is damaged ({error or 'too large'})") from None
    return memoryview(tag + body)


def _name(content: memoryview, order: str) -> str:
    """The name of a variable of any class; its sizes are not looked at."""
    _, flags, position = _element(content, 0, order)
    if _number(flags, 0, 4, order) & 0xFF != _OPAQUE:  # which has no sizes
        _, _, position = _element(content, position, order)
    return bytes(_element(content, position, order)[1]).decode("latin-1")


def _parts(content: memoryview, order: str) -> tuple[int, tuple[int, ...], int]:
    """Flags and sizes of a variable, and the position after its name."""
    _, flags, position = _element(content, 0, order)
    kind, sizes, position = _element(content, position, order)
    _, _, position = _element(content, position, order)
    # Some programs write sizes as unsigned numbers.
    if len(flags) < 8 or kind not in (5, 6) or len(sizes) % 4 or not 8 <= len(sizes) <= 4 * _MOST_SIZES:
        raise ValueError("a variable has no flags or no sizes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, f"{order}i4"))
    if min(shape) < 0:
        raise ValueError(f"a variable has the sizes {list(shape)}")
    return _number(flags, 0, 4, order), shape, position


def _matrix(content: memoryview, order: str, *, cells: bool) -> np.ndarray | NotNumbers:
    """The array of a variable; with `cells` it may be a cell."""
    if len(content) == 0:
        return np.zeros((0, 0))
    kind = _number(_element(content, 0, order)[1], 0, 4, order) & 0xFF
    if kind in _OTHER_CLASSES and not (kind == _CELL and cells):
        return NotNumbers(_OTHER_CLASSES[kind])
    word, shape, position = _parts(content, order)
    count = math.prod(shape)
    if kind == _CELL:
        if count > len(content) // 8:  # each has at least a tag
            raise ValueError(f"a cell of {count} items in {len(content)} bytes")
        items = np.empty(count, object)
        for i in range(count):
            inner, item, position = _element(content, position, order)
            if inner != _MATRIX:
                raise ValueError(f"item {i + 1} of a cell is an element of kind {inner}")
            items[i] = _matrix(item, order, cells=False)
        return items.reshape(shape, order="F")
    if kind not in (*_CLASSES, _CHARACTERS):
        return NotNumbers(f"of class {kind}")
    if word >> 8 & _COMPLEX:
        return NotNumbers("complex numbers")
    stored, numbers, _ = _element(content, position, order)
    if stored not in _KINDS:
        raise ValueError(f"numbers of kind {stored}")
    dtype = np.dtype(order + _KINDS[stored])
    if kind == _CHARACTERS:
        return _text(numbers, dtype, stored, shape)
    if len(numbers) != count * dtype.itemsize:
        raise ValueError(f"{len(numbers)} bytes of numbers for the sizes {list(shape)}")
    with np.errstate(invalid="ignore", over="ignore"):
        array = np.frombuffer(numbers, dtype).astype(_CLASSES[kind])
    return array.reshape(shape, order="F")


def _text(numbers: memoryview, dtype: np.dtype, stored: int, shape: tuple[int, ...]) -> np.ndarray:
    """The first row of a text."""
    if stored == 16:
        text = bytes(numbers).decode("utf-8", "replace")
    else:
        codes = np.frombuffer(numbers[: len(numbers) // dtype.itemsize * dtype.itemsize], dtype).tolist()
        text = "".join(chr(code) if 0 <= code < 0x110000 else "\ufffd" for code in codes)
    return np.array([text[:: max(shape[0], 1)]])


def _level_4(data: memoryview) -> Iterator[tuple[str, Callable[[], np.ndarray | NotNumbers]]]:
    position = 0
    order = "<" if _number(data, 0, 4, "<") < 5000 else ">"
    while position < len(data):
        if position + 20 > len(data):
            raise ValueError("it ends too early")
        form, rows, columns, imaginary, length = (_number(data, position + 4 * i, 4, order) for i in range(5))
        machine, unused, kind, content = form // 1000, form // 100 % 10, form // 10 % 10, form % 10
        if machine != (order == ">") or unused or kind >= len(_LEVEL_4) or content > 2 or imaginary > 1 or not length:
            raise ValueError("it is not a .mat file, or damaged")
        dtype = np.dtype(order + _LEVEL_4[kind])
        start = position + 20 + length
        position = start + rows * columns * dtype.itemsize * (1 + imaginary)
        if position > len(data):
            raise ValueError(f"a variable ends at byte {position} of {len(data)}")
        name = bytes(data[start - length : start]).rstrip(b"\0").decode("latin-1")

        def read(start: int = start, count: int = rows * columns, dtype: np.dtype = dtype, shape=(rows, columns)):
            values = np.frombuffer(data[start : start + count * dtype.itemsize], dtype)
            return values.astype(dtype.newbyteorder("=")).reshape(shape, order="F")

        kinds = ("complex numbers", "a text", "a sparse matrix")  # by content
        other = NotNumbers(kinds[content])
        yield name, read if content == 0 and not imaginary else lambda other=other: other


def _number(data: memoryview, start: int, size: int, order: str) -> int:
    if start + size > len(data):
        raise ValueError("it ends too early")
    value: Any = int.from_bytes(data[start : start + size], "little" if order == "<" else "big")
    return value
