"""A safe reader of `torch.save`'s pickles, which runs nothing from them.

A pickle is a program. This reader knows only the few names that tensors need; each is replaced by a function that just
records its arguments. It also knows some objects that training scripts save besides tensors, and skips them. A key of a
dictionary must be a number, a text or a short tuple of these: deeply nested tuples would take forever to hash. Lengths
are not trusted: no memory is allocated for bytes that the file does not have.
"""

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["Storage", "Tensor", "Unpickler"]

DTYPES = {
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
# Saved besides state dicts: command lines, settings of schedules, accuracies, devices. Read as `_Skipped`.
_BESIDE = (
    ("argparse", "Namespace"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # of Python 3.13
    ("torch", "device"),
    ("torch", "Size"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),  # for the bytes of a scalar
)
_KEYS = (str, int, float, bool, bytes, type(None))
_SHOWN = 60  # characters of a name in a message


class Storage(NamedTuple):
    """Numbers that tensors share."""

    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """A tensor's description in a pickle, unchecked except for its storage."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


def _check_key(key: Any) -> None:
    parts = key if type(key) is tuple and len(key) <= 4 else (key,)
    if not all(type(part) in _KEYS for part in parts):
        raise pickle.UnpicklingError(f"a key of a dictionary is a {type(key).__name__}")


class _Dict(dict):
    """Replaces OrderedDict; PyTorch's additions to it (versions of modules) are skipped."""

    def __init__(self, pairs: Any = ()):
        super().__init__()
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            _check_key(key)
            self[key] = value


class _Skipped:
    """Replaces an object that no tensor needs: accepts arguments and state, and drops both."""

    def __new__(cls, *_: Any, **__: Any) -> "_Skipped":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if type(storage) is not Storage:
        raise pickle.UnpicklingError("a tensor has no storage")
    return Tensor(storage, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("collections", "Counter"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): name for name in DTYPES},
    **dict.fromkeys(_BESIDE, _Skipped),
}
_CALLED = (_Dict, _Skipped, _tensor, _parameter)


class _Limited:
    """A file with reads limited to its size, whatever length is requested."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(count)


# Python's Unpickler in C does not allow a check of keys.
class Unpickler(pickle._Unpickler):
    """Builds numbers, strings, containers, `Tensor`s and empty stand-ins, and refuses everything else.

    Args:
        file: positioned at the pickle; afterwards at its end.
        size: size of the whole file in bytes.

    Attributes:
        storages: all storages in the pickle, by their keys.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(_Limited(file, size), encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {f'{module}.{name}'[:_SHOWN]}, which tensors do not need: it is not loaded. Where it is "
                "a whole model, save its tensors: torch.save(model.state_dict(), FILE)"
            )
        return _KNOWN[module, name]

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"it asks for the extension {code}, which tensors do not need")

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) < 5:
            raise pickle.UnpicklingError("it has a storage of a kind that is not read")
        kind, name, key, _, count, *view = pid
        known = type(kind) is str and kind == "storage" and type(name) is str and name in DTYPES
        if not known or type(key) not in (str, int) or type(count) is not int or count < 0 or view not in ([], [None]):
            raise pickle.UnpicklingError("it has a storage of a kind that is not read")
        storage = Storage(str(key), DTYPES[name], count)
        return self.storages.setdefault(storage.key, storage)

    def _checked(self, load: Callable) -> None:
        """Calls the function that adds keys, after checking that all keys (every second item since the mark) hash
        quickly.
        """
        for key in self.stack[::2]:
            _check_key(key)
        load(self)

    def load_setitems(self) -> None:
        self._checked(pickle._Unpickler.load_setitems)

    def load_dict(self) -> None:
        self._checked(pickle._Unpickler.load_dict)

    def load_setitem(self) -> None:
        _check_key(self.stack[-2])
        if not isinstance(self.stack[-3], dict):
            raise pickle.UnpicklingError("an item is set of what is not a dictionary")
        pickle._Unpickler.load_setitem(self)

    def load_additems(self) -> None:
        self.pop_mark()  # sets stay empty, as tensors need none

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(frozenset())

    def load_build(self) -> None:
        self.stack.pop()  # a state, which none of these objects takes
        if type(self.stack[-1]) not in (_Dict, _Skipped):
            raise pickle.UnpicklingError("it changes what is not an object of its own")

    def load_reduce(self) -> None:
        if not any(self.stack[-2] is known for known in _CALLED) or type(self.stack[-1]) is not tuple:
            raise pickle.UnpicklingError("it calls what is not a function")
        pickle._Unpickler.load_reduce(self)

    def load_new(self) -> None:
        raise pickle.UnpicklingError("it makes an object in a way that tensors do not need")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind not in (_Dict, _Skipped) or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it makes an object of what is not a class")
        self.append(kind(*arguments) if kind is _Dict else kind())

    dispatch |= {
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BUILD[0]: load_build,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_new,
        pickle.INST[0]: load_new,
        pickle.OBJ[0]: load_new,
        pickle.BYTEARRAY8[0]: load_new,
    }
