"""Measures speed, ours and that of PyTorch with torchvision, against what the device can do.

python scripts/benchmark.py [--only roi_pool train_step ...] [--peer-python PATH] [--out FILE.json]

Topics
    roi_pool    RoI max pooling alone, forward and backward; the peer's outputs are compared with ours first
    train_step  from 8-bit pixels to updated parameters
    test        the network on all proposals of an image, and on to detections
    input       JPEG files decoded, resized, mirrored and padded
    proposals   Selective Search

The peer runs in a process of its own, under an interpreter that imports torch and torchvision. A time is the median
of several samples, compilation not included; "floor" is the least that the device's peak rates allow for the
arithmetic and the bytes that cannot be avoided, and "of floor" how much of that is reached.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# The peer's process needs room on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

TOPICS = ("roi_pool", "train_step", "test", "input", "proposals")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    from bench.peer_process import PeerError

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
    measured = measure_rates(sizes, network_dtype())
    rates = dataclasses.replace(
        measured,
        **({} if options.tflops is None else {"flops": 1e12 * options.tflops}),
        **({} if options.bandwidth is None else {"bandwidth": 1e9 * options.bandwidth}),
    )
    print(f"Floors for {rates.flops / 1e12:.3g} TFLOP/s and {rates.bandwidth / 1e9:.3g} GB/s")

    rows = []
    for topic in options.only:
        print(f"Measuring {topic} ...", file=sys.stderr, flush=True)
        rows += _topic(topic)(options, sizes, rates, peer)
    print("\n" + table(rows))
    return {
        "command": ["benchmark.py", *options.command],
        "machine": machine,
        "peer": None if peer is None else dict(peer.versions),
        "rates": {**dataclasses.asdict(rates), "measured": dataclasses.asdict(measured)},
        "sizes": dataclasses.asdict(sizes),
        "rows": [row.to_json() for row in rows],
    }


def _topic(name: str) -> Callable:
    """Each topic's function of (options, sizes, rates, peer); imports no more than it needs."""
    if name == "roi_pool":
        from bench.roi_pool import measure_roi_pool

        return lambda options, sizes, rates, peer: measure_roi_pool(sizes, rates, peer)
    if name == "train_step":
        from bench.train_step import measure_train_step

        return lambda options, sizes, rates, peer: measure_train_step(sizes, rates, peer, options.models)
    if name == "test":
        from bench.detection import measure_test

        return lambda options, sizes, rates, peer: measure_test(sizes, rates, peer, options.models)
    if name == "input":
        from bench.input_pipeline import measure_input

        return lambda options, sizes, rates, peer: measure_input(sizes, peer, options.images)
    from bench.proposals import measure_proposals

    return lambda options, sizes, rates, peer: measure_proposals(sizes, options.images)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=TOPICS, metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument(
        "--models", nargs="+", default=["vgg16", "tiny"], help="for train_step and test; the peer has vgg16"
    )
    parser.add_argument(
        "--peer-python", metavar="PATH", help="interpreter with torch and torchvision; this one if not given"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--images", metavar="FOLDER", help="JPEG files for input and proposals; made up if not given")
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
