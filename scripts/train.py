"""Trains the detector of a config, and evaluates it: `python scripts/train.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.train import MEMORY_SETTINGS, main

if __name__ == "__main__":
    run(main, MEMORY_SETTINGS)
