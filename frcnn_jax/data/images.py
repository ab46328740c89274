"""Encoded images: decoding to RGB, and the check that a file holds its whole image."""

from __future__ import annotations

import re
import zlib

import cv2
import numpy as np
from jaxtyping import UInt8

__all__ = ["IMAGE_SUFFIXES", "check_image", "decode_image", "exif_orientation", "image_size"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# In entropy-coded data 0xff is followed by 0 (a literal 0xff), by a restart marker or by a fill byte 0xff.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END, _JPEG_SCAN, _JPEG_APP1 = 0xD9, 0xDA, 0xE1
_EXIF, _EXIF_ORIENTATION = b"Exif\x00\x00", 0x0112


def decode_image(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels of an encoded image.

    Gray-scale and 16-bit images become 8-bit colour and transparency is left out. An EXIF orientation is ignored,
    because annotated boxes count the pixels as they lie in the file.

    Raises:
        ValueError: OpenCV cannot decode the data.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"cannot be decoded ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG image, from its headers; all of its parts must be there up to the end mark.

    Raises:
        ValueError: the data is neither JPEG nor PNG, is cut short, or a PNG's check sums are wrong.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(_PNG_SIGNATURE):
        return _png_size(data)
    raise ValueError(f"neither JPEG nor PNG ({len(data)} bytes)")


def check_image(data: bytes) -> tuple[int, int]:
    """Height and width of a complete JPEG or PNG image that decodes to that size.

    Raises:
        ValueError: the image is not complete or cannot be decoded.
    """
    size = image_size(data)
    decoded = decode_image(data).shape[:2]
    if decoded != size:
        raise ValueError(f"decodes to {decoded[1]} x {decoded[0]} pixels, but its header says {size[1]} x {size[0]}")
    return size


def exif_orientation(data: bytes) -> int:
    """Turn or reflection with which viewers show a JPEG image, 1 ... 8 as in EXIF; 1, none, where it is not stated."""
    position = 2
    while data.startswith(b"\xff\xd8") and (found := _JPEG_MARKER.search(data, position)):
        marker, position = data[found.end() - 1], found.end()
        if marker in (_JPEG_SCAN, _JPEG_END):
            break
        length = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + length]
        if marker == _JPEG_APP1 and body.startswith(_EXIF):
            return _tiff_orientation(body.removeprefix(_EXIF))
        position += length
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = "little" if tiff.startswith(b"II") else "big"

    def number(start: int, length: int) -> int:
        return int.from_bytes(tiff[start : start + length], order)

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff)), 12):
        if number(entry, 2) == _EXIF_ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size = None
    position = 2
    # Marker segments are walked by their lengths: one of them may hold a thumbnail with an end marker of its own.
    while found := _JPEG_MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == _JPEG_END:
            if size is None:
                raise ValueError("JPEG without a frame header")
            return size
        length = int.from_bytes(data[position : position + 2], "big")
        if marker in _JPEG_FRAMES and position + 7 <= len(data):
            height, width = data[position + 3 : position + 5], data[position + 5 : position + 7]
            size = int.from_bytes(height, "big"), int.from_bytes(width, "big")
        position += length
    raise ValueError(f"JPEG cut short: no end marker in its {len(data)} bytes")


def _png_size(data: bytes) -> tuple[int, int]:
    position = len(_PNG_SIGNATURE)
    size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"PNG damaged: wrong check sum in its {kind.decode('latin-1')} part")
        if kind == b"IEND":
            return size
        position = end + 4
    raise ValueError(f"PNG cut short: no end mark in its {len(data)} bytes")
