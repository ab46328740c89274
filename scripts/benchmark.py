"""Measures speed, ours and that of PyTorch with torchvision, against what the device can do.

python scripts/benchmark.py [--only roi_pool train_step ...] [--peer-python PATH] [--out FILE.json]

Topics
    roi_pool      RoI max pooling alone, forward and backward; the peer's outputs are compared with ours first
    train_step    from 8-bit pixels to updated parameters; losses and gradients are compared first
    test          the network on all proposals of an image, and on to detections; logits and offsets compared first
    input         JPEG files decoded, resized, mirrored and padded
    proposals     Selective Search
and, if named
    evaluate      from JPEG files and proposals to the detections of a data set
    buckets       a step in each padded size, and what one size for all images would cost
    start         first step of a process, with compiled programs at hand and without
    growth        time and memory of the parts as RoIs, proposals and classes grow
    model_growth  the same of a test and a step, as the image, the batch, RoIs and classes grow
    precision     loss in bfloat16 beside float32, and whether the same steps give the same bits

The peer runs in a process of its own, under an interpreter that imports torch and torchvision, in the fastest of its
variants; samples of ours and of the peer's are taken in turns. A time is the median of several samples, compilation
not included; "floor" is the least that the device's peak rates allow for the arithmetic and the bytes that cannot be
avoided, and "of floor" how much of that is reached. Freed memory stays with both processes (see bench/memory.py).
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.config import expand_user

# The peer's process needs room on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

USUAL = ("roi_pool", "train_step", "test", "input", "proposals")
TOPICS = (*USUAL, "evaluate", "buckets", "start", "growth", "model_growth", "precision")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    from bench.memory import keep_freed_memory
    from bench.peer_process import PeerError

    keep_freed_memory()
    try:
        document = run(options)
        if options.out is not None:
            _write(options.out, document)
            print(f"\nWritten to {options.out}")
    except (PeerError, ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"benchmark.py: {error}")


def run(options: argparse.Namespace) -> dict:
    """Measures what is asked for, prints a table as it goes and returns the JSON document."""
    import jax
    from bench.machine import describe_machine, measure_rates
    from bench.peer_process import find_peer
    from bench.result import table
    from bench.scene import network_dtype
    from bench.sizes import QUICK, Sizes

    sizes = QUICK if options.quick else Sizes()
    asked = {"min_runs": options.min_runs, "min_seconds": options.min_seconds}
    effort = dataclasses.replace(sizes.effort, **{name: value for name, value in asked.items() if value is not None})
    sizes = dataclasses.replace(sizes, effort=effort)
    machine = describe_machine()
    peer, about_peer = find_peer(options.peer_python, jax.devices()[0].platform, sizes)
    print(f"{machine['cpu']}, {machine['cores']} cores; {machine['devices']} x {machine['device_kind']}")
    print(about_peer)
    measured = measure_rates(sizes, network_dtype(), peer)
    rates = dataclasses.replace(
        measured,
        **({} if options.tflops is None else {"flops": 1e12 * options.tflops}),
        **({} if options.bandwidth is None else {"bandwidth": 1e9 * options.bandwidth}),
    )
    print(f"Floors for {rates.flops / 1e12:.3g} TFLOP/s and {rates.bandwidth / 1e9:.3g} GB/s")

    rows = []
    for topic in options.only:
        print(f"Measuring {topic} ...", file=sys.stderr, flush=True)
        rows += _measure(topic, options, sizes, rates, peer)
    if options.quick:  # the targets are for the real sizes
        rows = [dataclasses.replace(row, target=None) for row in rows]
    print("\n" + table(rows))
    return {
        "command": ["benchmark.py", *options.command],
        "machine": machine,
        "peer": None if peer is None else dict(peer.versions),
        "rates": {**dataclasses.asdict(rates), "measured": dataclasses.asdict(measured)},
        "sizes": dataclasses.asdict(sizes),
        "rows": [row.to_json() for row in rows],
    }


def _measure(topic: str, options: argparse.Namespace, sizes: Any, rates: Any, peer: Any) -> list:
    """The rows of a topic; imports no more than it needs."""
    if topic == "roi_pool":
        from bench.roi_pool import measure_roi_pool

        return measure_roi_pool(sizes, rates, peer)
    if topic == "train_step":
        from bench.train_step import measure_train_step

        return measure_train_step(sizes, rates, peer, options.models)
    if topic == "test":
        from bench.detection import measure_test

        return measure_test(sizes, rates, peer, options.models)
    if topic == "input":
        from bench.input_pipeline import measure_input

        return measure_input(sizes, peer, options.images)
    if topic == "proposals":
        from bench.proposals import measure_proposals

        return measure_proposals(sizes, options.images)
    if topic == "evaluate":
        from bench.end_to_end import measure_evaluation

        return measure_evaluation(sizes, options.models, options.images)
    if topic == "buckets":
        from bench.buckets import measure_buckets

        return measure_buckets(sizes, options.models, options.images)
    if topic == "start":
        from bench.start import measure_start

        return measure_start(sizes, options.models, options.quick)
    if topic == "growth":
        from bench.growth import measure_growth

        return measure_growth(sizes)
    if topic == "model_growth":
        from bench.model_growth import measure_model_growth

        return measure_model_growth(sizes, options.models)
    from bench.precision import measure_precision

    return measure_precision(sizes, options.models)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=USUAL, metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument(
        "--models",
        nargs="+",
        default=["vgg16", "tiny"],
        metavar="MODEL",
        help="networks of the topics that have one; the peer has vgg16, vgg_cnn_m_1024 and caffenet",
    )
    parser.add_argument(
        "--peer-python",
        type=expand_user,
        metavar="PATH",
        help="interpreter with torch and torchvision; this one if not given",
    )
    parser.add_argument("--out", type=expand_user, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--images",
        type=expand_user,
        metavar="FOLDER",
        help="JPEG files for input, proposals, evaluate and buckets; made up if not given",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, to see that everything runs")
    parser.add_argument("--min-runs", type=_positive(int), help="samples of each figure, at least")
    parser.add_argument("--min-seconds", type=_positive(float), help="seconds of measuring of each figure, at least")
    parser.add_argument("--tflops", type=_positive(float), help="peak of the device; measured if not given")
    parser.add_argument("--bandwidth", type=_positive(float), help="GB/s of its memory; measured if not given")
    options = parser.parse_args(arguments)
    options.command = list(sys.argv[1:] if arguments is None else arguments)
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out {options.out}: there is no folder {options.out.parent}")
    return options


def _positive(kind: type) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    positive.__name__ = f"positive {kind.__name__}"
    return positive


def _write(path: Path, document: dict) -> None:
    """The whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
