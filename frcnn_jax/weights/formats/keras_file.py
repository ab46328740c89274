"""The arrays of a Keras `.h5` file, read in a separate process that runs this file.

On some damaged files the HDF5 library hangs, and on others it ends the process. So the process gets limits of time and
memory. It writes a line of JSON that describes the arrays to its standard output, then their numbers, one array after
the other. It imports only h5py and NumPy, to start in a fraction of a second.

There are two layouts. The older one, of Keras 1 and 2 and of Keras 3's `model.save("a.h5")`, has a group for each
layer, under `model_weights` or at the root, whose attribute `weight_names` lists its arrays: kernel, then bias. Keras
3's `.weights.h5` has them as `vars/0` and `vars/1` below `layers`, also for nested layers. The attribute `name` of
`vars` is the layer's name; files of the first versions lack it.
"""

import contextlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

CONVOLUTION = re.compile(r"block([1-5])_conv([1-4])")
CONVOLUTIONS = {
    network: [f"block{block}_conv{i}" for block, count in enumerate(counts, start=1) for i in range(1, count + 1)]
    for network, counts in {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}.items()
}
FULLY_CONNECTED = {"fc1": "head/fc6", "fc2": "head/fc7"}
LEFT = re.compile(r"predictions|dsn[1-5]|fuse")
_PARTS = ("kernel", "bias")
_RATIO = 1032  # the highest compression ratio of deflate
_SECONDS, _BYTES_A_SECOND = 5, 20_000_000  # processor time; least reading speed
_PATIENCE = 20  # wall time for each second of processor time
_MEMORY = 1 << 30  # bytes besides the file itself
_CHUNK = 1 << 24

Layers = dict[str, dict[str, np.ndarray]]


def read_layers(path: Path, empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty) -> Layers:
    """Arrays of each layer by part: kernel, bias and, by number, any others; layers in `LEFT` are skipped.

    Args:
        empty: allocates an array of a shape and dtype.

    Raises:
        ValueError: it is not an HDF5 file, or damaged; one line, without the file's name.
    """
    seconds = _SECONDS + path.stat().st_size // _BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, str(path), str(seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        clock = threading.Timer(seconds * _PATIENCE, child.kill)
        clock.start()
        try:
            found = _received(child.stdout, empty)
        except (ValueError, EOFError):
            found = None
        finally:
            clock.cancel()
            child.kill()
    if isinstance(found, str):
        raise ValueError(found)
    if found is None:
        code = child.returncode
        by = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise ValueError(f"it is damaged: the process that read it ended too early ({by})")
    return found


def _received(stream: IO[bytes], empty: Callable) -> Layers | str:
    """The arrays from the other process's output, or the error that it reports."""
    header = json.loads(stream.readline())
    if "error" in header:
        return header["error"]
    layers: Layers = {layer: {} for layer in header["layers"]}
    for layer, part, dtype, shape in header["arrays"]:
        array = layers[layer][part] = empty(tuple(shape), np.dtype(dtype))
        if array.size and stream.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
            raise EOFError
    return layers


def _write(path: Path, stream: IO[bytes]) -> None:
    """Writes the arrays of a file; raises h5py's errors."""
    import h5py

    with h5py.File(path, "r") as file:
        layers = dict(_layers(file))
        arrays = [
            (layer, part, array)
            for layer, parts in layers.items()
            if not LEFT.fullmatch(layer)
            for part, array in parts.items()
        ]
        for layer, _, array in arrays:
            _check(path, layer, array)
        about = [(layer, part, array.dtype.newbyteorder("=").str, array.shape) for layer, part, array in arrays]
        stream.write(json.dumps({"layers": list(layers), "arrays": about}).encode() + b"\n")
        for _, _, array in arrays:
            content = np.empty(array.shape, array.dtype.newbyteorder("="))
            if content.size:
                array.read_direct(content)
            stream.write(content.reshape(-1).view(np.uint8))
    stream.flush()


def _layers(file: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Layers with arrays: kernel, bias and, by number, any others."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        for layer in map(_text, root.attrs["layer_names"]):
            names = list(map(_text, root[layer].attrs.get("weight_names", ())))
            if names:
                yield layer, _parts(root[layer][name] for name in names)
        return
    found = []

    def visit(name: str, item: Any) -> None:
        if name.endswith("/vars") and not name.startswith("optimizer/") and len(item):
            found.append((name.removesuffix("/vars"), item))

    file.visititems(visit)
    # The order in the file is conv2d, conv2d_1, conv2d_10, conv2d_2.
    found.sort(key=lambda pair: [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", pair[0])])
    named = [(_layer_name(name, item), _parts(item[key] for key in sorted(item, key=int))) for name, item in found]
    yield from named if any(CONVOLUTION.fullmatch(layer) for layer, _ in named) else _named_by_order(named)


def _named_by_order(layers: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers under VGG16's names if there are as many 3 x 3 convolutions, else unchanged."""
    kernels = [parts["kernel"].shape for _, parts in layers]
    convolutions, dense = iter(CONVOLUTIONS["vgg16"]), iter((*FULLY_CONNECTED, "predictions"))
    if (
        sum(shape[:2] == (3, 3) for shape in kernels) != len(CONVOLUTIONS["vgg16"])
        or sum(len(shape) == 2 for shape in kernels) > 3
    ):
        yield from layers
        return
    for (layer, parts), shape in zip(layers, kernels, strict=True):
        names = dense if len(shape) == 2 else convolutions if shape[:2] == (3, 3) else None
        yield next(names) if names else layer, parts


def _layer_name(path: str, variables: Any) -> str:
    """The layer's name if it is one of VGG16's, else its path."""
    name = _text(variables.attrs.get("name", ""))
    is_known = CONVOLUTION.fullmatch(name) or name in FULLY_CONNECTED or LEFT.fullmatch(name)
    return name if is_known else path


def _parts(arrays: Iterable[Any]) -> dict[str, Any]:
    return {_PARTS[i] if i < len(_PARTS) else str(i): array for i, array in enumerate(arrays)}


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _check(path: Path, layer: str, stored: Any) -> None:
    """Checks an array.

    Raises:
        ValueError: it is not an array of numbers, or its numbers are not all in this file.
    """
    shape, dtype = getattr(stored, "shape", None), getattr(stored, "dtype", None)
    if shape is None or dtype is None or dtype.kind not in "fiu":
        raise ValueError(f"what {layer} has is not an array of numbers")
    # HDF5 follows links to any other file, and reads missing numbers as zeros.
    if stored.is_virtual or stored.external or Path(stored.file.filename) != path:
        raise ValueError(f"the numbers of {layer} are in another file")
    size = math.prod(shape) * dtype.itemsize
    most = stored.id.get_storage_size() * (1 if stored.compression is None else _RATIO)
    if size > most:
        raise ValueError(f"the numbers of {layer} are not there: {most} bytes for the shape {list(shape)}")


def _limit(path: Path, seconds: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # if the system has other limits, or none
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with contextlib.suppress(ValueError, OSError):
        most = 2 * path.stat().st_size + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Writes the arrays of the file in the first argument, within the seconds in the second."""
    path, stream = Path(sys.argv[1]), os.fdopen(os.dup(1), "wb", buffering=_CHUNK)
    import h5py  # noqa: F401  - needs more addresses than the file

    _limit(path, int(sys.argv[2]))
    try:
        _write(path, stream)
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        stream.write(json.dumps({"error": f"it is damaged, or not of Keras: {reason}"}).encode() + b"\n")
        stream.flush()


if __name__ == "__main__":
    main()
