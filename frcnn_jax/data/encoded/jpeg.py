"""Size and EXIF data of JPEG images, and a check that no coded pixels are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["check_jpeg", "is_jpeg", "jpeg_exif", "jpeg_size"]

# In entropy-coded data 0xff is followed by 0 (a literal 0xff), by a restart marker or by a fill byte 0xff.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_EXIF = b"Exif\x00\x00"


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width, from the headers.

    Raises:
        ValueError: there is no frame header or no end marker.
    """
    size = None
    for marker, place in _markers(data):
        if marker == _END:
            if size is None:
                raise ValueError("JPEG without a frame header")
            return size
        if marker in _FRAMES and place + 7 <= len(data):
            height, width = data[place + 3 : place + 5], data[place + 5 : place + 7]
            size = int.from_bytes(height, "big"), int.from_bytes(width, "big")
    raise ValueError(f"JPEG cut short: no end marker in its {len(data)} bytes")


def check_jpeg(data: bytes) -> None:
    """Decodes all coded data, at an eighth of the size, with an error if OpenCV would fill up with gray.

    OpenCV's decoder notices that the data end before the last pixel, but only prints a line. Other irregularities, such
    as extra bytes between two markers, change no pixel and pass.

    Raises:
        ValueError: the data end early although an end marker follows.
    """
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise ValueError(
                "JPEG cut short: its data end before the last pixel, though an end marker follows"
            ) from None


def jpeg_exif(data: bytes) -> bytes:
    """The EXIF data; empty if there is none before the pixels."""
    for marker, place in _markers(data):
        if marker in (_SCAN, _END):
            break
        body = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        if marker == _APP1 and body.startswith(_EXIF):
            return body.removeprefix(_EXIF)
    return b""


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers and the position after each. Segments are skipped by their lengths, as a segment may hold a thumbnail
    with its own end marker.
    """
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        yield marker, position
        position += int.from_bytes(data[position : position + 2], "big")
