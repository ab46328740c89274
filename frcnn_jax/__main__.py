"""The command `frcnn`, and `python -m frcnn_jax`: all commands under one name."""

import difflib
import importlib
import sys
import textwrap
from pathlib import Path

import frcnn_jax
from frcnn_jax.cli.output import ended_by_closed_output
from frcnn_jax.cli.run import run
from frcnn_jax.config import config_names

COMMANDS = {
    "inspect-data": "look at a folder of annotated images before training",
    "train": "train a detector, or resume a run, and evaluate it",
    "evaluate": "evaluate a checkpoint of a run on its test set",
    "detect": "find objects in images and videos",
    "proposals": "compute region proposals, measure their recall, draw them",
    "export": "write a detector as one file for use elsewhere",
    "compress": "compress a detector by truncated SVD",
    "convert-weights": "convert published weights",
    "compare": "train and test R-CNN, SPPnet and Fast R-CNN on the same data",
    "launch": "start several processes of train or evaluate that work as one",
    "demo-data": "make the demo's data set, scenes of handwritten digits",
}
USAGE = """usage: {program} COMMAND [OPTIONS]

Fast R-CNN in JAX.

commands:
{commands}

configs, for --config; or a file of yours with get_config():
{configs}

{program} COMMAND --help lists the options of a command.
"""


def main() -> None:
    """Runs the command named by the first argument with the remaining ones; lists the commands if there is none."""
    path = Path(sys.argv[0])
    program = "python -m frcnn_jax" if path.name == "__main__.py" else path.name
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        with ended_by_closed_output():
            print(_usage(program), end="")
    elif name == "--version":
        print(f"frcnn_jax {frcnn_jax.__version__}")
    elif name in COMMANDS:
        sys.argv = [f"{program} {name}", *arguments]
        command = importlib.import_module(f"frcnn_jax.commands.{name.replace('-', '_')}")
        run(command.main, getattr(command, "MEMORY_SETTINGS", ""))
    else:
        nearest = difflib.get_close_matches(name, COMMANDS, 1, 0)[0]
        print(f"{program}: no command {name!r}, the nearest is {nearest}; {program} --help lists them", file=sys.stderr)
        sys.exit(2)


def _usage(program: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    configs = textwrap.indent(textwrap.fill(" ".join(config_names()), 76), "  ")
    return USAGE.format(program=program, commands=commands, configs=configs)


if __name__ == "__main__":
    main()
