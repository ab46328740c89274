"""Writes a checkpoint of a run as one file for use elsewhere: `python scripts/export.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.export import main

if __name__ == "__main__":
    run(main)
