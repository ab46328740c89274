"""Kernels, bytes and memory, by part, of a training step or a test compiled by XLA for a GPU, without a GPU.

    python scripts/gpu_program.py --model vgg16 --what step [--devices 8]
    XLA_FLAGS=--xla_gpu_deterministic_ops=true python scripts/gpu_program.py --model vgg16 --what step

Needs JAX's CUDA plugin (`pip install "jax[cuda13]"`), but neither a GPU nor a driver. Nothing runs, so nothing is tuned
for the device: convolutions and matrix products count as one kernel each. The bytes of a kernel are those of all its
operands and results; a kernel that gathers reads less of them, or some parts repeatedly.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000
  device_memory_size: 150000000000
  l2_cache_size: 62914560
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""

_BITS = {"pred": 8}  # other types have their bits in the name
_ARRAY = re.compile(r"(pred|bf16|[fsuc]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_NO_KERNEL = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all"}
# The first part that occurs in the source name of an instruction.
_PARTS = ("FastRCNN.pool", "backbone", "head", "FastRCNN.features")


class Kernel(NamedTuple):
    """An instruction of the compiled program's main computation."""

    operation: str
    source: str  # path of the function that made it
    bytes: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--what", choices=("step", "test"), default="step")
    parser.add_argument("--images", type=int, default=2, help="images in a device's batch")
    parser.add_argument("--devices", type=int, default=1, help="number of GPUs that share a step's batch")
    parser.add_argument("--roi-pooling", choices=("xla", "pallas"), default="pallas")
    parser.add_argument("--dtype", default="bfloat16", help="type of activations")
    options = parser.parse_args(arguments)
    # Without a driver, the plugin's check of CUDA library versions fails.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        program = compile_step(options) if options.what == "step" else compile_test(options)
    except (ValueError, TypeError) as error:  # an unknown model or type
        sys.exit(f"gpu_program.py: {error}")
    memory = program.memory_analysis()
    text = program.as_text()
    print(report(list(kernels(text))))
    print("\n" + "\n".join([*slow_operations(text), *exchanges(text)]))
    print(f"\nTemporary arrays {memory.temp_size_in_bytes / 1e9:.2f} GB, arguments "
          f"{memory.argument_size_in_bytes / 1e9:.2f} GB")  # fmt: skip


def compile_step(options: argparse.Namespace) -> Any:
    """The training step for the GPUs, at the sizes of the benchmark."""
    import jax
    from bench.scene import build_model, make_batch, training_config
    from bench.sizes import Sizes
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from frcnn_jax.distributed.arrays import AXIS
    from frcnn_jax.models.fast_rcnn import init_params
    from frcnn_jax.training.optimizer import create_optimizer
    from frcnn_jax.training.state import create_state
    from frcnn_jax.training.statistics import identity_statistics
    from frcnn_jax.training.step import make_train_step, map_train_step

    sizes = Sizes()
    model = build_model(options.model, sizes, options.dtype).clone(roi_pooling=options.roi_pooling)
    config = training_config(options.model, sizes)
    state = jax.eval_shape(
        lambda: create_state(config, init_params(model, jax.random.key(0)), identity_statistics(sizes.num_classes))
    )
    mesh = Mesh(_gpus(options.devices), (AXIS,))
    step = make_train_step(model, create_optimizer(config.optimizer, state.params, config.train.steps))
    everywhere, by_image = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    arguments = (
        _on(state, everywhere),
        _on(make_batch(sizes, options.images * options.devices), by_image),
        _on(jax.eval_shape(lambda: jax.random.key(0)), everywhere),
    )
    return _compile(map_train_step(step, mesh), *arguments)


def compile_test(options: argparse.Namespace) -> Any:
    """The program from pixels and proposals to detections on one GPU, at the sizes of the benchmark."""
    import jax
    from bench.scene import build_model, make_batch
    from bench.sizes import Sizes

    from frcnn_jax.detection.detect import detect_batch
    from frcnn_jax.models.fast_rcnn import init_params
    from frcnn_jax.training.statistics import identity_statistics

    sizes = Sizes()
    model = build_model(options.model, sizes, options.dtype).clone(roi_pooling=options.roi_pooling)
    arguments = (
        jax.eval_shape(lambda: init_params(model, jax.random.key(0))),
        jax.eval_shape(lambda: identity_statistics(sizes.num_classes)),
        make_batch(sizes, options.images),
    )
    gpu = jax.sharding.SingleDeviceSharding(_gpus(1)[0])

    def detect(params: Any, statistics: Any, batch: Any) -> Any:
        return detect_batch(params, statistics, batch, model=model, score_threshold=0.0)

    return _compile(jax.jit(detect), *_on(arguments, gpu))


def kernels(program: str) -> Iterator[Kernel]:
    """The kernels of a compiled program's text, main computation only, in order."""
    entry = program[program.index("\nENTRY ") :]
    sizes: dict[str, int] = {}
    for line in entry.splitlines():
        if (found := _INSTRUCTION.match(line)) is None:
            continue
        name, shape, operation, rest = found.groups()
        sizes[name] = _bytes(shape)
        if operation in _NO_KERNEL:
            continue
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        source = re.search(r'op_name="([^"]*)"', rest)
        moved = sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        yield Kernel(operation, source[1] if source else "", moved)


def report(found: Sequence[Kernel]) -> str:
    """A table with a line for each part of the network: its kernels and their bytes. Loops are left out, as their
    number of iterations is only known at run time.
    """
    count, moved = Counter(), Counter()
    for kernel in found:
        part = next((part for part in _PARTS if part in kernel.source), "the rest")
        count[part] += 1
        moved[part] += 0 if kernel.operation == "while" else kernel.bytes
    total = sum(moved.values())
    lines = [f"{'part':<20}{'kernels':>8}{'MB':>10}{'share':>8}"]
    lines += [f"{part:<20}{count[part]:>8}{moved[part] / 1e6:>10.1f}{moved[part] / total:>8.1%}" for part in moved]
    return "\n".join([*lines, f"{'all':<20}{len(found):>8}{total / 1e6:>10.1f}"])


def slow_operations(program: str) -> Iterator[str]:
    """A line for each kind of slow GPU operation, with the largest one, anywhere in the program."""
    for operation in ("while", "sort", "scatter", "conditional", "select-and-scatter"):
        found = [match.groups() for match in map(_INSTRUCTION.match, program.splitlines()) if match]
        sizes = [(_bytes(shape), shape) for _, shape, kind, _ in found if kind == operation]
        yield f"{operation}: {len(sizes)}" + (f", the largest {max(sizes)[1][:60]}" if sizes else "")


def exchanges(program: str) -> Iterator[str]:
    """A line for each kind of operation by which devices exchange arrays, with the bytes of its results."""
    found = [match.groups() for match in map(_INSTRUCTION.match, program.splitlines()) if match]
    for operation in ("all-reduce", "all-gather"):
        sizes = [_bytes(shape) for _, shape, kind, _ in found if kind in (operation, f"{operation}-start")]
        if sizes:
            yield f"{operation}: {len(sizes)}, {sum(sizes):,} bytes"


def _bytes(shape: str) -> int:
    """Bytes of a shape's text, tuples included."""
    total = 0
    for kind, lengths in _ARRAY.findall(shape):
        elements = 1
        for length in filter(None, lengths.split(",")):
            elements *= int(length)
        total += elements * (_BITS.get(kind) or int(re.sub(r"\D", "", kind))) // 8
    return total


def _gpus(count: int) -> Any:
    """Devices to compile for."""
    import numpy as np
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=_H200, topology=f"1x{count}x1")
    except NotImplementedError as error:
        sys.exit(f'gpu_program.py: JAX knows no CUDA here; pip install "jax[cuda13]" ({error})')
    return np.array(topology.devices)


def _on(tree: Any, sharding: Any) -> Any:
    """Shapes and types of a tree's arrays, placed."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _compile(function: Any, *arguments: Any) -> Any:
    # Tuning runs candidates on the device.
    return function.lower(*arguments).compile(compiler_options={"xla_gpu_autotune_level": 0})


if __name__ == "__main__":
    main()
