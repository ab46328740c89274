"""Box-target statistics, folded into the last layer or kept beside it.

A training checkpoint holds a `head/bbox_pred` with normalised deltas, and the statistics of the normalisation (section
2.3). Weights that need no statistics have them folded into that layer: its deltas are the offsets. A custom head names
that layer in `output_layers`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from frcnn_jax.types import BoxStatistics
from frcnn_jax.words import joined

_LAYER = "bbox_pred"


def fold_statistics(params: Mapping[str, Any], statistics: BoxStatistics, *, layer: str = _LAYER) -> dict[str, Any]:
    """Parameters with offsets as outputs, from parameters with deltas normalised by the statistics.

    Kernel [F, (K+1)*4] and bias of `head/bbox_pred` become kernel * std and bias * std + mean.

    Args:
        layer: the head's layer of offsets, the second of its `output_layers`.

    Raises:
        ValueError: the head has no such layer, or its number of classes differs from the statistics'.
    """
    arrays = flatten_dict(params, sep="/")
    check_layer(arrays, statistics, layer)
    return unflatten_dict(fold_arrays(arrays, statistics, layer), sep="/")


def unfold_statistics(params: Mapping[str, Any], statistics: BoxStatistics, *, layer: str = _LAYER) -> dict[str, Any]:
    """The inverse of `fold_statistics` up to rounding: to continue training from folded weights.

    Raises:
        ValueError: as `fold_statistics`.
    """
    inverse = BoxStatistics(mean=-statistics.mean / statistics.std, std=1 / statistics.std)
    return fold_statistics(params, inverse, layer=layer)


def check_layer(names: Collection[str], statistics: BoxStatistics, layer: str) -> None:
    """Raises ValueError if the statistics are not the identity and the layer to fold them into is not among `names`."""
    lost = {
        f"head/{layer}/kernel": lambda: bool(np.any(np.asarray(statistics.std) != 1)),
        f"head/{layer}/bias": lambda: bool(np.any(np.asarray(statistics.mean) != 0)),
    }
    absent = [name for name, matters in lost.items() if name not in names and matters()]
    if absent:
        raise ValueError(
            f"box statistics cannot be folded into a head without {joined(absent)}: set output_layers of the "
            f"head to the names of its layers of scores and offsets; it has {', '.join(head_layers(names))}"
        )


def head_layers(names: Collection[str]) -> list[str]:
    """The layers of the head among flat names of arrays."""
    return sorted({name.removeprefix("head/").rpartition("/")[0] for name in names if name.startswith("head/")})


def fold_arrays(arrays: Mapping[str, Any], statistics: BoxStatistics, layer: str = _LAYER) -> dict[str, Any]:
    """`fold_statistics` for arrays under flat names; those of the layer may be missing."""
    kernel, bias = f"head/{layer}/kernel", f"head/{layer}/bias"
    k1, _ = np.shape(statistics.std)
    for name in (kernel, bias):
        if name in arrays and arrays[name].shape[-1:] != (4 * k1,) and arrays[name].shape[-2:] != (k1, 4):
            raise ValueError(f"{name} {list(arrays[name].shape)} does not fit statistics of {k1} classes")
    folded = dict(arrays)
    if kernel in arrays:
        array = arrays[kernel]
        folded[kernel] = (array * _like(statistics.std, array)).astype(array.dtype)
    if bias in arrays:
        array = arrays[bias]
        std, mean = _like(statistics.std, array), _like(statistics.mean, array)
        folded[bias] = (array * std + mean).astype(array.dtype)
    return folded


def _like(values: Any, array: Any) -> Any:
    """Statistics [K1, 4] along the last axes of an array, [4 K1] or [K1, 4]."""
    last = (values.size,) if array.shape[-1] == values.size else values.shape
    return values.reshape((1,) * (array.ndim - len(last)) + last)
