"""A person's own modules: named in a config, imported wherever its run is used.

They register architectures and the like when they are imported. They are found as Python finds any module: installed,
or on PYTHONPATH; the current folder is searched last. Code never comes from the workdir of a run, which may have been
copied from anywhere, nor does such a workdir name code that is run: what its config names is imported where this user
has trained in that very folder with it, as `plugins.json` in the user's folder of state says, where the variable
FRCNN_PLUGINS names it, or where it is imported already.
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

_VARIABLE = "FRCNN_PLUGINS"  # names of modules, with commas between them


def load_plugins(names: Iterable[str], workdir: str | os.PathLike | None = None, *, from_workdir: bool = False) -> None:
    """Imports the modules, in order; those imported already stay as they are.

    Args:
        names: dotted names of modules, as in `my_trunks` or `my.trunks`.
        workdir: folder of the run that names them; none is imported from inside it.
        from_workdir: the names are those in the workdir, where they may be anybody's; otherwise a person gave them, and
            it is remembered that this user runs them for this workdir.

    Raises:
        PermissionError: a name in the workdir is not one that this user has given; says how to.
        ModuleNotFoundError: a module does not exist.
        ImportError: it lies in the workdir, or raises anything while it is imported; says what, and in which line.
        ValueError: a name is not that of a module.
    """
    names = tuple(names)
    if not names:
        return
    folder = None if workdir is None else Path(os.path.expanduser(workdir)).resolve()
    if from_workdir:
        _check_given(names, folder)
    elif folder is not None:
        _remember(names, folder)
    _search_current_folder(folder)
    for name in names:
        _load(name, folder)


def _check_given(names: Sequence[str], folder: Path) -> None:
    given = {*_remembered().get(str(folder), ()), *os.environ.get(_VARIABLE, "").split(",")}
    unknown = [name for name in names if name not in given and name not in sys.modules]
    if unknown:
        raise PermissionError(
            f"plugins: {folder} names {', '.join(unknown)}, with which it was not trained here, and code of others may "
            f"do anything. Where you trust it, put {_VARIABLE}={','.join(names)} before the command, or import it first"
        )


def _remember(names: Sequence[str], folder: Path) -> None:
    """Notes that this user runs the modules for a workdir; where nothing can be written, nothing is noted."""
    known = _remembered()
    if set(names) <= set(known.get(str(folder), ())):
        return
    known[str(folder)] = sorted({*names, *known.get(str(folder), ())})
    with contextlib.suppress(OSError, RuntimeError):
        write_text(_state(), json.dumps(known, indent=1) + "\n")


def _remembered() -> dict[str, list[str]]:
    """Names by workdir; none where there is no note, or a damaged one."""
    try:
        noted = json.loads(_state().read_text())
        return {str(folder): list(map(str, names)) for folder, names in noted.items()}
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):  # RecursionError is a RuntimeError
        return {}


def _state() -> Path:
    """The user's own note.

    Raises:
        RuntimeError: the user has no home.
    """
    configured = Path(os.environ.get("XDG_STATE_HOME", ""))
    # A relative path is to be ignored, says the XDG Base Directory Specification.
    base = configured if configured.is_absolute() else Path.home() / ".local/state"
    return base / "frcnn_jax/plugins.json"


def _search_current_folder(workdir: Path | None) -> None:
    """Appends the current folder to the import path, for good: a module may import others beside it later."""
    current = Path.cwd()
    if str(current) not in sys.path and not _inside(current, workdir):
        sys.path.append(str(current))


def _load(name: str, workdir: Path | None) -> None:
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"plugins: {name!r} is not the name of a module, as in my_trunks or my.trunks")
    # The packages around it too: to find a module in them, Python imports them.
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
        except (Exception, SystemExit) as error:  # code of others may do anything, `sys.exit` included
            missing = error.name if isinstance(error, ImportError) else None
            raise ImportError(f"plugins: {name} cannot be imported: {_describe(error)}", name=missing) from error


def _find(module: str) -> ModuleSpec | None:
    importlib.invalidate_caches()
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the module around it is not a package
        return None


def _describe(error: BaseException) -> str:
    """The error in one line, with its place: the last line of code that is not Python's own import system."""
    message = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return message
    kind = type(error).__name__
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    # A syntax error names its own place, where no code ran.
    place = "" if isinstance(error, SyntaxError) else f" ({lines[-1].filename}, line {lines[-1].lineno})"
    return f"{kind}: {message}{place}" if message else kind + place


def _inside(path: Path, folder: Path | None) -> bool:
    """True if the path, or what it links to, lies in the folder."""
    return folder is not None and any(p.is_relative_to(folder) for p in (path.absolute(), path.resolve()))
