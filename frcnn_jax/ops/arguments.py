"""Checks of single arguments, in one line that names function, argument and value; traced values are not checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from frcnn_jax.ops.precision import as_array, as_int32


def is_traced(value: Any) -> bool:
    """True for an argument of a function that JAX is tracing: its values are unknown."""
    return isinstance(value, jax.core.Tracer)


def is_whole(value: Any) -> bool:
    """True for an integer of Python or NumPy; bools are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_share(function: str, name: str, value: Any) -> None:
    """Raises ValueError if a value is not one number in 0 ... 1."""
    fits = np.shape(value) == () if is_traced(value) else _is_number(value) and 0 <= value <= 1
    if not fits:
        raise ValueError(f"{function} takes {name} in 0 ... 1, not {value!r}")


def check_number(function: str, name: str, value: Any) -> None:
    """Raises TypeError if a value is not one number."""
    if not (np.shape(value) == () if is_traced(value) else _is_number(value)):
        raise TypeError(f"{function} takes {name} as a number, not {value!r}")


def check_weight(function: str, name: str, value: Any) -> None:
    """Raises TypeError if a value is not one number, ValueError if it is infinite, NaN or below 0."""
    check_number(function, name, value)
    if not is_traced(value) and not 0 <= value < np.inf:
        raise ValueError(f"{function} takes {name} as a finite number of at least 0, not {value!r}")


def check_scale(function: str, name: str, value: Any) -> None:
    """Raises ValueError if a value is not one finite number above 0, or is traced."""
    if is_traced(value):
        raise ValueError(f"{function} takes {name} as a Python number, not a traced one: bind it by functools.partial")
    if not _is_number(value) or not 0 < value < np.inf:
        raise ValueError(f"{function} takes {name} as a finite number above 0, not {value!r}")


def check_grid(function: str, name: str, value: Any) -> tuple[int, int]:
    """The rows and columns of a grid. Raises ValueError if they are not two whole numbers of at least 1."""
    sizes = tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value,)
    if len(sizes) != 2 or not all(is_whole(size) and size >= 1 for size in sizes):
        raise ValueError(f"{function} takes {name} as rows and columns of at least 1, not {value!r}")
    return int(sizes[0]), int(sizes[1])


def valid_part(function: str, name: str, size: Any, map_size: tuple[int, int]) -> Int[Array, "2"]:
    """Rows and columns of a map's valid part, at most those of the map; all of it if `size` is None.

    Raises:
        ValueError: the size is not two whole numbers.
    """
    if size is None:
        return jnp.array(map_size, jnp.int32)
    size = as_array(size)
    if size.shape != (2,) or not jnp.issubdtype(size.dtype, jnp.integer):
        raise ValueError(f"{function} takes {name} as two whole numbers, not {size.dtype}, {size.shape}")
    return jnp.minimum(as_int32(size), jnp.array(map_size, jnp.int32))


def check_integers(function: str, name: str, array: Any) -> None:
    """Raises ValueError if an array is of another dtype than integers."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f'{function} takes {name} as integers, not {array.dtype}: give .astype("int32") of them')


def _is_number(value: Any) -> bool:
    """True for a real number of Python, NumPy or JAX; bools are none."""
    if isinstance(value, bool | np.bool_) or np.shape(value) != ():
        return False
    return isinstance(value, int | float | np.number) or jnp.issubdtype(getattr(value, "dtype", object), jnp.number)
