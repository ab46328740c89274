"""`load_weights`: parameters for a model from a weight file of any known format, checked before use."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from frcnn_jax.models.architectures import ARCHITECTURES
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.models.heads import output_layers
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights.folding import check_layer, fold_arrays, head_layers, unfold_statistics
from frcnn_jax.weights.formats.base import Weights, outputs_pattern, read_named
from frcnn_jax.weights.formats.table import read_metadata, read_pixels, read_weights
from frcnn_jax.weights.params import expected_shapes, match_arrays, matcher
from frcnn_jax.weights.published import locate_weights
from frcnn_jax.weights.svd import LAYERS, stored_ranks
from frcnn_jax.words import joined

__all__ = ["fit_weights", "load_start", "load_weights", "read_metadata", "read_pixels", "without_heads"]

_log = logging.getLogger(__name__)


def load_weights(
    path: str | Path,
    model: FastRCNN,
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: Iterable[str] = (),
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Parameters for `model` that need no box statistics: if any, these are folded into `head/bbox_pred`.

    Use them for detection as `frcnn_jax.detect(model, params, image, boxes)`, without statistics. To continue training
    with statistics, unfold them: `unfold_statistics`. An ImageNet network has no `cls_score` and `bbox_pred`. They are
    drawn at random as in the paper (section 2.3), and so are fc6 and fc7 if missing; a line is logged.

    Args:
        path: "imagenet" for ImageNet weights in an installed package that the model's architecture names (`./imagenet`
            is a file or folder of that name); a `.safetensors` or `.npz` file of `frcnn export`; a run's workdir or its
            folder `checkpoints` (the best checkpoint of a run that was measured while it trained, else the newest); a
            `.caffemodel`, of ImageNet or a finished detector;
            torchvision's `vgg16`, `resnet18` or `resnet50` as `.pth` (a state dict, or the checkpoint of a training
            script that holds one; also named `.pt`, `.pth.tar`, `.bin` or `.ckpt`) or `.safetensors`; an
            EfficientNet-Lite's state dict as `.pth`; Keras's VGG16 as `.h5` or `.hdf5`, with and without its fully
            connected layers; or the file or folder that `frcnn convert-weights` writes.
        allow_missing: names, or regular expressions for whole names, of parameters that may be missing in the file;
            they are initialised at random.
        allow_extra: names or expressions of arrays that are left out. An array whose shape differs from the model's
            is replaced by a random one if both lists name it, as in
            `allow_missing=(new,), allow_extra=(new,)` with `new = "head/(cls_score|bbox_pred)/.*"`.
        key: draws missing parameters, and is required if there are any; for the heads of ImageNet networks it defaults
            to `jax.random.key(0)`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the file has an unknown format or is damaged; it holds another network; it has another pixel
            normalisation than `model.pixels`, another number of classes or other ranks; arrays are missing, left over
            or of another shape (the first of them are named); or a key is needed.
        ModuleNotFoundError: h5py is missing, which `.h5` needs.
    """
    path = locate_weights(path, getattr(model, "architecture", None))
    return fit_weights(
        path, read_weights(path, model), model, allow_missing=allow_missing, allow_extra=allow_extra, key=key
    )


def load_start(
    path: str | Path, model: FastRCNN, statistics: BoxStatistics, key: PRNGKeyArray, *, new_heads: bool = False
) -> dict[str, Any]:
    """Parameters to continue training from: if the file has heads, their deltas are normalised by `statistics`.

    Args:
        statistics: of the training set.
        key: draws heads that are missing in the file, or all heads with `new_heads`.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    path = locate_weights(path, getattr(model, "architecture", None))
    weights = read_weights(path, model)
    if new_heads:
        weights = without_heads(weights, model)
    params = fit_weights(path, weights, model, key=key)
    # New heads are drawn for normalised deltas, as in the paper.
    return unfold_statistics(params, statistics, layer=output_layers(model.head)[1]) if weights.has_heads else params


def without_heads(weights: Weights, model: FastRCNN) -> Weights:
    """The same weights without `cls_score` and `bbox_pred` of `model`.

    Raises:
        ValueError: the model's head has no such layers.
    """
    layers = head_layers(expected_shapes(model))
    absent = [layer for layer in output_layers(model.head) if layer not in layers]
    if absent:
        raise ValueError(
            f"model.new_heads draws {joined(output_layers(model.head))}, and the head has no "
            f"{' and no '.join(absent)}: set its output_layers to two of {', '.join(layers)}"
        )
    is_head = matcher("", [outputs_pattern(model)])
    arrays = {name: array for name, array in weights.arrays.items() if not is_head(name)}
    return dataclasses.replace(weights, arrays=arrays, has_heads=False)


def fit_weights(
    path: Path,
    weights: Weights,
    model: FastRCNN,
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: Iterable[str] = (),
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Parameters of `model` from the weights in the file at `path`; see `load_weights`."""
    missing, extra = ([names] if isinstance(names, str) else [*names] for names in (allow_missing, allow_extra))
    may_exceed = matcher("allow_extra", extra)
    _check_network(path, weights, model, matcher("allow_missing", missing), may_exceed)
    if weights.pixels != model.pixels:
        raise ValueError(
            f"{path} is for other pixels than the model, which has {model.pixels}: "
            f"create the model with pixels={weights.pixels}"
        )
    arrays, (scores, deltas) = weights.arrays, output_layers(model.head)
    if weights.statistics is not None:
        # Before the match, as arrays that are then drawn at random are not normalised by these statistics.
        if not {f"head/{deltas}/kernel", f"head/{deltas}/bias"} <= arrays.keys():
            try:
                check_layer(expected_shapes(model), weights.statistics, deltas)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        arrays = read_named(path, lambda _: fold_arrays(arrays, weights.statistics, deltas))
    drawn = [] if weights.has_heads else [scores, deltas]
    if not weights.has_heads:
        missing.append(outputs_pattern(model))
    if weights.drawn:
        missing += map(re.escape, weights.drawn)
        drawn = [*(layer for layer in head_layers(weights.drawn) if layer not in drawn), *drawn]
    if drawn:
        key = jax.random.key(0) if key is None else key
        _log.info("%s: loaded; only %s are new and start at random, as is usual before training", path, joined(drawn))
    bias = f"head/{scores}/bias"
    replaceable = may_exceed(bias) and matcher("allow_missing", missing)(bias)
    if bias in arrays and np.ndim(arrays[bias]) == 1 and not replaceable:
        count = len(arrays[bias])
        if count != model.head.num_classes:
            raise ValueError(
                f"{path} is for {count} classes, the model for {model.head.num_classes}, background included"
            )
    _check_ranks(path, arrays, model, may_exceed)
    return match_arrays(arrays, model, allow_missing=missing, allow_extra=extra, key=key, source=str(path))


def _check_network(
    path: Path, weights: Weights, model: FastRCNN, may_miss: Callable[[str], bool], may_exceed: Callable[[str], bool]
) -> None:
    """Raises ValueError if the file is known to hold another network than the model."""
    if weights.network in (None, model.architecture):
        return
    in_file = {name for name, array in weights.arrays.items() if np.ndim(array) == 4}
    in_model = {name for name, shape in expected_shapes(model).items() if shape.ndim == 4}
    if all(map(may_miss, in_model - in_file)) and all(map(may_exceed, in_file - in_model)):
        return
    if weights.network in ARCHITECTURES:
        advice = f": create the model by that name, in a config as --model.name {weights.network}"
    elif model.architecture in ARCHITECTURES:
        advice = f", which takes {ARCHITECTURES[model.architecture].weights or 'no published weights'}"
    else:
        advice = ""
    name = model.architecture or type(model.backbone).__name__
    raise ValueError(f"{path} holds {weights.network}, the model is {name}{advice}")


def _check_ranks(path: Path, arrays: Mapping[str, Any], model: FastRCNN, may_exceed: Callable[[str], bool]) -> None:
    """Raises ValueError if fc6 or fc7 is truncated to another rank than the model's, unless it may be left out."""
    expected = dict(zip(LAYERS, getattr(model.head, "ranks", (None, None)), strict=True))
    found = {
        layer: rank
        for layer, rank in stored_ranks(arrays).items()
        if rank != expected[layer]
        and not may_exceed(f"head/{layer}/kernel" if rank is None else f"head/{layer}_L/kernel")
    }
    if found:
        in_file, in_model = (
            joined(f"{layer} {'whole' if ranks[layer] is None else f'of rank {ranks[layer]}'}" for layer in found)
            for ranks in (found, expected)
        )
        arguments = ", ".join(f"{layer}_rank={rank}" for layer, rank in found.items())
        raise ValueError(
            f"{path} has {in_file}, the model {in_model}: create the model with {arguments}, in a config as "
            "model.fc6_rank and model.fc7_rank"
        )
