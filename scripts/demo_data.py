"""Makes the demo's data set of handwritten digits: `python scripts/demo_data.py --help`."""

from frcnn_jax.cli.run import run
from frcnn_jax.commands.demo_data import main

if __name__ == "__main__":
    run(main)
