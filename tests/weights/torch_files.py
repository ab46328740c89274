"""Writes `.pth` files as `torch.save` does, in today's form and in the one before 1.6, without PyTorch."""

import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Tensor:
    """Pickled like a tensor on a storage of its own, which `shape` and `strides` may cover in part."""

    def __init__(self, array: np.ndarray, parameter: bool = False, old: bool = False):
        self.array, self.parameter, self.old = array, parameter, old


class Storage:
    def __init__(self, tensor: Tensor):
        self.tensor = tensor


@contextlib.contextmanager
def torch_names():
    """Modules that give pickles the names they would have with PyTorch; nobody calls what is in them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in ((torch, ("FloatStorage", "DoubleStorage", "LongStorage")), (utils, ())):
        for name in names:
            setattr(module, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch, utils
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dump(value, legacy: bool) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of a value with `Tensor`s in it, and their storages in the order of their keys."""
    storages: list[np.ndarray] = []
    file = io.BytesIO()
    with torch_names() as (torch, utils):

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Storage):
                    return None
                array = item.tensor.array
                names = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
                kind = getattr(torch, names[array.dtype.str[1:]])
                pid = ("storage", kind, str(len(storages)), "cpu", array.size)
                storages.append(array)
                return (*pid, None) if legacy else pid

            def reducer_override(self, item):
                if not isinstance(item, Tensor):
                    return NotImplemented
                strides = tuple(step // item.array.itemsize for step in item.array.strides)
                about = (Storage(item), 0, item.array.shape, strides)
                if item.old:
                    return utils._rebuild_tensor, about
                if item.parameter:
                    plain = Tensor(item.array)
                    return utils._rebuild_parameter, (plain, True, OrderedDict())
                return utils._rebuild_tensor_v2, (*about, False, OrderedDict())

        Pickler(file, protocol=2).dump(value)
    return file.getvalue(), storages


def raw(array: np.ndarray) -> bytes:
    """The numbers in the order in which they lie in memory."""
    return array.tobytes(order="A")


def write_zip(path: Path, value, extra: dict[str, bytes] | None = None, pickled: bytes | None = None) -> Path:
    content, storages = dump(value, legacy=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content if pickled is None else pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(storages):
            # torch.save fills up a local header's extra field so that numbers begin at multiples of 64.
            info = zipfile.ZipInfo(f"archive/data/{key}")
            info.extra = struct.pack("<HH", 0x4246, 21) + bytes(21)
            archive.writestr(info, raw(array))
        archive.writestr("archive/version", "3\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def write_legacy(path: Path, value, pickled: bytes | None = None, system: dict = SYSTEM) -> Path:
    content, storages = dump(value, legacy=True)
    keys = [str(key) for key in range(len(storages))][::-1]
    with path.open("wb") as file:
        for header in (MAGIC, VERSION, system):
            pickle.dump(header, file, protocol=2)
        file.write(content if pickled is None else pickled)
        pickle.dump(keys, file, protocol=2)
        for key in keys:
            file.write(struct.pack("<q", storages[int(key)].size) + raw(storages[int(key)]))
    return path


WRITERS = {"zip": write_zip, "legacy": write_legacy}
