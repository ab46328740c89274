"""Arrays on the devices of all processes: one mesh, each process's share of a batch, and replicated arrays."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frcnn_jax.distributed.talk import gather, is_first, process_count

__all__ = [
    "AXIS",
    "compiled_together",
    "data_mesh",
    "digest",
    "from_first_process",
    "gather_bytes",
    "local_places",
    "mean_over_devices",
    "meet",
    "on_every_device",
    "share_out",
]

AXIS = "data"
_CHUNK = 1 << 24  # numbers sent at once: 64 MiB


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, grouped by process.

    Raises:
        ValueError: the processes have different numbers of devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = [sum(device.process_index == index for device in devices) for index in range(process_count())]
    if len(set(counts)) > 1:
        raise ValueError(f"the processes have {', '.join(map(str, counts))} devices: give each as many as the others")
    return Mesh(np.array(devices), (AXIS,))


def meet(mesh: Mesh) -> None:
    """Connects the devices of all processes, at a moment when all are ready.

    On CPUs the connection has a timeout of 30 s. Without this call the first step would make it, after compilations of
    different lengths.
    """
    if process_count() == 1:
        return
    gather(None)
    add = jax.shard_map(
        lambda x: jax.lax.pmean(x, AXIS),
        mesh=mesh,
        in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    jax.block_until_ready(jax.jit(add)(share_out(np.zeros(jax.local_device_count(), np.float32), mesh)))


def compiled_together(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted function that all processes have compiled before one of them runs it.

    On CPUs none may wait for another for 30 s inside it, and one may compile for longer than the others. Every process
    calls it with arrays of the same shapes.
    """
    if process_count() == 1:
        return function
    programs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        kind = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if kind not in programs:
            programs[kind] = function.lower(*arguments).compile()
            gather(None)
        return programs[kind](*arguments)

    return call


def local_places(mesh: Mesh, batch_size: int) -> slice:
    """The positions in a batch that this process reads, for its devices.

    Raises:
        ValueError: the images cannot be divided among the devices, or this process has no device.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"input.batch_size {batch_size} cannot be shared by {mesh.size} devices: give --input.batch-size a "
            f"multiple of {mesh.size}"
        )
    if process_count() == 1:
        return slice(0, batch_size)
    local = [place for place, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    if not local:
        raise ValueError(
            f"process {jax.process_index()} has no device among the {mesh.size} of the mesh: give it some, or start "
            "fewer processes"
        )
    each = batch_size // mesh.size
    return slice(local[0] * each, (local[-1] + 1) * each)


def share_out(batch: Any, mesh: Mesh) -> Any:
    """Places a batch on the devices of the mesh, with an equal part of its images on each.

    Args:
        batch: arrays [N, ...] with this process's share, on the host.

    Returns:
        Arrays of the whole batch.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    if process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)


def on_every_device(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays, which are equal in all processes, on every device of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if process_count() == 1:
        return jax.device_put(tree, sharding)

    def spread(x: Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # jitted functions accept keys directly
            return x
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(spread, tree)


def from_first_process(tree: Any) -> Any:
    """The arrays of process 0 in every process, bit-identical, on the host.

    Args:
        tree: arrays; in other processes, any values with the same structure, shapes and dtypes.
    """
    if process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    gather(None)  # waits until process 0 has the arrays
    leaves, structure = jax.tree.flatten(tree)
    sizes = [int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in leaves]
    total = -(-sum(sizes) // 4)
    words = np.zeros(-(-max(total, 1) // _CHUNK) * _CHUNK if total > _CHUNK else max(total, 1), np.uint32)
    octets = words.view(np.uint8)
    ends = np.cumsum([0, *sizes])
    if is_first():
        for leaf, start, end in zip(leaves, ends[:-1], ends[1:], strict=True):
            octets[start:end] = np.frombuffer(np.ascontiguousarray(leaf).tobytes(), np.uint8)
    # As integers, as a floating sum with zeros turns -0 into 0.
    for start in range(0, len(words), _CHUNK):
        words[start : start + _CHUNK] = broadcast_one_to_all(words[start : start + _CHUNK])
    found = [
        np.frombuffer(octets[start:end].tobytes(), np.dtype(leaf.dtype)).reshape(leaf.shape)
        for leaf, start, end in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def gather_bytes(content: bytes) -> list[bytes]:
    """The bytes of every process, by process index; sent through the devices, as they may be many."""
    if process_count() == 1:
        return [content]
    from jax.experimental.multihost_utils import process_allgather

    lengths = gather(len(content))
    most = -(-max(lengths) // 4)
    words = np.zeros(most if most <= _CHUNK else -(-most // _CHUNK) * _CHUNK, np.uint32)
    words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    parts = [process_allgather(words[start : start + _CHUNK]) for start in range(0, len(words), _CHUNK)]
    if not parts:
        return [b""] * process_count()
    rows = np.concatenate(parts, axis=1)
    return [row.tobytes()[:length] for row, length in zip(rows, lengths, strict=True)]


def mean_over_devices(arrays: Any, axis_name: str | None, *, fixed_order: bool = False) -> Any:
    """The mean of each array over the devices of a mapped axis.

    Args:
        axis_name: None for a function that is not mapped.
        fixed_order: sum in the order of the devices, with the same bits for any division among processes; needs memory
            for a copy per device.
    """
    # XLA would copy every array of the gradient even without anything to add.
    if axis_name is None or jax.lax.axis_size(axis_name) == 1:
        return arrays
    if not fixed_order:
        return jax.lax.pmean(arrays, axis_name)

    def mean(array: jax.Array) -> jax.Array:
        first, *others = jax.lax.all_gather(array, axis_name)
        return sum(others, first) / jax.lax.axis_size(axis_name)

    return jax.tree.map(mean, arrays)


def digest(tree: Any) -> str:
    """A hash of arrays, to check that all processes have the same."""
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
