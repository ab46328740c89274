"""Starts several processes of a command on this machine: `python scripts/launch.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.launch import main

if __name__ == "__main__":
    run(main)
