"""Writes `.caffemodel` files in the forms met in the wild, from {layer: [weight, bias]} as Caffe stores them."""

import struct

import numpy as np

VALUES = ["packed", "unpacked", "pieces", "double", "double unpacked"]


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def chunk(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def encode_values(array: np.ndarray, values: str) -> bytes:
    flat = array.astype("<f8" if values.startswith("double") else "<f4").ravel()
    number, wire = (8, 1) if values.startswith("double") else (5, 5)
    if values.endswith("unpacked"):
        return b"".join(varint(number << 3 | wire) + value.tobytes() for value in flat)
    if values == "pieces":
        middle = len(flat) // 3
        return chunk(number, flat[:middle].tobytes()) + chunk(number, flat[middle:].tobytes())
    return chunk(number, flat.tobytes())


def encode_blob(array: np.ndarray, shaped: bool, values: str, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    data = encode_values(array, values)
    if shaped:
        # A gradient (6) beside the values (5), as in a snapshot of training.
        return data + chunk(6, np.zeros(3, "<f4").tobytes()) + chunk(7, chunk(1, b"".join(map(varint, shape))))
    sizes = (1,) * (4 - len(shape)) + tuple(shape)
    return b"".join(integer(axis, size) for axis, size in enumerate(sizes, start=1)) + data


def encode_layer(name: str, blobs: list[bytes], old: bool) -> bytes:
    if old:
        rates = b"".join(varint(7 << 3 | 5) + struct.pack("<f", rate) for rate in (1, 2))
        kind = integer(5, 4)
        return chunk(
            2, chunk(2, b"below") + kind + b"".join(chunk(6, b) for b in blobs) + rates + chunk(4, name.encode())
        )
    rate = chunk(6, varint(1 << 3 | 5) + struct.pack("<f", 1))
    kind = chunk(2, b"Convolution")
    return chunk(100, chunk(1, name.encode()) + kind + rate + b"".join(chunk(7, b) for b in blobs))


def encode_model(layers: dict[str, list[np.ndarray]], old: bool = False, shaped: bool = True, values: str = "packed"):
    """A whole file: a data layer without weights goes first, as in ImageNet networks, in both phases."""
    parts = [chunk(1, b"a network"), chunk(3, b"data"), integer(4, 1), encode_layer("data", [], old)]
    parts.append(encode_layer("data", [], old))
    for name, blobs in layers.items():
        parts.append(encode_layer(name, [encode_blob(blob, shaped, values) for blob in blobs], old))
    return b"".join(parts)
