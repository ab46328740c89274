"""Compresses a run's detector by truncated SVD: `python scripts/compress.py --help`."""

from frcnn_jax.cli import run
from frcnn_jax.commands.compress import main

if __name__ == "__main__":
    run(main)
