"""Size and EXIF data of WebP images."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["is_webp", "webp_exif", "webp_size"]


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int]:
    """Height and width; the file must have its stated length.

    Raises:
        ValueError: it is truncated.
    """
    stated = 8 + int.from_bytes(data[4:8], "little")
    if stated > len(data):
        raise ValueError(f"WebP cut short: {len(data)} of {stated} bytes")
    for kind, body in _chunks(data):
        if kind == b"VP8X" and len(body) >= 10:
            return 1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little")
        if kind == b"VP8L" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        if kind == b"VP8 " and len(body) >= 10:
            width, height = (int.from_bytes(body[start : start + 2], "little") & 0x3FFF for start in (6, 8))
            return height, width
    raise ValueError("WebP without an image")


def webp_exif(data: bytes) -> bytes:
    """The EXIF data; empty if there is none."""
    return next((body.removeprefix(b"Exif\x00\x00") for kind, body in _chunks(data) if kind == b"EXIF"), b"")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
