"""Start and end of every command.

Bad input is reported in one line, without a traceback unless FRCNN_TRACEBACK=1 is set, and an interruption says how to
continue.
"""

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path

from frcnn_jax.cli.compiled import keep_compiled
from frcnn_jax.cli.output import ended_by_closed_output, prepare_stdout
from frcnn_jax.machine import restart_with_large_pages
from frcnn_jax.signals import ended_by_signals, exit_status, print_if_read

_EXHAUSTED = "RESOURCE_EXHAUSTED"  # begins the message of JAX's error
_TRACEBACK = "FRCNN_TRACEBACK"  # the variable that shows the traceback of an error
_PACKAGE = Path(__file__).parents[1]
_OURS = (_PACKAGE, _PACKAGE.parent / "scripts")
_INSTALLED = ("site-packages", "dist-packages")  # folders of libraries


def run(main: Callable[[], None], memory_settings: str = "") -> None:
    """Runs the `main` of a command, with large pages where the machine has them.

    Args:
        memory_settings: the command's settings that save memory when they are smaller, as in "input.scales and
            input.max_size"; named where the memory is too small.

    Exits with 1 and a line for bad input, with file and line if code outside this package raised the error, or for too
    little memory; with 130 for Ctrl-C, 143 for SIGTERM, and with 141 if nothing reads its output any more.
    """
    restart_with_large_pages()
    keep_compiled(_program())
    prepare_stdout()
    interrupted = f"\n{_program()}: interrupted; finished work is kept, and the same command finishes it"
    try:
        with ended_by_closed_output(), ended_by_signals(f"{interrupted}\n"):
            main()
    except TimeoutError as error:
        # The hanging reader thread would keep the process alive.
        try:
            _show_traceback()
            print_if_read(f"{_program()}: {error}")
        finally:
            os._exit(1)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        _show_traceback()
        sys.exit(f"{_program()}: {_without_number(error)}{_place(error)}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _EXHAUSTED not in str(error):
            raise
        _show_traceback()
        sys.exit(f"{_program()}: {_describe_memory(error, memory_settings)}")
    except KeyboardInterrupt as error:
        print_if_read(interrupted)
        sys.exit(exit_status(error))


def package_command(command: str) -> list[str]:
    """The start of the command line of a process that runs a command of this package.

    -P: a file in the current folder, such as one named tqdm.py, would take the place of an installed module.
    """
    return [sys.executable, "-P", "-m", "frcnn_jax", command]


def _without_number(error: Exception) -> str:
    """The message of an error; of the system's own errors file and reason, as in "runs/a: Read-only file system"."""
    if isinstance(error, OSError) and error.filename is not None and error.filename2 is None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _place(error: Exception) -> str:
    """The file and line that raised an error, libraries aside; empty if they are of this package."""
    library = Path(sysconfig.get_path("stdlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).absolute()
        if any(file.is_relative_to(folder) for folder in _OURS):
            return ""
        installed = file.is_relative_to(library) or any(name in file.parts for name in _INSTALLED)
        if not installed and not frame.filename.startswith("<"):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _show_traceback() -> None:
    """Prints the traceback of the present error if the user has asked for it."""
    if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        traceback.print_exc()


def _describe_memory(error: BaseException, settings: str) -> str:
    """The message about too little memory, on the host or on a device."""
    line = next(iter(str(error).strip().splitlines()), "").removeprefix(f"{_EXHAUSTED}: ")
    smaller = f"{settings} can be smaller, and " if settings else ""
    reason = f" ({line})" if line else ""
    return f"out of memory{reason}: {smaller}other programs may use the device; finished work is kept"


def _program() -> str:
    """Name of the command as typed: `train.py` or `frcnn train`."""
    return Path(sys.argv[0]).name
