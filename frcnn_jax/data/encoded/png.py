"""Size and EXIF data of PNG images, with all checksums verified."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

__all__ = ["is_png", "png_bits", "png_exif", "png_size"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def is_png(data: bytes) -> bool:
    return data.startswith(_SIGNATURE)


def png_size(data: bytes) -> tuple[int, int]:
    """Height and width; all parts must be present up to the end mark.

    Raises:
        ValueError: it is truncated, or a checksum is wrong.
    """
    for kind, start, end in _parts(data):
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"PNG damaged: wrong checksum in its {kind.decode('latin-1')} part")
        if kind == b"IEND":
            return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    raise ValueError(f"PNG cut short: no end mark in its {len(data)} bytes")


def png_bits(data: bytes) -> int:
    """Bits of a sample, as the header says."""
    return data[24] if len(data) > 24 else 0


def png_exif(data: bytes) -> bytes:
    """The EXIF data; empty if there is none."""
    return next((data[start:end] for kind, start, end in _parts(data) if kind == b"eXIf"), b"")


def _parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each complete part, checksum included."""
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        start = position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            return
        yield data[position + 4 : start], start, end
        position = end + 4
