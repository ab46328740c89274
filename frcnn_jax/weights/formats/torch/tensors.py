"""The tensors of a state dict by name, from `.pth` or from safetensors."""

from pathlib import Path

import numpy as np
import safetensors

from frcnn_jax.weights.formats.own import read_safetensors_names
from frcnn_jax.weights.formats.stored import Stored
from frcnn_jax.weights.formats.torch.state_dict import read_state_dict, read_state_names


def read_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a `.pth` or safetensors file, each read on access.

    Raises:
        ValueError: a `.pth` cannot be read, see `read_state_dict`.
        safetensors.SafetensorError: it is not a safetensors file, or damaged.
    """
    if path.suffix.lower() != ".safetensors":
        return read_state_dict(path)

    def stored(file: safetensors.safe_open, name: str) -> Stored:
        shape = tuple(file.get_slice(name).get_shape())

        def read() -> np.ndarray:
            with safetensors.safe_open(path, framework="numpy") as reopened:
                return reopened.get_tensor(name)

        return Stored(shape, read)

    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: stored(file, name) for name in file.keys()}  # noqa: SIM118


def read_names(path: Path) -> set[str]:
    """The names of `read_tensors`, none for this package's own safetensors files; with the same errors."""
    if path.suffix.lower() != ".safetensors":
        return read_state_names(path)
    names, is_ours = read_safetensors_names(path)
    return set() if is_ours else names
