"""Starts several processes of a command on this machine that work as one.

    frcnn launch --processes 8 train --config voc07_vgg16 --workdir FOLDER

Each gets an equal share of the GPUs, or of those in CUDA_VISIBLE_DEVICES. Ctrl-C and SIGTERM reach all of them; when
one dies, a line names it, and the others end. The exit status is 0, 130 after Ctrl-C or SIGTERM (143 if they have not
begun yet), or that of the process that failed: 137 for one that was killed by signal 9.
"""

import argparse
import sys

from frcnn_jax.cli.options import count, make_parser
from frcnn_jax.cli.run import package_command
from frcnn_jax.distributed.launch import launch

SHARED = ("train", "evaluate")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("-n", "--processes", required=True, type=count(1), metavar="N", help="number of processes")
    parser.add_argument("command", choices=SHARED, help=f"the command: {' or '.join(SHARED)}")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="its options and settings")
    arguments = parser.parse_args()
    command = [*package_command(arguments.command), *arguments.options]
    status = launch(command, arguments.processes)
    if status:
        sys.exit(status)
