"""Checks of settings at construction: each raises a one-line `SettingError` that names the setting."""

import contextlib
import functools
import math
import numbers
import os
import types
import typing
from typing import Any

from frcnn_jax.config.paths import PathMark

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
            wanted = "finite" if value == math.inf else f"at least {bound}"
            raise SettingError(f"{section}.{name} must be {wanted}, not {value}")
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
    """Makes numbers int or float, paths text and tuples plain, so that JSON holds each value and gives back an equal
    one: NumPy's numbers, fractions and `Path`s are accepted.

    Raises:
        SettingError: a setting is not of its field's type: a choice, text, a number, a path, or a tuple.
    """
    for name, kind in _hints(type(settings)).items():
        value = getattr(settings, name)
        try:
            plain = _plain(value, kind)
        except TypeError:
            raise SettingError(f"{section}.{name} must be {_describe(kind)}, not {value!r}") from None
        object.__setattr__(settings, name, plain)  # the settings are frozen


@functools.cache
def _hints(settings: type) -> dict[str, Any]:
    return typing.get_type_hints(settings, include_extras=True)


def _plain(value: Any, kind: Any) -> Any:
    """The value as JSON holds it. Raises TypeError if it is not of the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        for choice in arguments:
            with contextlib.suppress(TypeError):
                return _plain(value, choice)
        raise TypeError
    if origin is tuple:
        open_ended = arguments[-1] is Ellipsis
        if not isinstance(value, tuple) or not (open_ended or len(value) == len(arguments)):
            raise TypeError
        return tuple(map(_plain, value, arguments[:1] * len(value) if open_ended else arguments))
    if origin is typing.Annotated:
        return _path(value, next(mark for mark in kind.__metadata__ if isinstance(mark, PathMark)))
    if kind in (int, float):
        return _number(value, kind)
    if not (value in arguments if origin is typing.Literal else isinstance(value, kind)):
        raise TypeError
    return value


def _number(value: Any, kind: type) -> int | float:
    """An integer as int, another number as float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        raise TypeError
    if isinstance(value, numbers.Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction; the checks of values refuse infinity
        return math.inf if value > 0 else -math.inf


def _path(value: Any, mark: PathMark) -> str:
    """A path that is not empty, as text; one that was not text stays a path where names are allowed too."""
    text = os.fspath(value)
    if not isinstance(text, str) or not text:
        raise TypeError
    may_be_name = mark.or_name and not os.path.dirname(text) and not text.startswith("~")
    return os.path.join(os.curdir, text) if may_be_name and not isinstance(value, str) else text


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
