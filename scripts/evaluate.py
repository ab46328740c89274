"""Evaluates a checkpoint of a run on its test set: `python scripts/evaluate.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.evaluate import MEMORY_SETTINGS, main

if __name__ == "__main__":
    run(main, MEMORY_SETTINGS)
