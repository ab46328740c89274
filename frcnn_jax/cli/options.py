"""Options of commands: parsers, help that fits the terminal, and the options that several commands share."""

import argparse
import difflib
import functools
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from frcnn_jax.config.paths import expand_user, expand_user_or_name

_WIDEST = 100  # most columns of a help text, on any terminal


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
        # An empty list is the default of arguments of any number.
        unset = default == [] or any(default is value for value in (None, False, argparse.SUPPRESS))
        if unset or "default" in text:
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
