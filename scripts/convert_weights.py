"""Converts published weights into a file of frcnn_jax: `python scripts/convert_weights.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.convert_weights import main

if __name__ == "__main__":
    run(main)
