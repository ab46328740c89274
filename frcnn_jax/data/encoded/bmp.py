"""Size of BMP images."""

from __future__ import annotations

__all__ = ["bmp_size", "is_bmp"]

_CORE_HEADER = 12  # bytes of the oldest header, which has shorter numbers
_PLAIN = (0, 3, 6)  # compression codes of uncompressed images


def is_bmp(data: bytes) -> bool:
    return data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def bmp_size(data: bytes) -> tuple[int, int]:
    """Height and width; all rows must be present.

    Raises:
        ValueError: it is truncated.
    """

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], "little", signed=length == 4)

    if number(14, 4) == _CORE_HEADER:
        width, height, bits, compression = number(18, 2), number(20, 2), number(24, 2), 0
    else:
        width, height, bits, compression = number(18, 4), abs(number(22, 4)), number(28, 2), number(30, 4)
    pixels = (width * bits + 31) // 32 * 4 * height if compression in _PLAIN else number(34, 4)
    if len(data) < 54 or number(10, 4) + pixels > len(data):
        raise ValueError(f"BMP cut short: {len(data)} of {number(10, 4) + pixels} bytes")
    return height, width
