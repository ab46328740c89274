"""The state dict in a `.pth` file that `torch.save` wrote, without PyTorch and without running anything from the file.

It is the whole of what was saved, or lies beside an optimizer and the like under a name that training scripts use, as
in `{"model": state_dict, "optimizer": ..., "epoch": 3}`. The prefixes `_orig_mod.` of compiled models and `module.` of
DataParallel are left out.

A file has a pickle that describes the tensors and, beside it, their numbers. Since PyTorch 1.6 both are in a zip
archive, not compressed: `NAME/data.pkl` and `NAME/data/KEY`. Before, and so in torchvision's published files, pickles
follow each other: a magic number, a version, the system's byte order, the description, the keys; then, in the order
of the keys, the count of each storage (int64) and its numbers.

A pickle is a program. This one may use nothing but the names that tensors need, and each stands for a function of
ours that only notes what it is called with; and a few of what training scripts save beside them, which is skipped.
"""

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from frcnn_jax.weights.formats.stored import Stored

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip
# Names of the state dict in checkpoints of torchvision's scripts, the ImageNet example, and PyTorch's tutorial.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("_orig_mod.", "module.")  # of each name of a compiled model, and of one in DataParallel
# Saved beside state dicts: command lines, settings of schedules, accuracies, which device. Made as `_Skipped`.
_BESIDE = (
    ("argparse", "Namespace"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # of Python 3.13
    ("torch", "device"),
    ("torch", "Size"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),  # of the bytes of a scalar
)
_CHUNK = 1 << 24


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int


class _Place(NamedTuple):
    """Place of a storage's numbers in the file, in bytes."""

    start: int
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict):
    """Stands for OrderedDict; what PyTorch adds to it (versions of modules) is skipped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Skipped:
    """Stands for an object that no tensor needs: it takes its arguments and its state, and keeps neither."""

    def __new__(cls, *_: Any) -> "_Skipped":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Makes numbers, strings, containers, `_Tensor` and `_Skipped`, and refuses all else."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

        def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
            return _Tensor(storage, offset, shape, strides)

        self._known = {
            ("collections", "OrderedDict"): _Dict,
            ("collections", "Counter"): _Dict,
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            **{("torch", name): name for name in _DTYPES},
            **dict.fromkeys(_BESIDE, _Skipped),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which tensors do not need: it is not loaded. Where it is a whole model, "
                "save its tensors: torch.save(model.state_dict(), FILE)"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, count, *view = pid
        if kind != "storage" or name not in _DTYPES or any(part is not None for part in view):
            raise pickle.UnpicklingError("it has a storage of a kind that is not read")
        storage = _Storage(str(key), _DTYPES[name], int(count))
        return self.storages.setdefault(storage.key, storage)


def read_state_dict(path: Path) -> dict[str, Stored]:
    """The tensors of a state dict by name, each read when it is needed.

    Raises:
        ValueError: the file is of another kind, damaged, asks for anything that tensors do not need, or something in
            the state dict is not a tensor; in one line, which does not name the file.
    """
    state, places = _read(path)
    return {name: _stored(path, name, tensor, places) for name, tensor in _unwrapped(state).items()}


def read_state_names(path: Path) -> set[str]:
    """The names of `read_state_dict`, without a look at the tensors' numbers.

    Raises:
        ValueError: as `read_state_dict`, but for what is wrong with tensors.
    """
    return set(_unwrapped(_read(path, with_places=False)[0]))


def _read(path: Path, with_places: bool = True) -> tuple[Any, dict[str, _Place]]:
    """The description, and where the storages are; the latter checked, or left out."""
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
            raise ValueError(f"its pickle is damaged or refused: {error or type(error).__name__}") from error


def _unwrapped(saved: Any) -> dict[str, Any]:
    """The state dict in what was saved, by the names of the model's tensors."""
    state, where = saved, "it"
    if isinstance(saved, dict):
        for name in _WRAPPERS:
            # In a state dict itself, each name stands for a tensor.
            if isinstance(saved.get(name), dict):
                state, where = saved[name], f"its {name}"
                break
    if not isinstance(state, dict) or not state:
        kind = "nothing" if state == {} else f"a {type(state).__name__}"
        raise ValueError(f"{where} holds {kind}, not a state dict with tensors by name")
    names = [str(name) for name in state]
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _read_zip(path: Path, with_places: bool) -> tuple[Any, dict[str, _Place]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive, but not of torch.save: it has no data.pkl")
        (root,) = roots
        order = entries.get(f"{root}byteorder")
        if order is not None and archive.read(order).strip() != b"little":
            raise ValueError("its numbers are big-endian, which is not read")
        state = _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl"))).load()
        if not with_places:
            return state, {}
        places = {
            name.removeprefix(f"{root}data/"): _check_entry(path, info)
            for name, info in entries.items()
            if name.startswith(f"{root}data/") and not info.is_dir()
        }
    return state, places


def _check_entry(path: Path, info: zipfile.ZipInfo) -> _Place:
    """Place of a zip entry's content in the file, after its checksum was found right."""
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
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _VERSION:
        raise ValueError("it is a pickle, but not of torch.save")
    if not _Unpickler(file).load().get("little_endian"):
        raise ValueError("its numbers are big-endian, which is not read")
    unpickler = _Unpickler(file)
    state = unpickler.load()
    if not with_places:
        return state, {}
    keys = _Unpickler(file).load()
    places, position = {}, file.tell()
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        storage = unpickler.storages[str(key)]
        end = position + 8 + count * storage.dtype.itemsize
        if count != storage.count or end > size:
            raise ValueError(f"it is cut off or damaged in storage {key}, at byte {position} of {size}")
        places[storage.key], position = _Place(position + 8, end - position - 8), end
    return state, places


def _stored(path: Path, name: str, tensor: Any, places: dict[str, _Place]) -> Stored:
    """A tensor with all that is said about it checked."""
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        raise ValueError(f"{name} is not a tensor")
    storage, shape, strides = tensor.storage, tuple(tensor.shape), tuple(tensor.strides)
    numbers = (tensor.offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name} has the shape {list(shape)} with strides {list(strides)}")
    itemsize = storage.dtype.itemsize
    place = places.get(storage.key)
    if place is None or place.size != storage.count * itemsize:
        raise ValueError(f"the numbers of {name} are not there, or not as many as it says")

    def read() -> np.ndarray:
        content = np.memmap(path, np.uint8, "r", place.start, (place.size,))
        # NumPy checks that all is within the storage.
        return np.ndarray(
            shape, storage.dtype, content, tensor.offset * itemsize, tuple(step * itemsize for step in strides)
        )

    return Stored(shape, read)
