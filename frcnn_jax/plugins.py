"""Plug-ins: the user's own modules, named in a config and imported wherever its run is used.

They register architectures, formats and so on when they are imported. They are found like any Python module: installed,
or on PYTHONPATH; the current folder is searched last. A workdir may have been copied from anywhere. So no code is
imported from inside it, and a module that its config names is imported only if (a) this user has trained with it in
that very folder, or compressed a run with it into that folder, as recorded in `plugins.json` in the user's state
folder, (b) the variable FRCNN_PLUGINS names it, or (c) it is imported already.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.config.paths import expand_user, user_folder
from frcnn_jax.locks import brief_lock

_VARIABLE = "FRCNN_PLUGINS"  # names of modules, separated by commas


def load_plugins(
    names: Iterable[str],
    workdir: str | os.PathLike | None = None,
    *,
    from_workdir: bool = False,
    remember: bool = True,
) -> None:
    """Imports the modules in order; already imported ones are left unchanged.

    Args:
        names: dotted names of modules, as in `my_trunks` or `my.trunks`.
        workdir: folder of the run that names them; modules inside it are not imported.
        from_workdir: the names come from the workdir and are not trusted; otherwise the user gave them, which is
            recorded for this workdir.
        remember: False records nothing: for names that another process has checked.

    Raises:
        PermissionError: a name in the workdir was never given by this user; the message says how to.
        ModuleNotFoundError: a module does not exist.
        ImportError: it lies in the workdir, or raises an error while it is imported; names the error and the line.
        ValueError: a name is not a module name.
    """
    names = tuple(names)
    if not names:
        return
    folder = None if workdir is None else expand_user(workdir).resolve()
    if from_workdir:
        _check_given(names, folder)
    elif folder is not None and remember:
        _remember(names, folder)
    _search_current_folder(folder)
    for name in names:
        _load(name, folder)


def _check_given(names: Sequence[str], folder: Path) -> None:
    named = (name.strip() for name in os.environ.get(_VARIABLE, "").split(","))
    given = {*_remembered().get(str(folder), ()), *named}
    unknown = [name for name in names if name not in given and name not in sys.modules]
    if unknown:
        raise PermissionError(
            f"plugins: {folder} names {', '.join(unknown)}, with which it was not trained here, and code of others may "
            f"do anything. Where you trust it, put {_VARIABLE}={','.join(names)} before the command, or import it first"
        )


def _remember(names: Sequence[str], folder: Path) -> None:
    """Records that this user runs the modules for a workdir; skipped if the record cannot be written."""
    if set(names) <= set(_remembered().get(str(folder), ())):
        return
    # Locked, as trainings that start together would each drop what the others record.
    with contextlib.suppress(OSError, RuntimeError), brief_lock(_state().with_suffix(".lock")):
        known = _remembered()
        known[str(folder)] = sorted({*names, *known.get(str(folder), ())})
        write_text(_state(), json.dumps(known, indent=1) + "\n")


def _remembered() -> dict[str, list[str]]:
    """Names by workdir; empty if the record is missing or damaged."""
    try:
        noted = json.loads(_state().read_text())
        return {str(folder): list(map(str, names)) for folder, names in noted.items()}
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):  # RecursionError is a RuntimeError
        return {}


def _state() -> Path:
    """The user's record of plug-ins.

    Raises:
        RuntimeError: the user has no home.
    """
    return user_folder("XDG_STATE_HOME", ".local/state") / "frcnn_jax/plugins.json"


def _search_current_folder(workdir: Path | None) -> None:
    """Appends the current folder to the import path permanently: a module may import its neighbours later."""
    current = Path.cwd()
    if str(current) not in sys.path and not _inside(current, workdir):
        sys.path.append(str(current))


def _load(name: str, workdir: Path | None) -> None:
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"plugins: {name!r} is not the name of a module, as in my_trunks or my.trunks")
    # Parent packages too: Python imports them to find a module inside.
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if module in sys.modules:
            continue
        spec = _find(module)
        if spec is None:
            raise ModuleNotFoundError(
                f"plugins: no module {name}: put its folder on PYTHONPATH, install it with pip, or start from its "
                "folder",
                name=name,
            )
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
        inside = [place for place in places if place and _inside(Path(place), workdir)]
        if inside:
            raise ImportError(f"plugins: {inside[0]} lies in the workdir {workdir}, from which nothing is imported")
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # foreign code may do anything, `sys.exit` included
            missing = error.name if isinstance(error, ImportError) else None
            raise ImportError(f"plugins: {name} cannot be imported: {_describe(error)}", name=missing) from error


def _find(module: str) -> ModuleSpec | None:
    importlib.invalidate_caches()
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the parent module is not a package
        return None


def _describe(error: BaseException) -> str:
    """The error in one line, with its place: the last line of code outside Python's import system."""
    message = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return message
    kind = type(error).__name__
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    # A syntax error names its own place.
    place = "" if isinstance(error, SyntaxError) else f" ({lines[-1].filename}, line {lines[-1].lineno})"
    return f"{kind}: {message}{place}" if message else kind + place


def _inside(path: Path, folder: Path | None) -> bool:
    """True if the path, or the target of its link, lies in the folder."""
    return folder is not None and any(p.is_relative_to(folder) for p in (path.absolute(), path.resolve()))
