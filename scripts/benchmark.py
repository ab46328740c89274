"""Measures the speed of this package and of PyTorch with torchvision, and compares both with the device's peak.

python scripts/benchmark.py [--only roi_pool train_step ...] [--peer-python PATH] [--out FILE.json]

TOPICS

PyTorch (the peer) runs in a separate process, under an interpreter with torch and torchvision, in its fastest variant;
samples alternate between both. A time is the median of several samples, without compilation. "floor" is the least time
that the device's peak rates allow for the unavoidable arithmetic and bytes, and "of floor" the share that is reached.
Both processes keep freed memory (see bench/memory.py).
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from frcnn_jax.config import expand_user

# The peer's process needs room on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    from bench.memory import keep_freed_memory
    from bench.peer import PeerError

    from frcnn_jax.atomic import write_text

    keep_freed_memory()
    try:
        for document in run(options):
            if options.out is not None:
                write_text(options.out, json.dumps(document, indent=1) + "\n")
        if options.out is not None:
            print(f"\nWritten to {options.out}")
    except (PeerError, ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"benchmark.py: {error}")


def run(options: argparse.Namespace) -> Iterator[dict]:
    """Measures topic by topic, prints the table of each and yields the JSON document of all so far."""
    import jax
    from bench.machine import describe_machine, measure_rates
    from bench.peer import find_peer
    from bench.result import table
    from bench.scene import network_dtype
    from bench.sizes import QUICK, Sizes
    from bench.topics import Setup, measure_function

    sizes = QUICK if options.quick else Sizes()
    minima = {"min_runs": options.min_runs, "min_seconds": options.min_seconds}
    effort = dataclasses.replace(sizes.effort, **{name: value for name, value in minima.items() if value is not None})
    sizes = dataclasses.replace(sizes, effort=effort)
    machine = describe_machine()
    if options.no_peer:
        peer, about_peer = None, "No peer: --no-peer"
    else:
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

    setup = Setup(sizes, rates, peer, options.models, options.images, options.quick)
    rows = []
    for topic in options.only:
        print(f"Measuring {topic} ...", file=sys.stderr, flush=True)
        measured_rows = measure_function(topic)(setup)
        if options.quick:  # targets are for the real sizes
            measured_rows = [dataclasses.replace(row, target=None) for row in measured_rows]
        print("\n" + table(measured_rows), flush=True)
        rows += measured_rows
        yield {
            "command": ["benchmark.py", *options.command],
            "machine": machine,
            "peer": None if peer is None else dict(peer.versions),
            "rates": {**dataclasses.asdict(rates), "measured": dataclasses.asdict(measured)},
            "sizes": dataclasses.asdict(sizes),
            "rows": [row.to_json() for row in rows],
        }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    from bench.topics import TOPICS, describe_topics, usual_topics

    description = __doc__.replace("TOPICS", describe_topics())
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(TOPICS),
        default=usual_topics(),
        metavar="TOPIC",
        help=", ".join(TOPICS),
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=["vgg16", "tiny"],
        metavar="MODEL",
        help="networks of the topics that have one; the peer has vgg16, vgg_cnn_m_1024, caffenet, efficientnet_lite0",
    )
    parser.add_argument(
        "--peer-python",
        type=os.path.expanduser,  # may be a command; `Path` would turn "./python" into one
        metavar="PYTHON",
        help="interpreter with torch and torchvision; this one if not given",
    )
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--out", type=expand_user, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--images",
        type=expand_user,
        metavar="FOLDER",
        help="JPEG files for input, proposals, evaluate and buckets; made up if not given",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: takes seconds, to check that everything runs"
    )
    parser.add_argument("--min-runs", type=_positive(int), help="least number of samples of each figure")
    parser.add_argument("--min-seconds", type=_positive(float), help="least seconds of measuring each figure")
    parser.add_argument("--tflops", type=_positive(float), help="TFLOP/s of the device; measured if not given")
    parser.add_argument("--bandwidth", type=_positive(float), help="GB/s of its memory; measured if not given")
    options = parser.parse_args(arguments)
    options.command = list(sys.argv[1:] if arguments is None else arguments)
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out {options.out}: the folder {options.out.parent} does not exist")
    return options


def _positive(kind: type) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    positive.__name__ = f"positive {kind.__name__}"
    return positive


if __name__ == "__main__":
    main()
