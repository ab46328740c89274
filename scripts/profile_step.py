"""Kernels of a training step or a test by their share of time, as JAX's profiler records them on this device.

    python scripts/profile_step.py --model vgg16 --what step

Sizes are those of scripts/benchmark.py: 600 x 1000, two images of 64 RoIs a step, or one image of 2000 proposals.
"""

import argparse
import os
import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Kernel(NamedTuple):
    """Mean time of a kernel in one call, all its launches together."""

    name: str
    source: str  # path of the function that made it; empty if unknown
    milliseconds: float
    launches: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16", help="default: vgg16")
    parser.add_argument("--what", choices=("step", "test"), default="step", help="default: step")
    parser.add_argument("--images", type=int, help="a batch; default: 2 for a step, 1 for a test")
    parser.add_argument("--roi-pooling", choices=("xla", "pallas", "auto"), help="default: the model's")
    parser.add_argument("--dtype", help="of activations; default: bfloat16 on accelerators, float32 on a CPU")
    parser.add_argument("--calls", type=int, default=20, help="calls to take the mean of; default: 20")
    parser.add_argument("--rows", type=int, default=25, help="kernels to list; default: 25")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args(arguments)
    try:
        run, program = prepare(options)
    except (ValueError, TypeError) as error:  # no such model, or no such type
        sys.exit(f"profile_step.py: {error}")
    print(report(profile(run, options.calls, sources(program)), options.rows))


def prepare(options: argparse.Namespace) -> tuple[Callable[[], Any], str]:
    """A function that runs the step or test once, and the text of its compiled program."""
    import jax
    from bench.programs import compile_training, constant_params, repeat_training
    from bench.scene import build_model, make_batch, network_dtype, training_config
    from bench.sizes import QUICK, Sizes

    from frcnn_jax.detection.detect import detect_batch
    from frcnn_jax.models.fast_rcnn import init_params
    from frcnn_jax.training.state import create_state
    from frcnn_jax.training.statistics import identity_statistics

    sizes = QUICK if options.quick else Sizes()
    model = build_model(options.model, sizes, options.dtype or network_dtype())
    if options.roi_pooling is not None:
        model = model.clone(roi_pooling=options.roi_pooling)
    statistics = identity_statistics(sizes.num_classes)
    if options.what == "step":
        config = training_config(options.model, sizes)
        state = create_state(config, init_params(model, jax.random.key(0)), statistics)
        compiled, *inputs = compile_training(model, config, state, make_batch(sizes, options.images or sizes.images))
        return repeat_training(compiled, *inputs), compiled.as_text()

    def detect(params: Any, statistics: Any, batch: Any) -> Any:
        return detect_batch(params, statistics, batch, model=model, score_threshold=0.0)

    inputs = jax.device_put((constant_params(model), statistics, make_batch(sizes, options.images or 1)))
    compiled = jax.jit(detect).lower(*inputs).compile()
    return lambda: compiled(*inputs), compiled.as_text()


def profile(run: Callable[[], Any], calls: int, sources: Mapping[str, str]) -> list[Kernel]:
    """The kernels of a call, longest first."""
    import jax

    for _ in range(3):
        jax.block_until_ready(run())
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                result = run()
            jax.block_until_ready(result)
        (recorded,) = Path(folder).rglob("*.xplane.pb")
        times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for name, instruction, nanoseconds in kernel_events(jax.profiler.ProfileData.from_file(str(recorded))):
            times[name, sources.get(instruction, "") or sources.get(name, "")].append(nanoseconds)
    found = [Kernel(*key, sum(spent) / calls / 1e6, len(spent) / calls) for key, spent in times.items()]
    return sorted(found, key=lambda kernel: -kernel.milliseconds)


def kernel_events(data: Any) -> Iterator[tuple[str, str, float]]:
    """Name, HLO instruction and nanoseconds of each kernel: on the streams of a GPU, or a CPU's own threads."""
    planes = list(data.planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in gpus or planes:
        for line in plane.lines:
            if gpus and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of JAX's own types
                    stats = dict(event.stats)
                if gpus or "hlo_op" in stats:
                    yield event.name, str(stats.get("hlo_op", "")), event.duration_ns


def sources(program: str) -> dict[str, str]:
    """For each instruction of a compiled program's text the path of the function that made it."""
    found = dict(re.findall(r'^ +(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', program, re.MULTILINE))
    # A GPU's kernels are named after instructions, with other characters.
    return found | {re.sub(r"[.-]", "_", name): source for name, source in found.items()}


def report(found: Sequence[Kernel], rows: int) -> str:
    """A table of the longest kernels, of the parts of the network, and the whole."""
    total = sum(kernel.milliseconds for kernel in found)
    lines = [f"{'ms':>9} {'share':>6} {'launches':>8}  kernel, source"]
    for kernel in found[:rows]:
        source = "/".join(kernel.source.split("/")[-5:])
        lines.append(
            f"{kernel.milliseconds:9.4f} {kernel.milliseconds / total:6.1%} {kernel.launches:8.1f}  "
            f"{kernel.name[:70]}  {source[-90:]}"
        )
    rest = found[rows:]
    if rest:
        spent = sum(kernel.milliseconds for kernel in rest)
        lines.append(f"{spent:9.4f} {spent / total:6.1%} {sum(k.launches for k in rest):8.1f}  {len(rest)} others")
    parts: defaultdict[str, float] = defaultdict(float)
    for kernel in found:
        parts[part_of(kernel.source)] += kernel.milliseconds
    lines += ["", *(f"{spent:9.4f} {spent / total:6.1%}           {part}" for part, spent in sorted(
        parts.items(), key=lambda item: -item[1]))]  # fmt: skip
    return "\n".join([*lines, f"{total:9.4f} 100.0% {sum(k.launches for k in found):8.1f}  all kernels"])


def part_of(source: str) -> str:
    """The part of the step or test, forward or backward, that a kernel belongs to."""
    part = next((part for part in ("FastRCNN.pool", "backbone", "head", "FastRCNN.features") if part in source), "rest")
    return f"{part}, backward" if "transpose(" in source else part


if __name__ == "__main__":
    main()
