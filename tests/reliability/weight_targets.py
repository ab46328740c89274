"""Readers of weight files, as `targets.py`; apart, because they import JAX."""

import functools
from pathlib import Path

import numpy as np
import safetensors.numpy

from frcnn_jax.config import Config
from frcnn_jax.models.pixels import CAFFE_PIXELS
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights import load, params
from frcnn_jax.weights.formats import keras, layers
from frcnn_jax.weights.formats.base import read_named
from frcnn_jax.weights.formats.table import read_weights, write_weights
from frcnn_jax.weights.load import fit_weights
from frcnn_jax.weights.metadata import NetworkMetadata, WeightsMetadata, from_json, to_json
from frcnn_jax.weights.params import expected_shapes
from tests.reliability.mutate import in_safetensors, in_zip
from tests.reliability.targets import Target
from tests.weights import caffe_files, torch_files
from tests.weights.networks import m_layers, small_m, small_vgg16, vgg16_layers

MODELS = {"m": small_m(), "vgg16": small_vgg16()}

# Readers ask for the shapes of the model each time, for which JAX traces it.
_shapes = {id(model): expected_shapes(model) for model in MODELS.values()}
for module in (layers, keras, load, params):
    module.expected_shapes = lambda model: _shapes[id(model)]


def _read(folder: Path, name: str, model: str, whole: bool = False) -> None:
    weights = read_weights(folder / name, MODELS[model])
    for array in weights.arrays.values():
        np.asarray(array)
    if whole:
        fit_weights(folder / name, weights, MODELS[model])


def _caffe(folder: Path) -> list[bytes]:
    found = m_layers()
    forms = {"packed": False, "unpacked": True, "pieces": False, "double": True}  # the old form of a layer or not
    return [caffe_files.encode_model(found, old, not old, values) for values, old in forms.items()]


def _pths(folder: Path, legacy: bool) -> list[bytes]:
    write = torch_files.WRITERS["legacy" if legacy else "zip"]
    state = {
        f"features.{place}.{part}": torch_files.Tensor(array)
        for place, name in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), vgg16_layers(heads=None), strict=False)
        for part, array in zip(("weight", "bias"), vgg16_layers(heads=None)[name], strict=True)
    }
    few = dict(list(state.items())[:4])
    wrapped = {"epoch": 3, "model": few, "args": {"lr": 0.1, "names": ["a"], "size": (1, 2)}}
    return [write(folder / "seed.pth", value).read_bytes() for value in (state, few, wrapped)]


def _own(folder: Path, suffix: str) -> list[bytes]:
    found = {name: np.ones(shape.shape, np.float32) for name, shape in _shapes[id(MODELS["m"])].items()}
    path = write_weights_once(folder / f"seed{suffix}", found)
    return [path.read_bytes()]


def write_weights_once(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    write_weights(path, arrays, NetworkMetadata("vgg_cnn_m_1024", CAFFE_PIXELS, 4, "a.caffemodel"), overwrite=True)
    return path


def _safetensors(folder: Path) -> list[bytes]:
    state = {
        f"features.0.{part}": np.ones((4, 3, 3, 3)[: 4 if part == "weight" else 1], np.float32)
        for part in ("weight", "bias")
    }
    safetensors.numpy.save_file(state, folder / "torch.safetensors", metadata={"format": "pt"})
    return [*_own(folder, ".safetensors"), (folder / "torch.safetensors").read_bytes()]


def _h5s(folder: Path) -> list[bytes]:
    from tests.weights.formats.keras_files import keras_layers, write_groups, write_variables

    found = keras_layers()
    few = {name: found[name] for name in list(found)[:3]}
    write_groups(folder / "a.h5", found)
    write_variables(folder / "b.h5", found)
    write_groups(folder / "c.h5", few)
    return [(folder / name).read_bytes() for name in ("a.h5", "b.h5", "c.h5")]


def _metadata(_: Path) -> list[bytes]:
    statistics = BoxStatistics(mean=np.zeros((3, 4), np.float32), std=np.ones((3, 4), np.float32))
    detector = WeightsMetadata(("cat", "dog"), CAFFE_PIXELS, statistics, 7, Config())
    return [to_json(detector).encode(), to_json(NetworkMetadata("tiny", CAFFE_PIXELS, None, "a.pth")).encode()]


def _read_metadata(folder: Path) -> None:
    read_named(folder / "metadata.json", lambda path: from_json(path.read_bytes()))


WEIGHT_TARGETS = {
    "caffemodel": Target("a.caffemodel", _caffe, functools.partial(_read, name="a.caffemodel", model="m")),
    "pth": Target(
        *("a.pth", functools.partial(_pths, legacy=False), functools.partial(_read, name="a.pth", model="vgg16")),
        repair=in_zip,
    ),
    "pth_legacy": Target(
        "a.pth", functools.partial(_pths, legacy=True), functools.partial(_read, name="a.pth", model="vgg16")
    ),
    "safetensors": Target(
        *("a.safetensors", _safetensors, functools.partial(_read, name="a.safetensors", model="m", whole=True)),
        repair=in_safetensors,
    ),
    "npz_weights": Target(
        *(
            "a.npz",
            functools.partial(_own, suffix=".npz"),
            functools.partial(_read, name="a.npz", model="m", whole=True),
        ),
        repair=in_zip,
    ),
    "metadata": Target("metadata.json", _metadata, _read_metadata, text=True),
    "h5": Target("a.h5", _h5s, functools.partial(_read, name="a.h5", model="vgg16"), starts=True),
}
