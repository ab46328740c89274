"""Fully connected layers truncated to a rank, for faster detection (section 3.1, "Truncated SVD").

The paper's W [u, v] ~ U_t S_t V_t^T becomes a kernel [inputs, outputs] = W^T ~ (V_t S_t) U_t^T here: a first layer with
t outputs and no bias, and a second one with t inputs and the bias, with t (u + v) weights in total.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float

LAYERS = ("fc6", "fc7")
# Elements converted to double precision at once: 64 MiB.
_BLOCK = 1 << 23


def low_rank_factors(
    kernel: Float[np.ndarray, "V U"], rank: int
) -> tuple[Float[np.ndarray, "V T"], Float[np.ndarray, "T U"]]:
    """V_t S_t and U_t^T of the best approximation of a kernel with rank T, in the kernel's dtype.

    Their product is the kernel projected on the span of its leading singular vectors, and these are eigenvectors of
    the smaller of its two Gram matrices. So there is no division by a singular value, which may be zero or repeated,
    and only T singular vectors are computed.

    Raises:
        ValueError: the rank is not in 1 ... min(V, U), or a value is not finite.
    """
    kernel = np.asarray(kernel)
    inputs, outputs = kernel.shape
    if not 1 <= rank <= min(inputs, outputs):
        raise ValueError(f"rank {rank} is not in 1 ... {min(inputs, outputs)}: the layer is {inputs} x {outputs}")
    if outputs <= inputs:
        left_vectors = _leading_eigenvectors(kernel, rank)
        first, second = _product(kernel, left_vectors, kernel.dtype), left_vectors.T
    else:
        right_vectors = _leading_eigenvectors(kernel.T, rank)
        # W V_t = U_t S_t; a QR decomposition separates the factors.
        left_vectors, scale = np.linalg.qr(_product(kernel.T, right_vectors, np.float64))
        first, second = right_vectors @ scale.T, left_vectors.T
    return np.ascontiguousarray(first, kernel.dtype), np.ascontiguousarray(second, kernel.dtype)


def compress_head(
    params: Mapping[str, Any], *, fc6_rank: int | None = None, fc7_rank: int | None = None
) -> dict[str, Any]:
    """Parameters for `create_model(..., fc6_rank=fc6_rank, fc7_rank=fc7_rank)` from those of an uncompressed model.

    A layer with rank None is unchanged. With full ranks the model computes the same, up to rounding.

    Raises:
        ValueError: a rank does not fit its layer, the layer is compressed already, or the head does not have it.
    """
    head = dict(params["head"])
    for layer, rank in zip(LAYERS, (fc6_rank, fc7_rank), strict=True):
        if rank is None:
            continue
        if layer not in head:
            if f"{layer}_L" in head:
                raise ValueError(f"{layer} is compressed already")
            raise ValueError(f"the head has no layer {layer} to compress; it has {', '.join(sorted(head))}")
        whole = head.pop(layer)
        try:
            first, second = low_rank_factors(np.asarray(whole["kernel"]), rank)
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        head |= {f"{layer}_L": {"kernel": first}, f"{layer}_U": {"kernel": second, "bias": whole["bias"]}}
    return {**params, "head": head}


def stored_ranks(arrays: Mapping[str, Any]) -> dict[str, int | None]:
    """Ranks of fc6 and fc7 in arrays under flat names: None for an uncompressed layer, no entry for a missing one."""
    ranks = {}
    for layer in LAYERS:
        first = arrays.get(f"head/{layer}_L/kernel")
        if first is not None and np.ndim(first) == 2:
            ranks[layer] = np.shape(first)[1]
        elif first is None and f"head/{layer}/kernel" in arrays:
            ranks[layer] = None
    return ranks


def _leading_eigenvectors(matrix: Float[np.ndarray, "M N"], count: int) -> Float[np.ndarray, "N T"]:
    """The eigenvectors of matrix^T matrix with the largest eigenvalues, largest first, in double precision."""
    size = matrix.shape[1]
    gram = np.zeros((size, size), order="F")
    for _, block in _blocks(matrix):
        # Adds block^T block to the upper triangle in place, in half the time of a full product.
        gram = scipy.linalg.blas.dsyrk(1.0, block.T, beta=1.0, c=gram, overwrite_c=True)
    if not np.isfinite(gram).all():
        raise ValueError("a value is not finite")
    _, vectors = scipy.linalg.eigh(
        gram, lower=False, overwrite_a=True, check_finite=False, subset_by_index=(size - count, size - 1)
    )
    return vectors[:, ::-1]


def _product(matrix: Float[np.ndarray, "M N"], basis: Float[np.ndarray, "N T"], dtype: Any) -> Float[np.ndarray, "M T"]:
    """`matrix @ basis`, summed in double precision."""
    result = np.empty((matrix.shape[0], basis.shape[1]), dtype)
    for rows, block in _blocks(matrix):
        result[rows] = block @ basis
    return result


def _blocks(matrix: Float[np.ndarray, "M N"]) -> Iterator[tuple[slice, Float[np.ndarray, "B N"]]]:
    """The matrix in blocks of rows, in double precision."""
    count = max(_BLOCK // matrix.shape[1], 1)
    for start in range(0, matrix.shape[0], count):
        rows = slice(start, min(start + count, matrix.shape[0]))
        yield rows, np.ascontiguousarray(matrix[rows], np.float64)
