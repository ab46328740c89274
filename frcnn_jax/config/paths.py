"""Settings that are paths: declared by their type in the dataclasses, made absolute when a run starts."""

import dataclasses
import os
import re
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar


@dataclasses.dataclass(frozen=True)
class PathMark:
    """Marks the type of a setting as a path.

    With `or_name` the text may also be a name: it is a path if it exists, or has a separator or a suffix. A text in
    `names` is always a name.
    """

    or_name: bool = False
    names: tuple[str, ...] = ()

    def applies(self, value: str | os.PathLike) -> bool:
        """True if the text is a path, or if it is not a text."""
        if not isinstance(value, str):
            return True
        if value in self.names:
            return False
        separated = os.sep in value or value.startswith("~")
        return not self.or_name or separated or bool(Path(value).suffix) or Path(value).exists()


IMAGENET = "imagenet"  # instead of a file: the weights in an installed package

PathText = Annotated[str, PathMark()]
WeightsText = Annotated[str, PathMark(or_name=True, names=(IMAGENET,))]

Settings = TypeVar("Settings")


def expand_user(path: str | os.PathLike) -> Path:
    """The path with a leading `~` or `~user` replaced by the home folder.

    Raises:
        ValueError: the path is empty.
        FileNotFoundError: the user does not exist, or it is an address on the web.
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("the path is empty; the current folder is .")
    if re.match("https?:/", text):
        raise FileNotFoundError(f"{text} is not a file: download it first, and give its path")
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        user = text[1:].partition(os.sep)[0]
        reason = f"there is no user {user}" if user else "there is no home folder, HOME is not set"
        raise FileNotFoundError(f"{text}: {reason}; give the path from / on")
    return Path(expanded)


def expand_user_or_name(text: str) -> Path | str:
    """`expand_user` of a path; the text "imagenet" is left unchanged."""
    return text if text == IMAGENET else expand_user(text)


def user_folder(variable: str, default: str) -> Path:
    """The folder that a variable of the XDG Base Directory Specification names, or `default` in the home.

    Raises:
        RuntimeError: the user has no home.
    """
    configured = Path(os.environ.get(variable, ""))
    # The specification says to ignore a relative path.
    return configured if configured.is_absolute() else Path.home() / default


def absolute_paths(config: Settings) -> Settings:
    """`config` with every setting that is a path expanded (`~`) and made absolute from the current folder.

    A run stores its settings this way, to find its data from any folder.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    return dataclasses.replace(
        config,
        **{
            field.name: _absolute(getattr(config, field.name), hints[field.name])
            for field in dataclasses.fields(config)
        },
    )


def _absolute(value: Any, kind: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return absolute_paths(value)
    if isinstance(value, tuple):
        items = typing.get_args(kind)[:1] * len(value)
        return tuple(_absolute(item, item_kind) for item, item_kind in zip(value, items, strict=True))
    mark = _mark(kind)
    if value is None or mark is None or not mark.applies(value):
        return value
    return str(expand_user(value).absolute())


def _mark(kind: Any) -> PathMark | None:
    """The mark of an annotated type, optional or not."""
    if typing.get_origin(kind) is Annotated:
        return next((mark for mark in kind.__metadata__ if isinstance(mark, PathMark)), None)
    return next(filter(None, map(_mark, typing.get_args(kind))), None)
