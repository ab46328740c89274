"""Configs as files and text: Python files and JSON."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import sys
import traceback
import types
import typing
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from frcnn_jax.config.checks import SettingError
from frcnn_jax.config.experiment import Config
from frcnn_jax.config.learning import TrainConfig
from frcnn_jax.config.nearest import nearest
from frcnn_jax.config.paths import expand_user

Settings = TypeVar("Settings")


_loading: ContextVar[tuple[Path, ...]] = ContextVar("_loading", default=())  # files, each derived from the next


class _CircleError(ValueError):
    """A config derives from itself. Its message names all files of the circle."""


def load_config(path: str | Path) -> Config:
    """The `Config` that a Python file returns from `get_config()`.

    Args:
        path: the file, `~` is expanded; or the name of a config that comes with the package, such as "voc07_vgg16".

    Raises:
        FileNotFoundError: no such file or name; lists the names.
        ImportError: it imports a module that is missing.
        ValueError: it has no `get_config`, `get_config` does not return a `Config`, a setting is wrong, its code raises
            an error, or it derives from itself; names the line, or the files of the circle.
    """
    path = _find_config(expand_user(path))
    loading = _loading.get()
    if path.resolve() in loading:
        circle = (*loading[loading.index(path.resolve()) :], path.resolve())
        raise _CircleError(f"{path} derives from itself: {' -> '.join(map(str, circle))}")
    token = _loading.set((*loading, path.resolve()))
    try:
        return _execute(path)
    finally:
        _loading.reset(token)


def _execute(path: Path) -> Config:
    """The config of an existing file; the errors of `load_config`."""
    if path.suffix != ".py":
        raise ValueError(f"{path}: a config is a .py file with get_config()")
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except _CircleError:
        raise
    except (TypeError, ValueError) as error:  # mostly a setting that is misspelt or out of range
        raise ValueError(f"{path}{_line(path, error)}: {error}") from error
    except ImportError as error:
        raise ImportError(f"{path}: {error}", name=error.name) from error
    except OSError:
        raise
    except Exception as error:  # the code of the file may do anything
        raise ValueError(f"{path}{_line(path, error)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a frcnn_jax Config")
    return config


def _line(path: Path, error: Exception) -> str:
    """The last line of the file that an error has passed; a syntax error names its own."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    return f", line {lines[-1]}" if lines else ""


def config_names() -> tuple[str, ...]:
    """Names of the configs that come with the package, for `load_config`."""
    return tuple(sorted(path.stem for path in _config_folder().glob("*.py") if path.stem != "__init__"))


def _config_folder() -> Path:
    """The folder `configs`: inside an installed package, beside the package in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _find_config(path: Path) -> Path:
    """The file at `path`, or the package's own config if `path` is a name."""
    names = config_names()
    if _is_name(path):
        if path.name in names:
            return _config_folder() / f"{path}.py"
        nearest = difflib.get_close_matches(path.name, names, 1)
        meant = f", the nearest is {nearest[0]}" if nearest else ""
        raise FileNotFoundError(
            f"no config is named {path}{meant}; there are {', '.join(names)}; a file of yours is given by its path, "
            f"as ./{path}.py"
        )
    if path.is_file():
        return path
    if path.stem in names:
        raise FileNotFoundError(f"no config file {path}; --config {path.stem} is the one that comes with frcnn_jax")
    listed = f"; those that come with frcnn_jax are {', '.join(names)}" if path.parent.name == "configs" else ""
    raise FileNotFoundError(f"no config file {path}{listed}")


def _is_name(path: Path) -> bool:
    return not path.suffix and path.parent == Path()


def derive(base: str | Path, beside: str, **sections: Any) -> Config:
    """The config of another file with some settings replaced, for a file that states only the differences.

    Configs are loaded by path, so they cannot import each other. Instead a config names its base: a file, relative to
    its own folder, or a config that comes with the package:

        def get_config() -> Config:
            return derive("voc07_vgg16", __file__, model={"name": "caffenet"}, train={"steps": 60_000})

    Args:
        base: file with `get_config()`, relative to the folder of `beside` unless absolute; or a name, as for
            `load_config`.
        beside: the deriving file, `__file__`.
        sections: as for `replace`.

    Raises:
        FileNotFoundError, ValueError: as `load_config` and `replace`.
    """
    base = expand_user(base)
    return replace(load_config(base if _is_name(base) else Path(beside).parent / base), **sections)


def replace(config: Settings, **sections: Any) -> Settings:
    """`config` with the settings of some sections replaced: `replace(config, model={"name": "tiny"}, plugins=("a",))`.

    Args:
        sections: for a section of settings, a mapping from names to values (also for nested sections) or a whole
            section; for a single setting, its value. `train.epochs` replaces `train.steps` and vice versa; both replace
            `train.min_steps`.

    Raises:
        ValueError: a name is not a setting (the nearest one is named, or all), or a value is out of range.
    """
    values = {}
    if isinstance(config, TrainConfig):
        sections = sections | replaced_length(sections)
    for name, value in sections.items():
        if name not in (known := [field.name for field in dataclasses.fields(config)]):
            near = nearest(name, known)
            meant = f"there are {', '.join(known)}" if near is None else f"did you mean {near!r}?"
            raise ValueError(f"no setting {name!r} in {type(config).__name__}; {meant}")
        section = getattr(config, name)
        if dataclasses.is_dataclass(section) and isinstance(value, Mapping):
            value = replace(section, **value)
        values[name] = value
    return dataclasses.replace(config, **values)


def replaced_length(given: Mapping[str, Any]) -> dict[str, int | None]:
    """The settings of the training's length that are replaced by another one among those given.

    Raises:
        SettingError: both are given.
    """
    lengths = [name for name in ("steps", "epochs") if given.get(name) is not None]
    if len(lengths) > 1:
        raise SettingError("train.steps and train.epochs exclude each other: give one of the two")
    if not lengths:
        return {}
    replaced = {"epochs": None} if lengths == ["steps"] else {"steps": None}
    return replaced if "min_steps" in given else replaced | {"min_steps": 0}


def to_json(config: Config) -> str:
    """`config` as JSON text that `from_json` reads back, without `distributed`, and with `data.verify` off: both belong
    to a start.
    """
    settings = dataclasses.asdict(config)
    settings.pop("distributed", None)
    settings["data"]["verify"] = False
    return json.dumps(settings, indent=2) + "\n"


def from_json(text: str) -> Config:
    """The `Config` written by `to_json`.

    Raises:
        ValueError: the text is not JSON, a field is not known to this version, or a value is invalid.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    return _decode(Config, content, "config")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """JSON back to the annotated type: lists to tuples, objects to dataclasses."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: settings by name are wanted, not {json.dumps(value)[:40]}")
        fields = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(fields))
        if unknown:
            raise ValueError(
                f"{where}: unknown settings {', '.join(unknown)}, misspelt or of another version of frcnn_jax"
            )
        needed = {field.name for field in dataclasses.fields(kind) if _is_needed(field)}
        if needed - set(value):
            raise ValueError(f"{where}: no {', '.join(sorted(needed - set(value)))}")
        return kind(**{name: _decode(fields[name], item, f"{where}.{name}") for name, item in value.items()})
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            count = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
            raise ValueError(f"{where} must be a list{count}, as [...], not {json.dumps(value)[:40]}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (types.UnionType, typing.Union) and value is not None:
        return _decode(next(k for k in arguments if k is not type(None)), value, where)
    return value


def _is_needed(field: dataclasses.Field) -> bool:
    """True for a field without a default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
