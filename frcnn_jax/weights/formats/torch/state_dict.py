"""The state dict in a `.pth` file that `torch.save` wrote, without PyTorch and without running anything from the file.

The state dict is all that was saved, or one entry among an optimizer and others, as in `{"model": state_dict,
"optimizer": ..., "epoch": 3}`: under a usual name, or the only one with tensors alone. The prefixes `_orig_mod.` of
compiled models, `module.` of DataParallel, and `model.` of Lightning's usual module are left out.

A file has a pickle that describes the tensors, and their numbers. Since PyTorch 1.6 both are in an uncompressed zip
archive: `NAME/data.pkl` and `NAME/data/KEY`. Older files, also torchvision's published ones, are a sequence of pickles:
a magic number, a version, the system's byte order, the description, the keys; then, in the order of the keys, the count
of each storage (int64) and its numbers. `unpickler.py` explains how pickles are read safely.
"""

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch.unpickler import Tensor, Unpickler

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
# Names of the state dict in checkpoints of torchvision's scripts, the ImageNet example, and PyTorch's tutorial.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("_orig_mod.", "module.", "model.")  # of names in a compiled model, in DataParallel and in Lightning
_DEEPEST = 3  # dictionaries around a state dict
_CHUNK = 1 << 24
_LARGEST, _MOST_AXES = 1 << 48, 32  # bounds on a size and on the number of axes


class _Place(NamedTuple):
    """Place of a storage's numbers in the file, in bytes."""

    start: int
    size: int


def read_state_dict(path: Path) -> dict[str, Stored]:
    """The tensors of a state dict by name, each read on access.

    Raises:
        ValueError: the file is of another kind or damaged, needs anything besides tensors, or the state dict holds
            something else than tensors; one line, without the file's name.
    """
    state, places = _read(path)
    return {name: _stored(path, name, tensor, places) for name, tensor in _unwrapped(state).items()}


def read_state_names(path: Path) -> set[str]:
    """The names of `read_state_dict`, without reading the tensors' numbers.

    Raises:
        ValueError: as `read_state_dict`, except for errors in tensors.
    """
    return set(_unwrapped(_read(path, with_places=False)[0]))


def _read(path: Path, with_places: bool = True) -> tuple[Any, dict[str, _Place]]:
    """The description, and the places of the storages: checked, or left out."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                return _read_zip(path, with_places)
            if start[:1] == b"\x80":
                return _read_legacy(file, path.stat().st_size, with_places)
            raise ValueError("it is neither of the kinds of file that torch.save writes")
        except (ValueError, zipfile.BadZipFile):
            raise
        # A damaged pickle can fail in any way.
        except Exception as error:
            raise ValueError(f"its pickle is damaged or refused: {str(error) or type(error).__name__}") from error


def _unwrapped(saved: Any) -> dict[str, Any]:
    """The state dict within the saved object, by the names of the model's tensors.

    Raises:
        ValueError: it holds none, or several.
    """
    state, where = saved, "it"
    for _ in range(_DEEPEST):
        name = _entry(state) if isinstance(state, dict) else None
        if name is None:
            break
        state, where = state[name], f"its {name}"
    if not isinstance(state, dict) or not state:
        kind = "nothing" if state == {} else f"a {type(state).__name__}"
        raise ValueError(f"{where} holds {kind}, not a state dict with tensors by name")
    names = [str(name) for name in state]
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _entry(saved: dict) -> Any:
    """The name of the state dict among the entries of a checkpoint; None for a state dict itself.

    Raises:
        ValueError: it could be any of several.
    """
    for name in _WRAPPERS:
        # A plain state dict maps each name to a tensor.
        if isinstance(saved.get(name), dict):
            return name
    found = [name for name, value in saved.items() if isinstance(value, dict) and _has_tensors_alone(value)]
    if len(found) > 1:
        raise ValueError(
            f"it holds {len(found)} state dicts, {', '.join(map(str, found))}: save the one to use by "
            f"torch.save(torch.load(FILE)[{found[0]!r}], OTHER)"
        )
    return found[0] if found else None


def _has_tensors_alone(entry: dict) -> bool:
    return bool(entry) and all(type(value) is Tensor for value in entry.values())


def _read_zip(path: Path, with_places: bool) -> tuple[Any, dict[str, _Place]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive, but not of torch.save: it has no data.pkl")
        (root,) = roots
        for name in (f"{root}byteorder", f"{root}data.pkl"):
            if name in entries and entries[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed, which torch.save never does")
        order = entries.get(f"{root}byteorder")
        if order is not None and archive.read(order).strip() != b"little":
            raise ValueError("its numbers are big-endian, which is not read")
        pickled = archive.read(f"{root}data.pkl")
        state = Unpickler(io.BytesIO(pickled), len(pickled)).load()
        if not with_places:
            return state, {}
        places = {
            name.removeprefix(f"{root}data/"): _check_entry(path, info)
            for name, info in entries.items()
            if name.startswith(f"{root}data/") and not info.is_dir()
        }
    return state, places


def _check_entry(path: Path, info: zipfile.ZipInfo) -> _Place:
    """Place of a zip entry's content in the file, after checking its checksum."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch.save never does")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(f"{info.filename} is not where the archive says")
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        file.seek(offset)
        checksum, remaining = 0, info.file_size
        while remaining:
            chunk = file.read(min(_CHUNK, remaining))
            if not chunk:
                raise ValueError(f"it is cut off in {info.filename}")
            checksum, remaining = zlib.crc32(chunk, checksum), remaining - len(chunk)
    if checksum != info.CRC:
        raise ValueError(f"{info.filename} is damaged: its checksum is wrong")
    return _Place(offset, info.file_size)


def _read_legacy(file: BinaryIO, size: int, with_places: bool) -> tuple[Any, dict[str, _Place]]:
    if Unpickler(file, size).load() != _MAGIC or Unpickler(file, size).load() != _VERSION:
        raise ValueError("it is a pickle, but not of torch.save")
    if not Unpickler(file, size).load().get("little_endian"):
        raise ValueError("its numbers are big-endian, which is not read")
    unpickler = Unpickler(file, size)
    state = unpickler.load()
    if not with_places:
        return state, {}
    keys = Unpickler(file, size).load()
    if type(keys) is not list or any(type(key) not in (str, int) for key in keys):
        raise ValueError("it has no list of storages")
    places, position = {}, file.tell()
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        storage = unpickler.storages.get(str(key))
        end = position + 8 + count * (storage.dtype.itemsize if storage else 0)
        if storage is None or count != storage.count or end > size:
            raise ValueError(f"it is cut off or damaged in storage {key}, at byte {position} of {size}")
        places[storage.key], position = _Place(position + 8, end - position - 8), end
    return state, places


def _stored(path: Path, name: str, tensor: Any, places: dict[str, _Place]) -> Stored:
    """A tensor after checks of its description."""
    if type(tensor) is not Tensor:
        raise ValueError(f"{name} is not a tensor")
    storage, offset, shape, strides = tensor
    lists = type(shape) in (tuple, list), type(strides) in (tuple, list)
    if not all(lists) or not all(type(n) is int and 0 <= n < _LARGEST for n in (offset, *shape, *strides)):
        raise ValueError(f"the shape of {name} or its strides are not numbers from 0")
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"{name} has a shape of {len(shape)} numbers and {len(strides)} strides")
    itemsize = storage.dtype.itemsize
    place = places.get(storage.key)
    if place is None or place.size != storage.count * itemsize:
        raise ValueError(f"the numbers of {name} are missing, or not as many as it says")
    # Strides that repeat numbers would let a small file become an array of any size.
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
        raise ValueError(f"{name} of the shape {list(shape)} is not within the {storage.count} numbers of its storage")

    def read() -> np.ndarray:
        if 0 in shape:
            return np.empty(shape, storage.dtype)
        content = np.memmap(path, np.uint8, "r", place.start, (place.size,))
        return np.ndarray(shape, storage.dtype, content, offset * itemsize, tuple(step * itemsize for step in strides))

    return Stored(shape, read)
