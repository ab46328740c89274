"""Start, options and end of every command.

Compiled functions are kept for the next start. `--help` fits the terminal. Bad input is reported in one line, without a
traceback unless FRCNN_TRACEBACK=1 is set, and an interruption says how to continue.
"""

import argparse
import contextlib
import difflib
import functools
import io
import os
import re
import select
import shutil
import stat
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from frcnn_jax.config.paths import expand_user, expand_user_or_name, user_folder
from frcnn_jax.machine import restart_with_large_pages
from frcnn_jax.signals import ended_by_signals, exit_status, print_if_read

_CACHE_DIR = "JAX_COMPILATION_CACHE_DIR"
# JAX's own cache variables, which it reads on import.
_CACHE_SETTINGS = (_CACHE_DIR, "JAX_ENABLE_COMPILATION_CACHE")
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_EXHAUSTED = "RESOURCE_EXHAUSTED"  # begins the message of JAX's error
_WIDEST = 100  # most columns of a help text, on any terminal
_TRACEBACK = "FRCNN_TRACEBACK"  # the variable that shows the traceback of an error
_PACKAGE = Path(__file__).parent
_OURS = (_PACKAGE, _PACKAGE.parent / "scripts")
_INSTALLED = ("site-packages", "dist-packages")  # folders of libraries
_CLOSED_OUTPUT = 141  # exit status of a process that SIGPIPE ends, as a shell states it


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
    _escape_unprintable()
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


@contextlib.contextmanager
def ended_by_closed_output() -> Iterator[None]:
    """A block after which the process ends without a message if nothing reads its standard output any more, as in
    `frcnn ... | head`.
    """
    try:
        yield
    except BrokenPipeError:
        if not _is_closed(sys.stdout):  # it is of another pipe
            raise
        sys.exit(_CLOSED_OUTPUT)
    finally:
        _flush(sys.stdout)
        _flush(sys.stderr)


def _is_closed(stream: TextIO | None) -> bool:
    """True if nothing reads a stream any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, AttributeError):  # without a file of the system
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _flush(stream: TextIO | None) -> None:
    """Flushes a stream; if nothing reads it any more, its output is dropped from then on."""
    try:
        if stream is not None:  # None: the process was started without it
            stream.flush()
    except BrokenPipeError:
        # Python would flush it once more at the end, and report the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


def _escape_unprintable() -> None:
    """Makes stdout escape what its encoding lacks, as a file name that is not UTF-8; stderr does so already."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _describe_memory(error: BaseException, settings: str) -> str:
    """The message about too little memory, on the host or on a device."""
    line = next(iter(str(error).strip().splitlines()), "").removeprefix(f"{_EXHAUSTED}: ")
    smaller = f"{settings} can be smaller, and " if settings else ""
    reason = f" ({line})" if line else ""
    return f"out of memory{reason}: {smaller}other programs may use the device; finished work is kept"


def _program() -> str:
    """Name of the command as typed: `train.py` or `frcnn train`."""
    return Path(sys.argv[0]).name


def package_command(command: str) -> list[str]:
    """The start of the command line of a process that runs a command of this package.

    -P: a file in the current folder, such as one named tqdm.py, would take the place of an installed module.
    """
    return [sys.executable, "-P", "-m", "frcnn_jax", command]


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser of a command's options, without abbreviations, so that config settings can be mixed with them.

    Args:
        description: paragraphs are filled to the width of the terminal, indented lines stay as they are.
    """
    parser = _Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    for kind in (expand_user, expand_user_or_name):
        parser.register("type", kind, functools.partial(_expanded, kind))
    return parser


def _expanded(expand: Callable[[str], Path | str], text: str) -> Path | str:
    """`expand(text)`; a ValueError becomes one whose message argparse prints."""
    try:
        return expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer of at least `least`."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {int(text)}")
        return int(text)

    integer.__name__ = "int"  # argparse names it where the text is no integer
    return integer


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a command, as `--checkpoint`."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


class _Parser(argparse.ArgumentParser):
    """A parser that names the option nearest to an unknown one."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search("unrecognized arguments: .*?(--[^ =]+)", message)
        nearest = difflib.get_close_matches(unknown[1], self._option_string_actions, 1) if unknown else []
        super().error(message + "".join(f"; the nearest to {unknown[1]} is {option}" for option in nearest))


class HelpFormatter(argparse.HelpFormatter):
    """Help that keeps the paragraphs of a docstring and adds the default of each option that has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, _WIDEST) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = re.split(r"\n\s*\n", text.strip())
        return "\n\n".join(
            textwrap.indent(part, indent)
            if part.startswith(" ")
            else textwrap.fill(part, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            for part in paragraphs
        )

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if any(default is without for without in (None, False, argparse.SUPPRESS)) or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {shown})"


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint` to the options of a command."""
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP",
        help="the checkpoint to use; if not given: best if the run was measured (train.evaluate_every), else latest",
    )


def root_option(parser: argparse.ArgumentParser, use: str) -> None:
    """Adds the setting `--data.root` to the options of a command, so that its help lists it; see `root_setting`."""
    help_text = f"folder of annotated images {use}; the config's if not given"
    parser.add_argument("--data.root", dest="root", metavar="FOLDER", help=help_text)


def root_setting(arguments: argparse.Namespace) -> list[str]:
    """The setting that `root_option` took out of the command line, to be given with the others."""
    return [] if arguments.root is None else ["--data.root", arguments.root]


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
