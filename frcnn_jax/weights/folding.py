"""Box-target statistics inside the last layer or beside it.

A training checkpoint holds a `head/bbox_pred` whose deltas are normalised, and the statistics they are normalised by
(section 2.3). Weights that stand alone have the statistics folded into that layer: its deltas are the offsets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from frcnn_jax.types import BoxStatistics

_KERNEL, _BIAS = "head/bbox_pred/kernel", "head/bbox_pred/bias"


def fold_statistics(params: Mapping[str, Any], statistics: BoxStatistics) -> dict[str, Any]:
    """Parameters whose deltas need no statistics, from parameters whose deltas are normalised by them.

    Kernel [F, (K+1)*4] and bias of `head/bbox_pred` become kernel * std and bias * std + mean.

    Raises:
        ValueError: `head/bbox_pred` is not for the statistics' number of classes.
    """
    return unflatten_dict(fold_arrays(flatten_dict(params, sep="/"), statistics), sep="/")


def unfold_statistics(params: Mapping[str, Any], statistics: BoxStatistics) -> dict[str, Any]:
    """The inverse of `fold_statistics` up to rounding: to train on from weights that stand alone.

    Raises:
        ValueError: `head/bbox_pred` is not for the statistics' number of classes.
    """
    inverse = BoxStatistics(mean=-statistics.mean / statistics.std, std=1 / statistics.std)
    return fold_statistics(params, inverse)


def fold_arrays(arrays: Mapping[str, Any], statistics: BoxStatistics) -> dict[str, Any]:
    """`fold_statistics` for arrays under flat names, of which those of `head/bbox_pred` may be missing."""
    count = np.size(statistics.std)
    for name in (_KERNEL, _BIAS):
        if name in arrays and arrays[name].shape[-1:] != (count,):
            raise ValueError(f"{name} {list(arrays[name].shape)} does not fit statistics of {count // 4} classes")
    folded = dict(arrays)
    mean, std = statistics.mean.reshape(-1), statistics.std.reshape(-1)
    if _KERNEL in arrays:
        folded[_KERNEL] = (arrays[_KERNEL] * std[None]).astype(arrays[_KERNEL].dtype)
    if _BIAS in arrays:
        folded[_BIAS] = (arrays[_BIAS] * std + mean).astype(arrays[_BIAS].dtype)
    return folded
