"""Images: decoding to RGB and encoding, and checks that a file is complete. Formats are detected by content."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from frcnn_jax.config import DataConfig
from frcnn_jax.data.encoded.bmp import bmp_size, is_bmp
from frcnn_jax.data.encoded.jpeg import check_jpeg, is_jpeg, jpeg_exif, jpeg_size
from frcnn_jax.data.encoded.png import is_png, png_bits, png_exif, png_size
from frcnn_jax.data.encoded.tiff import is_tiff, tag_orientation, tiff_bits, tiff_size, without_orientation
from frcnn_jax.data.encoded.webp import is_webp, webp_exif, webp_size

__all__ = [
    "DRAWN_SUFFIXES",
    "IMAGE_SUFFIXES",
    "UNREADABLE_SUFFIXES",
    "check_image",
    "check_pixels",
    "decode_image",
    "encode_image",
    "exif_orientation",
    "has_16_bits",
    "image_size",
    "largest_of_16_bits",
    "turn_image",
    "turned_size",
    "way_to_rgb",
]

DRAWN_SUFFIXES = (".detections.jpg", ".detections.png", ".proposals.jpg", ".augmented.jpg")
"""Ends of the names of pictures with boxes that our commands write, which are no photographs."""
UNREADABLE_SUFFIXES = (".heic", ".heif", ".avif", ".gif")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", *UNREADABLE_SUFFIXES)
"""Suffixes of image files. HEIC, AVIF and GIF cannot be read, but are listed so that messages can name them."""

_FORMATS = (  # functions of the data: True for this format, size, EXIF data
    (is_jpeg, jpeg_size, jpeg_exif),
    (is_png, png_size, png_exif),
    (is_webp, webp_size, webp_exif),
    (is_bmp, bmp_size, lambda data: b""),
    (is_tiff, tiff_size, lambda data: data),
)
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".jpe": 65500, ".webp": 16383}  # pixels of a side that a format can hold
_CONVERT = "convert it to JPEG, as with: heif-convert IMAGE.heic IMAGE.jpg"
_OTHERS = (  # first bytes of other files with image names, from byte 0 or, for HEIC's family, from byte 4
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), f"HEIC, which cannot be read: {_CONVERT}"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF, which cannot be read: convert it to JPEG"),
    (0, (b"GIF8",), "GIF, which cannot be read: convert it to PNG"),
    (0, (b"version https://git-lfs",), "only a pointer of Git LFS: fetch the images with git lfs pull"),
    (0, (b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page: the download failed"),
)


class _Silence:
    """A block in which OpenCV prints no warnings, for example about unknown TIFF tags; several threads may be in it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                cv2.utils.logging.setLogLevel(self._level)


_OPENCV_SILENT = _Silence()


def decode_image(data: bytes, orientation: int = 1) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels of an encoded image.

    Gray-scale and 16-bit images become 8-bit colour, and transparency is dropped. The orientation in the file is
    ignored.

    Args:
        orientation: EXIF orientation to apply to the stored pixels, as in `turn_image`.

    Raises:
        ValueError: OpenCV cannot decode the data.
    """
    return turn_image(cv2.cvtColor(_decode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), orientation)


def _decode(data: bytes, mode: int) -> np.ndarray:
    """The stored pixels in a mode of OpenCV; errors as `decode_image`."""
    tiff = is_tiff(data)
    if tiff:
        data = without_orientation(data)
    try:
        with _OPENCV_SILENT if tiff else contextlib.nullcontext():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"cannot be decoded ({len(data)} bytes)")
    return image


def encode_image(image: UInt8[np.ndarray, "H W 3"], suffix: str, options: Sequence[int] = ()) -> bytes:
    """An RGB image in the format of a file's suffix, as ".jpg"; reduced if a side is longer than the format can hold
    (65,500 pixels in JPEG, 16,383 in WebP).

    Args:
        options: OpenCV's numbers of settings and their values, as (cv2.IMWRITE_JPEG_QUALITY, 90).

    Raises:
        ValueError: OpenCV cannot encode the image.
    """
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    height, width = bgr.shape[:2]
    scale = _LONGEST.get(suffix.lower(), np.inf) / max(height, width)
    if scale < 1:
        size = [max(int(side * scale), 1) for side in (width, height)]
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    try:
        encoded, data = cv2.imencode(suffix, bgr, options)
    except cv2.error:
        encoded = False
    if not encoded:
        raise ValueError(f"OpenCV cannot encode an image of {width} x {height} pixels as {suffix}")
    return data.tobytes()


def way_to_rgb(image: np.ndarray) -> str:
    """The end of a message about an array that is not uint8 [H, W, 3]: how to make it one; empty if that is unknown."""
    channels = image.shape[2] if image.ndim == 3 else None
    if image.dtype == object and image.ndim == 0 and image.item() is None:
        return ": it is None, as of cv2.imread where it finds no image that it can read"
    if image.ndim == 2 or channels == 1:
        return ": make a gray image RGB, as by np.dstack([image] * 3)"
    if channels == 4:
        return ": leave out its transparency, as by image[:, :, :3]"
    if channels not in (None, 3) and image.shape[0] == 3:
        return ": put its channels last, as by image.transpose(1, 2, 0)"
    if channels == 3 and np.issubdtype(image.dtype, np.floating):
        return ": for values from 0 to 1, as by (255 * image).astype(np.uint8)"
    return ""


def has_16_bits(data: bytes) -> bool:
    """True for a PNG or TIFF image of 16 bits, by its headers."""
    return (is_png(data) and png_bits(data) == 16) or (is_tiff(data) and tiff_bits(data) == 16)


def largest_of_16_bits(data: bytes) -> int | None:
    """Largest colour value of an image of 16 bits; None for other images, told by their headers and not decoded.

    Raises:
        ValueError: OpenCV cannot decode the data.
    """
    if not has_16_bits(data):
        return None
    return int(_decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH).max())


def turn_image(image: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """The image as viewers show it, with the EXIF orientation 1 ... 8 applied."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of an image of that size after `turn_image`."""
    return (size[1], size[0]) if orientation >= 5 else size


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image as stored, from its headers; all of its parts must be present.

    Raises:
        ValueError: the data is neither JPEG, PNG, WebP, BMP nor TIFF, is cut short, or a PNG's checksums are wrong.
    """
    for fits, size, _ in _FORMATS:
        if fits(data):
            return size(data)
    for start, marks, message in _OTHERS:
        if data[start:].startswith(marks):
            raise ValueError(message)
    raise ValueError(f"neither JPEG nor PNG, WebP, BMP or TIFF ({len(data)} bytes)")


def check_image(data: bytes, max_pixels: int = DataConfig.max_pixels) -> tuple[int, int]:
    """Height and width of a complete image that decodes to that size.

    Raises:
        ValueError: the image is not complete, has more pixels than `max_pixels` (checked before decoding), or cannot be
            decoded.
    """
    size = image_size(data)
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise ValueError(
            f"{size[1]} x {size[0]} pixels, more than data.max_pixels = {max_pixels}: reduce it, or set "
            f"--data.max-pixels {pixels}, for which {3 * pixels / 1e9:.1f} GB of memory are needed"
        )
    if is_jpeg(data):
        check_jpeg(data)  # before OpenCV, whose decoder would print faults
    decoded = decode_image(data).shape[:2]
    if decoded != size:
        raise ValueError(f"decodes to {decoded[1]} x {decoded[0]} pixels, but its header says {size[1]} x {size[0]}")
    return size


def check_pixels(image: ArrayLike) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB image as a NumPy array.

    Raises:
        ValueError: it is not uint8 [H, W, 3], or has no pixels.
    """
    if isinstance(image, str | os.PathLike):
        read = f"cv2.imread({os.fspath(image)!r})[:, :, ::-1]"
        raise ValueError(f"the image must be uint8 [H, W, 3], not the name of a file: read it, as by {read}")
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"the image must be uint8 [H, W, 3], not {found}{way_to_rgb(image)}")
    return image


def exif_orientation(data: bytes) -> int:
    """EXIF orientation 1 ... 8 of an image; 1 (unchanged) if it is not stated."""
    return next((tag_orientation(exif(data)) for fits, _, exif in _FORMATS if fits(data)), 1)
