"""Compresses a run's detector by truncated SVD: `python scripts/compress.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.compress import MEMORY_SETTINGS, main

if __name__ == "__main__":
    run(main, MEMORY_SETTINGS)
