"""Parameters under flat names, as in files, and their strict match with a model's tree."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from frcnn_jax.models.fast_rcnn import FastRCNN, init_params
from frcnn_jax.words import listed

_LONGEST = 100  # letters of an array's name in a message
_LISTED = 10  # arrays of a kind of fault in a message


def expected_shapes(model: FastRCNN) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of the model's parameters under flat names, without computing them."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return flatten_dict(shapes, sep="/")


def _shown(name: str) -> str:
    """A name from a file, shortened and escaped for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_LONGEST])


def match_arrays(
    arrays: Mapping[str, Any],
    model: FastRCNN,
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: Iterable[str] = (),
    key: PRNGKeyArray | None = None,
    source: str = "the arrays",
) -> dict[str, Any]:
    """The model's parameters from arrays under flat names, each of exactly the right shape.

    Args:
        arrays: floating arrays of any precision; they get the dtype of the model's parameters.
        allow_missing: names, or regular expressions for whole names, of parameters that may be missing and are then
            initialised at random.
        allow_extra: names or expressions of arrays that may be left over. An array of another shape is both missing
            and left over: it is replaced by a random one if both lists name it.
        key: draws the missing parameters; needed if there are any.
        source: origin of the arrays, for messages.

    Raises:
        ValueError: any other array is missing, left over, of another shape, not floating or not finite (the first ten
            of each kind are named, the others counted); parameters that may be missing are, but no key is given; or an
            expression is invalid.
    """
    may_miss, may_exceed = matcher("allow_missing", allow_missing), matcher("allow_extra", allow_extra)
    expected = expected_shapes(model)
    missing = [name for name in expected if name not in arrays]
    extra = [name for name in arrays if name not in expected]
    common = [name for name in expected if name in arrays]
    misfits = [name for name in common if not _fits(arrays[name], expected[name])]

    replaced = {name for name in misfits if may_miss(name) and may_exceed(name)}
    faults = {
        "missing": [f"{name} {_form(expected[name])}" for name in missing if not may_miss(name)],
        "not in the model": [f"{_shown(name)} {_form(arrays[name])}" for name in extra if not may_exceed(name)],
        "of another form": [
            f"{name} is {_form(arrays[name])} where the model has {_form(expected[name])}"
            for name in misfits
            if name not in replaced
        ],
        "with values that are not finite": [
            name for name in common if name not in misfits and not np.isfinite(np.asarray(arrays[name])).all()
        ],
    }
    if any(faults.values()):
        faulty = "; ".join(f"{kind}: {listed(names, _LISTED)}" for kind, names in faults.items() if names)
        raise ValueError(f"{source} does not fit the model: {faulty}")

    absent = {*missing, *replaced}
    if absent and key is None:
        raise ValueError(
            f"a key is needed to initialise parameters that {source} does not have: {', '.join(sorted(absent))}"
        )
    random = _draw(model, absent, key) if absent else {}
    matched = {
        name: random[name] if name in absent else jnp.asarray(arrays[name], shape.dtype)
        for name, shape in expected.items()
    }
    return unflatten_dict(matched, sep="/")


def _draw(model: FastRCNN, names: set[str], key: PRNGKeyArray) -> dict[str, Any]:
    """The parameters of `init_params` with these names; the others are not computed."""

    def draw(key: PRNGKeyArray) -> dict[str, Any]:
        params = flatten_dict(init_params(model, key), sep="/")
        return {name: array for name, array in params.items() if name in names}

    return jax.jit(draw)(key)


def matcher(argument: str, patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that returns True if a whole name matches one of the patterns.

    Raises:
        ValueError: a pattern is not a regular expression; names the argument.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ValueError(f"{argument}: {error.pattern!r} is not a regular expression: {error}") from None
    return lambda name: any(pattern.fullmatch(name) is not None for pattern in compiled)


def _fits(array: Any, expected: jax.ShapeDtypeStruct) -> bool:
    return np.shape(array) == expected.shape and jnp.issubdtype(array.dtype, jnp.floating)


def _form(array: Any) -> str:
    """Dtype and shape, as in "float32 [3, 4]"."""
    return f"{jnp.dtype(array.dtype).name} {list(array.shape)}"
