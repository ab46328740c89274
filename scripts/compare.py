"""Trains and tests R-CNN, SPPnet and Fast R-CNN on the same data: `python scripts/compare.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.compare import MEMORY_SETTINGS, main

if __name__ == "__main__":
    run(main, MEMORY_SETTINGS)
