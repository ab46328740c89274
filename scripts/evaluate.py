"""Evaluates the newest checkpoint of a run on its test set and writes WORKDIR/eval.

python scripts/evaluate.py --workdir runs/X [--section.field VALUE ...]
"""

import argparse
import sys

from frcnn_jax.command import run
from frcnn_jax.config import override


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    arguments, settings = parser.parse_known_args()

    from frcnn_jax.evaluation.detector import evaluate_run
    from frcnn_jax.evaluation.report import format_metrics
    from frcnn_jax.training.workdir import read_config

    config = override(read_config(arguments.workdir), settings, sys.argv[0])
    print(format_metrics(evaluate_run(arguments.workdir, config)))


if __name__ == "__main__":
    run(main)
