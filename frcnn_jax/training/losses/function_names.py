"""Names that identify functions: one line, the same in every process of one version of Python.

module:function                    a function of a module
module:f.<locals>.<lambda>#3f5a    a lambda or a nested function; code, defaults and enclosed values as a hash
module:function(gamma=2.0)         a partial function; long settings and arrays as a hash
module:Class#3f5a                  a callable object; its attributes, slots and items as a hash
"""

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

_LONGEST = 60  # most characters of a setting, and of all settings, in a name
_DIGITS = 16


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function, with a hash where module and name do not identify it.

    The hash is of its code, defaults and enclosed values, not of globals or other functions that it calls. The code is
    Python's bytecode: another version of Python may give another name.
    """
    return _named(function, ())


def _named(function: Any, outer: tuple[int, ...]) -> str:
    """`function_name` inside what has the ids `outer`: a function may enclose itself."""
    if id(function) in outer:
        return "itself"
    outer = (*outer, id(function))
    if isinstance(function, functools.partial):
        settings = [_value(value, outer) for value in function.args]
        settings += [f"{name}={_value(value, outer)}" for name, value in function.keywords.items()]
        return f"{_named(function.func, outer)}({_short(', '.join(settings))})"
    if not hasattr(function, "__qualname__"):
        kind, attributes = type(function), getattr(function, "__dict__", {}) | _slots(function)
        parts = [_value(attributes, outer)] if attributes else []
        parts += [text for text in [_items(function, outer)] if text is not None]  # for example of a NamedTuple
        return f"{kind.__module__}:{kind.__qualname__}" + (_hash(*parts) if parts else "")
    name = f"{function.__module__}:{function.__qualname__}"
    if isinstance(function, types.MethodType):
        return f"{name}{_hash(_value(function.__self__, outer))}"
    plain = function if hasattr(function, "__code__") else inspect.unwrap(function)  # for example of jax.jit
    if "<" in function.__qualname__ and hasattr(plain, "__code__"):
        cells = [cell.cell_contents for cell in plain.__closure__ or () if not _is_empty(cell)]
        values = [plain.__defaults__, plain.__kwdefaults__, cells]
        return f"{name}{_hash(_code(plain.__code__), *(_value(value, outer) for value in values))}"
    return name


def _value(value: Any, outer: tuple[int, ...]) -> str:
    """One line for a value that a function depends on."""
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(jax.random.key_data(value) if _is_key(value) else value)
        return f"{value.dtype.name}{list(value.shape)}{_hash(np.ascontiguousarray(array).tobytes())}"
    if isinstance(value, types.ModuleType):
        return value.__name__
    if not callable(value):
        if id(value) in outer:
            return "itself"
        items = _items(value, (*outer, id(value)))
        if items is not None:
            return items
    if callable(value) or " at 0x" in repr(value):
        return _short(_named(value, outer))
    return _short(repr(value))


def _items(value: Any, outer: tuple[int, ...]) -> str | None:
    """One line for a number, a text or a collection; None for anything else."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return _short(repr(value))
    if isinstance(value, Mapping):
        return _short(f"{{{', '.join(f'{_value(k, outer)}: {_value(v, outer)}' for k, v in value.items())}}}")
    if isinstance(value, Set):
        return _short(f"{{{', '.join(sorted(_value(item, outer) for item in value))}}}")
    if isinstance(value, Sequence):
        items = ", ".join(_value(item, outer) for item in value)
        return _short(f"[{items}]" if isinstance(value, list) else f"({items})")
    return None


def _slots(value: Any) -> dict[str, Any]:
    """The values in the `__slots__` of an object's classes, by name."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            # As Python stores a private name.
            private = name.startswith("__") and not name.endswith("__")
            stored = f"_{kind.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, stored):
                found[stored] = getattr(value, stored)
    return found


def _code(code: types.CodeType) -> str:
    """The code of a function without its file and line."""
    constants = [_code(c) if isinstance(c, types.CodeType) else _value(c, ()) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _is_key(array: np.ndarray | jax.Array) -> bool:
    """True for keys of `jax.random.key`, which NumPy cannot hold."""
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _short(text: str) -> str:
    """The text itself, or its hash if it is long or has line breaks."""
    return text if len(text) <= _LONGEST and re.fullmatch(r".*", text) else _hash(text)


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%s," % (len(data), data))
    return f"#{digest.hexdigest()[:_DIGITS]}"
