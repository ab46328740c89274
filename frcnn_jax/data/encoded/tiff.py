"""Size and orientation of TIFF images; EXIF data in other formats have the same layout."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["is_tiff", "tag_orientation", "tiff_bits", "tiff_size", "without_orientation"]

_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_BITS, _SAMPLE_FORMAT, _FLOAT = 0x0102, 0x0153, 3
_OFFSETS, _COUNTS = (0x0111, 0x0144), (0x0117, 0x0145)  # of strips and of tiles
_TO_8_BITS = (
    "import cv2; "
    "cv2.imwrite('OUT.png', cv2.normalize(cv2.imread('IN.tif', -1), None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U))"
)
_BYTES = {3: 2, 4: 4}  # of a SHORT and a LONG


def is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\x00", b"MM\x00*")


def tag_orientation(tiff: bytes) -> int:
    """Orientation 1 ... 8 in the first directory; 1 if it is missing or invalid."""
    value = next((first for tag, first, *_ in _entries(tiff) if tag == _ORIENTATION), 1)
    return value if 1 <= value <= 8 else 1


def tiff_bits(data: bytes) -> int:
    """Bits of a sample of the first image; 1 if they are missing."""
    return next((first for tag, first, *_ in _entries(data) if tag == _BITS), 1)


def tiff_size(data: bytes) -> tuple[int, int]:
    """Height and width of the first image, with all strips or tiles present.

    Raises:
        ValueError: the file is truncated, states no size, or has samples of more than 16 bits, as floats have.
    """
    directory = int.from_bytes(data[4:8], _order(data))
    entries = int.from_bytes(data[directory : directory + 2], _order(data))
    if directory + 2 + 12 * entries + 4 > len(data):
        raise ValueError(f"TIFF cut short: its directory is missing or cut in its {len(data)} bytes")
    found = {tag: (first, kind, count, place) for tag, first, kind, count, place in _entries(data)}
    if not {_WIDTH, _HEIGHT} <= set(found) or not any(tag in found for tag in _OFFSETS):
        raise ValueError("TIFF without the size or the pixels of an image")
    ends = [0]
    for offsets, counts in zip(_OFFSETS, _COUNTS, strict=True):
        if offsets in found and counts in found:
            starts, lengths = (_values(data, *found[tag][1:]) for tag in (offsets, counts))
            ends += [start + length for start, length in zip(starts, lengths, strict=False)]
    if max(ends) > len(data):
        raise ValueError(f"TIFF cut short: its pixels end at byte {max(ends)}, the file at {len(data)}")
    bits = tiff_bits(data)
    if bits > 16:
        kind = "floats" if _SAMPLE_FORMAT in found and found[_SAMPLE_FORMAT][0] == _FLOAT else "integers"
        raise ValueError(
            f'TIFF of {bits}-bit {kind}, which cannot be read: convert it to 8 bits, as with: python -c "{_TO_8_BITS}"'
        )
    return found[_HEIGHT][0], found[_WIDTH][0]


def without_orientation(data: bytes) -> bytes:
    """The file without its orientation, which OpenCV always applies to TIFF files."""
    for tag, _, kind, _, place in _entries(data):
        if tag == _ORIENTATION and kind == 3:
            one = (1).to_bytes(2, _order(data))
            return data[:place] + one + data[place + 2 :]
    return data


def _order(tiff: bytes) -> str:
    return "little" if tiff.startswith(b"II") else "big"


def _entries(tiff: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Tag, first value, kind, count and position of the values, for each entry of the first directory."""
    order = _order(tiff)

    def number(start: int, length: int) -> int:
        return int.from_bytes(tiff[start : start + length], order)

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff)), 12):
        kind, count = number(entry + 2, 2), number(entry + 4, 4)
        size = _BYTES.get(kind, 4)
        place = entry + 8 if size * count <= 4 else number(entry + 8, 4)
        yield number(entry, 2), number(place, size), kind, count, place


def _values(data: bytes, kind: int, count: int, place: int) -> list[int]:
    size, order = _BYTES.get(kind, 4), _order(data)
    stop = min(place + size * count, len(data))
    if stop < place + size * count:
        raise ValueError(f"TIFF cut short: its list of strips ends at byte {place + size * count}")
    return [int.from_bytes(data[start : start + size], order) for start in range(place, stop, size)]
