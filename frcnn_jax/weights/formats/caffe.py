"""The weights in a `.caffemodel`: a binary protocol buffer `NetParameter`, read without Caffe.

The relevant part of its definition: the layers are field 100 (name 1, blobs 7) or, in the old form, field 2 (name 4,
blobs 6). A blob has its values in field 5 (float) or 8 (double). Its shape is in field 7, a message with the sizes in
field 1, or in fields 1 to 4 as four sizes. Repeated numbers are packed or not.
"""

import mmap
from pathlib import Path
from typing import NamedTuple

from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.weights.formats.layers import Layers, layer_format
from frcnn_jax.weights.formats.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, fields, read_varint
from frcnn_jax.weights.formats.stored import Run, Stored, stored


class _LayerForm(NamedTuple):
    name: int
    blobs: int


_LAYER_FORMS = {100: _LayerForm(name=1, blobs=7), 2: _LayerForm(name=4, blobs=6)}
_VALUES = {5: ("<f4", FIXED32), 8: ("<f8", FIXED64)}
_PARTS = ("weight", "bias")


def read_caffemodel(path: Path) -> Layers:
    """The layers with weights, in the order of the file: {"conv1": {"weight": [O, I, h, w], "bias": [O]}, ...}.

    Arrays have the shapes of the file: those of the old form always have four axes, with leading ones of size 1.

    Raises:
        ValueError: it is not such a file, is truncated or contradicts itself; one line, without the file's name.
    """
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    layers: Layers = {}
    last = None
    try:
        for field in fields(content, 0, len(content)):
            if field.number in _LAYER_FORMS and field.wire == BYTES:
                name, blobs = _read_layer(path, content, field)
                last = name
                if name in layers and blobs:
                    raise ValueError(f"layer {name} occurs twice")
                if blobs:
                    layers[name] = blobs
    except ValueError as error:
        where = "it is not a Caffe model, or damaged" if last is None else f"cut off or damaged after layer {last}"
        raise ValueError(f"{where}: {error}") from error
    if not layers:
        raise ValueError("it is not a Caffe model, or has no weights in any layer")
    return layers


def _read_layer(path: Path, content: memoryview, layer: Field) -> tuple[str, dict[str, Stored]]:
    form, name, blobs = _LAYER_FORMS[layer.number], "", []
    for field in fields(content, layer.start, layer.end):
        if field.wire == BYTES and field.number == form.name:
            name = str(content[field.start : field.end], "utf-8")
        elif field.wire == BYTES and field.number == form.blobs:
            blobs.append(field)
    parts = [*_PARTS, *(f"blob{i}" for i in range(len(_PARTS), len(blobs)))]
    named = {}
    for part, blob in zip(parts, blobs, strict=False):
        try:
            named[part] = _read_blob(path, content, blob)
        except ValueError as error:
            raise ValueError(f"{part} of layer {name}: {error}") from error
    return name, named


def _read_blob(path: Path, content: memoryview, blob: Field) -> Stored:
    old_shape, shape = {}, None
    runs: dict[str, list[Run]] = {}
    for field in fields(content, blob.start, blob.end):
        if field.number in _VALUES:
            dtype, fixed = _VALUES[field.number]
            size = int(dtype[-1])
            if field.wire == BYTES and field.step % size == 0:
                run = Run(field.start, field.step // size, dtype, size)
            elif field.wire == fixed:
                run = Run(field.start, field.count, dtype, field.step)
            else:
                raise ValueError(f"its values are not numbers of {size} bytes")
            runs.setdefault(dtype, []).append(run)
        elif field.number == 7 and field.wire == BYTES:
            shape = _read_shape(content, field)
        elif field.number <= 4 and field.wire == VARINT:
            old_shape[field.number] = field.value
    if shape is None:
        # Zero is the default, which is not written.
        shape = tuple(old_shape.get(axis, 0) for axis in (1, 2, 3, 4))
    runs = {dtype: found for dtype, found in runs.items() if any(run.count for run in found)}
    if len(runs) > 1:
        raise ValueError("it has values in single and in double precision")
    found = [run for parts in runs.values() for run in parts if run.count]
    count, expected = sum(run.count for run in found), 1
    for size in shape:
        expected *= size
    if count != expected or count == 0:
        raise ValueError(f"{count} values for the shape {list(shape)}")
    return stored(path, found, shape)


def _read_shape(content: memoryview, shape: Field) -> tuple[int, ...]:
    sizes = []
    for field in fields(content, shape.start, shape.end):
        if field.number == 1 and field.wire == VARINT:
            sizes.append(field.value)
        elif field.number == 1 and field.wire == BYTES:
            position = field.start
            while position < field.end:
                size, position = read_varint(content, position, field.end)
                sizes.append(size)
    return tuple(sizes)


CAFFEMODEL = layer_format(".caffemodel", read_caffemodel, CAFFE_PIXELS)
