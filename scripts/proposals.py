"""Computes the region proposals of a config's data sets, or reads them from its files, and prints their recall.

python scripts/proposals.py --config configs/voc07_vgg16.py [--proposals.max_side 320 ...]
"""

import argparse
import logging
import sys
import time

from frcnn_jax.command import run
from frcnn_jax.config import load_config, override
from frcnn_jax.data.proposals import open_proposals, proposal_files, proposal_recall
from frcnn_jax.data.voc import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="file with get_config()")
    arguments, settings = parser.parse_known_args()
    config = override(load_config(arguments.config), settings, sys.argv[0])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    train_files, test_file = proposal_files(config.proposals, config.data.train)
    pairs = zip((*config.data.train, config.data.test), (*train_files, test_file), strict=True)
    for name, file in dict.fromkeys(pairs):
        dataset = open_dataset(name, config.data)
        start = time.monotonic()
        proposals = open_proposals(dataset, config.proposals, file)
        seconds = time.monotonic() - start
        count = sum(map(len, proposals))
        print(f"\n{name}: {len(proposals)} images, {count} proposals, {count / max(len(proposals), 1):.0f} an image")
        if proposals.computed:
            print(f"computed {proposals.computed} in {seconds:.1f} s, {proposals.computed / seconds:.2f} images/s")
        print_recall(proposal_recall(proposals, dataset.annotations, dataset.classes))


def print_recall(recall: dict) -> None:
    """A row for all objects and for each class, a column for each threshold."""
    print(f"{'recall at IoU':<20}" + "".join(f"{threshold:>8}" for threshold in recall))
    columns = list(recall.values())
    print(f"{'all objects':<20}" + "".join(f"{column['overall']:8.3f}" for column in columns))
    for name in columns[0]["per_class"]:
        print(f"  {name:<18}" + "".join(f"{column['per_class'][name]:8.3f}" for column in columns))


if __name__ == "__main__":
    run(main)
