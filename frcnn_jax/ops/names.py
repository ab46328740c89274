"""Names of the arrays of a tree."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """The name of an array by its path in a tree, as in "backbone/conv1_1/kernel"; items of lists by their number."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
