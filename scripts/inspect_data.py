"""Looks at a folder of annotated images before training: `python scripts/inspect_data.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.inspect_data import main

if __name__ == "__main__":
    run(main)
