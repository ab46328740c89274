"""Checks of settings at construction: each raises a one-line `SettingError` that names the setting."""

import functools
import math
import numbers
import os
import types
import typing
from typing import Any

MOST_STEPS = 2**31 - 1  # the number of a step is int32
MOST_SECONDS = 10**9  # timeouts of Python and JAX end at 292 and 68 years
_LARGEST = 2**63 - 1  # of NumPy's and JAX's integers
_LARGEST_FLOAT = 3.4e38  # a larger number is infinite in float32


class SettingError(ValueError):
    """A setting has an invalid value."""


def at_least(settings: Any, section: str, **least: float) -> None:
    """Raises SettingError if a setting is below its bound, not a number, infinite in float32, or an integer of more
    than 64 bits; None is skipped.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not bound <= value < math.inf:
            raise SettingError(f"{section}.{name} must be at least {bound}, not {value}")
        at_most(settings, section, **{name: _LARGEST if isinstance(value, numbers.Integral) else _LARGEST_FLOAT})


def at_most(settings: Any, section: str, **most: float) -> None:
    """Raises SettingError if a setting is above its bound; None is skipped."""
    for name, bound in most.items():
        value = getattr(settings, name)
        if value is not None and value > bound:
            raise SettingError(f"{section}.{name} must be at most {bound}, not {value}")


def in_range(settings: Any, section: str, **ranges: tuple[float, float]) -> None:
    """Raises SettingError if a setting is outside its closed range, or not a number."""
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise SettingError(f"{section}.{name} must be in {least} ... {most}, not {value}")


def lengths(settings: Any, section: str, *names: str, allow_empty: bool = False) -> None:
    """Raises SettingError if a tuple holds a length below 1, or is empty."""
    for name in names:
        values = getattr(settings, name)
        if not (values or allow_empty) or min(values, default=1) < 1:
            raise SettingError(f"{section}.{name} must be lengths of at least 1, not {values}")


def kinds(settings: Any, section: str) -> None:
    """Raises SettingError if a setting is not of its field's type: a choice, text, a number, or a tuple.

    Numbers of NumPy and others become Python's, and `Path`s texts, as JSON holds no others.
    """
    for name, kind in _hints(type(settings)).items():
        value = getattr(settings, name)
        if not _fits(value, kind):
            raise SettingError(f"{section}.{name} must be {_describe(kind)}, not {value!r}")
        object.__setattr__(settings, name, _plain(value))


@functools.cache
def _hints(settings: type) -> dict[str, Any]:
    return typing.get_type_hints(settings, include_extras=True)


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, choice) for choice in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is typing.Annotated:  # a path
        return isinstance(value, str | os.PathLike)
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def _plain(value: Any) -> Any:
    """A number, path or tuple of these as JSON holds it; anything else unchanged."""
    if type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        items = arguments if arguments[-1] is not Ellipsis else arguments[:1]
        return f"a tuple of {', '.join(map(_describe, items))}"
    if origin is typing.Annotated:
        return "a path"
    return "None" if kind is types.NoneType else kind.__name__
