"""Trains the detector of a config twice, here and in plain PyTorch, and shows both losses step by step.

python scripts/same_training.py --config configs/folder.py --workdir runs/same --peer-python PATH [--steps 200]
    [--section.field VALUE ...]

The first is the training of scripts/train.py in WORKDIR, without dropout. PyTorch starts from the same exported
parameters, and gets the same recorded images and RoIs with their labels and boxes; network, loss, gradients and updates
are PyTorch's. WORKDIR/same_training/ gets losses.csv and losses.png and, with --keep, the recording, which
scripts/bench/same_training/recording.py describes. The schedule of the learning rate covers these steps.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frcnn_jax.cli.run import run
from frcnn_jax.config import Config, absolute_paths, expand_user, load_config, override, replace

if TYPE_CHECKING:  # modules that import JAX are imported when needed
    from bench.peer import Peer
    from bench.same_training.curves import Curves


def main(arguments: Sequence[str] | None = None) -> None:
    options, settings = _parse(arguments)
    config = override(load_config(options.config), settings, sys.argv[0])
    fixed = {"steps": options.steps, "log_every": 1, "evaluate_every": None, "patience": None}
    config = absolute_paths(replace(config, train=fixed, model={"dropout": 0.0}))
    from bench.peer import PeerError

    try:
        compare(config, options)
    except PeerError as error:
        raise ValueError(str(error)) from error


def compare(config: Config, options: argparse.Namespace) -> None:
    """Both trainings, the table and the files.

    Raises:
        ValueError: the PyTorch side lacks the network or loss, or the workdir holds a run with other settings or data.
        PeerError: the peer cannot run.
    """
    import jax
    from bench.peer import PeerError, find_peer
    from bench.same_training import curves
    from bench.same_training.recording import check_config, record
    from bench.sizes import Sizes

    from frcnn_jax.models.architectures import resolve_rules
    from frcnn_jax.plugins import load_plugins
    from frcnn_jax.training.loop import train

    check_config(config)
    load_plugins(config.plugins, options.workdir)
    config = resolve_rules(config)
    peer, about_peer = find_peer(options.peer_python, jax.devices()[0].platform, Sizes())
    if peer is None:
        raise PeerError(about_peer)
    print(about_peer)
    train(config, options.workdir)
    folder = options.workdir / "same_training"
    recording = folder / "recording"
    shutil.rmtree(recording, ignore_errors=True)
    recording.mkdir(parents=True)
    try:
        counts = record(config, recording, peer.device)
        ours = curves.read_run(options.workdir, options.steps, config.input.batch_size, counts)
        theirs = _train_peer(peer, recording, options.steps, "channels_last")
        again = _train_peer(peer, recording, options.steps, "NCHW") if options.rounding else None
    finally:
        if not options.keep:
            shutil.rmtree(recording, ignore_errors=True)
    print("\n" + curves.table(ours, theirs, again))
    curves.write_csv(folder / "losses.csv", ours, theirs)
    images, rois = config.input.batch_size, config.input.batch_size * config.sampling.rois_per_image
    curves.plot(folder / "losses.png", ours, theirs, f"{config.model.name}, {images} images and {rois} RoIs a step")
    print(f"\nWritten to {folder}: losses.csv, losses.png" + (", recording" if options.keep else ""))


def _train_peer(peer: "Peer", recording: Path, steps: int, layout: str) -> "Curves":
    from bench.peer import PeerError
    from bench.same_training.curves import collect
    from tqdm import tqdm

    form = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
    lines = peer.lines("bench.pytorch.training", str(recording), layout)
    rows = list(tqdm(lines, total=steps, desc=f"PyTorch, {layout}", bar_format=form))
    if len(rows) != steps:
        raise PeerError(f"the peer made {len(rows)} of {steps} steps")
    return collect(rows)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, type=expand_user, help="file with get_config()")
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    parser.add_argument(
        "--peer-python",
        type=os.path.expanduser,  # may be a command; `Path` would turn "./python" into one
        metavar="PYTHON",
        help="interpreter with torch and torchvision; this one if not given",
    )
    parser.add_argument("--steps", type=int, default=200, help="number of steps of both trainings")
    parser.add_argument(
        "--rounding",
        action="store_true",
        help="train in PyTorch again, in another memory layout: shows differences by rounding alone",
    )
    parser.add_argument("--keep", action="store_true", help="keep the recording, several MB per step, in the workdir")
    options, settings = parser.parse_known_args(arguments)
    lengths = [name for name in ("--train.steps", "--train.epochs") if any(s.startswith(name) for s in settings)]
    if lengths:
        parser.error(f"{lengths[0]}: the length is given by --steps")
    return options, settings


if __name__ == "__main__":
    run(main)
