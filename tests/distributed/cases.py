"""What runs in processes that are started by the tests, and starting them."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEARTBEAT = 8


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def begin(call: str, processes: int, devices: int = 1, **environment: str) -> list[subprocess.Popen]:
    """Processes that run `call`, a call of a function below; they find each other by the environment."""
    address = f"127.0.0.1:{free_port()}"
    code = f"from tests.distributed.cases import *; {call}"
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    common = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "TEST_COORDINATOR": address, "TEST_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | common | {"TEST_PROCESS": str(index)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def finish(started: list[subprocess.Popen], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each process."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def run(call: str, processes: int, devices: int = 1, **environment: str) -> list[tuple[int, str, str]]:
    """`finish` of `begin`, of processes that must all succeed."""
    results = finish(begin(call, processes, devices, **environment))
    for code, out, errors in results:
        assert code == 0, out[-2000:] + errors[-4000:]
    return results


def settings():
    """Settings of this process."""
    from frcnn_jax.config import DistributedConfig

    count = int(os.environ["TEST_PROCESSES"])
    if count == 1:
        return DistributedConfig()
    return DistributedConfig(
        os.environ["TEST_COORDINATOR"], count, int(os.environ["TEST_PROCESS"]), heartbeat=HEARTBEAT, start_timeout=120
    )


def listen_at_home() -> None:
    """Has gloo listen at 127.0.0.1, and not at the address of this machine's name."""
    from functools import partial

    from jax._src.lib import _jax

    _jax.make_gloo_tcp_collectives = partial(_jax.make_gloo_tcp_collectives, hostname="127.0.0.1")


def train_small(root: str, workdir: str, batch_size: int = 4, **train_settings) -> None:
    """Trains the small `tiny` of the training tests with everything that is random, and saves its state."""
    import jax
    import numpy as np

    from frcnn_jax.distributed.start import processes
    from frcnn_jax.runs.train import train
    from tests.training.runs import run_config, shrink_tiny

    jax.config.update("jax_numpy_rank_promotion", "raise")
    listen_at_home()
    shrink_tiny()
    config = run_config(Path(root), **train_settings)
    fixed = os.environ.get("TEST_FIXED_ORDER") == "1"
    config = dataclasses.replace(
        config,
        input=dataclasses.replace(config.input, batch_size=batch_size),
        distributed=dataclasses.replace(settings(), fixed_order=fixed),
    )
    with processes(config.distributed):
        state = train(config, workdir)
        if jax.process_index() == 0:
            leaves = jax.tree.leaves(jax.device_get(state))
            np.savez(Path(workdir) / "state.npz", *leaves)
