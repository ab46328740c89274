"""Computes or reads the proposals of a config's data sets and draws some: `python scripts/proposals.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.proposals import main

if __name__ == "__main__":
    run(main)
