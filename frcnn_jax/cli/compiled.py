"""The user's folder for compiled functions, which the next start of a command finds."""

import os
import stat
import sys
from pathlib import Path

from frcnn_jax.config.paths import user_folder

_CACHE_DIR = "JAX_COMPILATION_CACHE_DIR"
# JAX's own cache variables, which it reads on import.
_CACHE_SETTINGS = (_CACHE_DIR, "JAX_ENABLE_COMPILATION_CACHE")
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_compiled(program: str) -> None:
    """Makes JAX cache compiled functions in `cache_folder()`, unless its own cache variables are set.

    Called by commands only, before JAX is imported: a library should not change settings of the process. If the folder
    cannot be used, a line on stderr says so.
    """
    if any(name in os.environ for name in _CACHE_SETTINGS):
        return
    try:
        os.environ[_CACHE_DIR] = str(cache_folder())
    except (OSError, RuntimeError) as error:
        print(f"{program}: compiled functions are not kept for the next start: {error}", file=sys.stderr)
        return
    # Below JAX's own 1 s, so that the parts of detection are kept too.
    os.environ.setdefault(_LEAST_SECONDS, "0.1")


def cache_folder() -> Path:
    """The user's own folder for compiled functions, created if missing.

    JAX runs its files as machine code, so no other user may be able to write to it. Machines that share the folder do
    not run each other's code: the file names depend on the processor's features.

    Raises:
        OSError: it cannot be created, belongs to another user, or others can write to it.
        RuntimeError: the user has no home.
    """
    base = user_folder("XDG_CACHE_HOME", ".cache")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = base.resolve()
    for name in ("frcnn_jax", "compiled"):
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve()
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to another user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others can write to {folder} (mode {stat.S_IMODE(status.st_mode):o})")
    for parent in folder.parents:
        # If others may rename entries of the parent, the checked folder could be replaced before it is used.
        if parent.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise PermissionError(f"others can replace {folder}: all can write to {parent}")
    return folder
