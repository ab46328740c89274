"""Finds objects in images with a trained detector: `python scripts/detect.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.detect import main

if __name__ == "__main__":
    run(main)
