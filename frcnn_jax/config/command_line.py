"""Settings on the command line, as `--train.steps 100`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from frcnn_jax.config.checks import SettingError
from frcnn_jax.config.files import replace, replaced_length
from frcnn_jax.config.nearest import nearest

Settings = TypeVar("Settings")


def override(
    config: Settings, arguments: Sequence[str], program: str | None = None, *, options: Iterable[str] = ()
) -> Settings:
    """`config`, or another settings dataclass, with command-line settings such as `--train.steps 100` applied.

    An unknown name or a value of the wrong type ends the program with a message that names the nearest setting.
    `--train.epochs` replaces the config's `train.steps` and vice versa; both replace `train.min_steps`.

    Args:
        options: the program's other options, as `--checkpoint`, which may be the nearest to an unknown name.

    Raises:
        ValueError: a value is out of range, or `train.steps` and `train.epochs` are both given.
    """
    import tyro

    program = program or Path(sys.argv[0]).name
    parse = functools.partial(tyro.cli, type(config), default=config, args=list(arguments), prog=program)
    hidden = io.StringIO()
    try:
        with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            parsed = parse()
        given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
        flags = {"steps": "--train.steps", "epochs": "--train.epochs", "min_steps": "--train.min-steps"}
        lengths = {name: getattr(parsed.train, name) for name, flag in flags.items() if flag in given}
        return replace(parsed, train=replaced_length(lengths)) if lengths else parsed
    except SystemExit as stopped:
        # tyro would wrap a constructor's error into a box of several lines.
        error = stopped.__context__
        while error is not None and not isinstance(error, SettingError):
            error = error.__cause__ or error.__context__
    if error is not None:
        raise SettingError(_with_full_names(str(error), config, arguments))
    unknown: Sequence[str] = ()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        unknown = parse(return_unknown_args=True)[1]
    _check_names(config, unknown, program, options)
    return parse()  # a second time, to print its messages


def _with_full_names(message: str, config: Any, arguments: Sequence[str]) -> str:
    """A message about settings of a nested section, which does not know its place, with names that can be typed.

    Of several sections of that kind it is the one that the arguments change.
    """
    known = [name for name, _ in _names(config)]
    given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in arguments}

    def complete(match: re.Match) -> str:
        name = match[0]
        places = [full.removesuffix(name) for full in known if full.endswith(f".{name}")]
        section = name.rpartition(".")[0]
        for meant in (
            [place for place in places if place + name in given],
            [place for place in places if any(other.startswith(f"{place}{section}.") for other in given)],
            places,
        ):
            if len(meant) == 1 and name not in known:
                return meant[0] + name
        return name

    return re.sub(r"[a-z_0-9]+(\.[a-z_0-9]+)+", complete, message)


def _check_names(config: Any, unknown: Sequence[str], program: str, options: Iterable[str]) -> None:
    """Ends the program with a line if one of the unknown arguments is near to a setting or an option."""
    names = [(f"--{name}".replace("_", "-"), of_files) for name, of_files in _names(config)]
    only_in_files = {name for name, of_files in names if of_files}
    known = [*options, *(name for name, _ in names)]
    for argument in unknown:
        name = argument.partition("=")[0].replace("_", "-")
        near = nearest(name, known) if name.startswith("--") else None
        if near is None:
            continue
        line = f"no setting {name}, the nearest is {near}" + (", which" if near in only_in_files else "")
        line = near if name == near else line
        print(f"{program}: error: {line}{' is set in a config file' * (near in only_in_files)}", file=sys.stderr)
        sys.exit(2)


def _names(config: Any) -> Iterator[tuple[str, bool]]:
    """Names of all settings, such as `train.steps`, and whether the command line does not have it: those of records."""
    kinds = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{field.name}.{name}", of_files) for name, of_files in _names(value))
        else:
            yield field.name, any(map(dataclasses.is_dataclass, typing.get_args(kinds[field.name])))
            if isinstance(value, bool):
                yield f"no_{field.name}", False
