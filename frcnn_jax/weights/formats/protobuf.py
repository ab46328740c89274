"""The wire format of protocol buffers: a message's fields, without its definition and without copying them.

Reference: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """One field of a message, or a run of one repeated field of fixed size."""

    number: int
    wire: int  # VARINT, FIXED64, BYTES or FIXED32
    start: int  # position of its content; in a run, of the first value
    end: int
    value: int  # of a VARINT
    count: int  # values in a run, one every `step` bytes
    step: int


def fields(content: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in content[start:end], in order.

    Raises:
        ValueError: it is not a message, or truncated; names the byte.
    """
    position = start
    while position < end:
        tag_start = position
        tag, position = read_varint(content, position, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"byte {tag_start} begins no field")
        if wire == VARINT:
            value_start = position
            value, position = read_varint(content, position, end)
            yield Field(number, wire, value_start, position, value, 1, position - value_start)
        elif wire == BYTES:
            length, position = read_varint(content, position, end)
            if length > end - position:
                raise ValueError(f"{length} bytes should follow byte {position}, there are {end - position}")
            yield Field(number, wire, position, position + length, 0, 1, length)
            position += length
        elif wire in _SIZES:
            step = position - tag_start + _SIZES[wire]
            count = _run_length(content[tag_start:end], position - tag_start, step)
            if count == 0:
                raise ValueError(f"{_SIZES[wire]} bytes should follow byte {position}, there are {end - position}")
            yield Field(number, wire, position, tag_start + count * step, 0, count, step)
            position = tag_start + count * step
        else:
            raise ValueError(f"byte {tag_start} begins no field")


def read_varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    """The variable-length integer at a position, and the position after it.

    Raises:
        ValueError: it has no end.
    """
    value, shift = 0, 0
    for at in range(position, min(position + 10, end)):
        byte = content[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise ValueError(f"the number at byte {position} has no end")


def _run_length(content: memoryview, tag_length: int, step: int) -> int:
    """Number of consecutive records with the same tag as the first."""
    # Most runs have one record: then nothing else is read.
    most, count = len(content) // step, 1
    if most == 0 or content[step : step + tag_length] != content[:tag_length]:
        return min(most, 1)
    # In ever larger parts, so that short runs do not scan the whole rest of the file each.
    while count < most:
        more = min(2 * count, most) - count
        records = np.frombuffer(content, np.uint8, more * step, count * step).reshape(-1, step)
        same = (records[:, :tag_length] == np.frombuffer(content, np.uint8, tag_length)).all(axis=1)
        if not same.all():
            return count + int(same.argmin())
        count += more
    return count
