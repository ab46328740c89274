"""The machine, the versions and the commit of a result, and the device's best rates."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.floors import Rates
from bench.peer import Peer, open_peer
from bench.sizes import Sizes
from bench.timing import measure
from frcnn_jax.machine import cores

_PACKAGES = ("frcnn_jax", "jax", "jaxlib", "flax", "optax", "numpy", "opencv-contrib-python-headless", "grain")


def describe_machine() -> dict[str, Any]:
    """CPU, cores and their load before, accelerator, versions, date, and the commit if the sources are a checkout."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # running processes in the last minute
        "device": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def measure_rates(sizes: Sizes, dtype: Any, peer: Peer | None) -> Rates:
    """The device's best rates: a large matrix product of that type, here or in the peer, and a pass over an array."""
    accelerator = jax.devices()[0].platform != "cpu"
    side = sizes.matmul * (4 if accelerator and sizes.matmul >= 1024 else 1)
    matrix = jnp.full((side, side), 1 / 64, dtype)
    multiply = jax.jit(jnp.matmul)
    with open_peer(peer, "rates", ["product"], {"side": np.int64(side)}) as other:
        products = other.measure("product", lambda: multiply(matrix, matrix), jax.block_until_ready, sizes)
    # In place, as new memory would have to be mapped and cleared first.
    negate = jax.jit(jnp.negative, donate_argnums=0)
    array = jnp.zeros(sizes.copied_bytes // 4, jnp.float32)

    def run() -> jax.Array:
        nonlocal array
        array = negate(array)
        return array

    copy = measure(run, jax.block_until_ready, sizes.effort)
    fastest = min(timing.fastest for timing in products if timing is not None)
    return Rates(flops=2 * side**3 / fastest, bandwidth=2 * sizes.copied_bytes / copy.fastest)


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit's hash, with "+changes" where files differ from it; None outside a git checkout."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
