"""Functions that run in processes which the tests start, and their start."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEARTBEAT = 8
NAMES = ("loss", "classification", "localization", "foreground", "background", "accuracy", "gradient_norm")


def free_port() -> int:
    """A free port, of those that the system gives to no connection in the meantime."""
    for port in random.sample(range(20_000, 32_768), 100):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("100 ports are in use")


@contextlib.contextmanager
def begun(call: str, processes: int, devices: int = 1) -> Iterator[list[subprocess.Popen]]:
    """Processes that run `call`, of a function below, with so many devices each; they find each other by settings.

    Those that still run at the end of the block are killed.
    """
    address = f"127.0.0.1:{free_port()}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    started = []
    for index in range(processes):
        place = (address, processes, index) if processes > 1 else (None, None, None)
        code = f"from tests.distributed.cases import *; PLACE = {place}; begin_here(PLACE); {call}"
        # XLA sums a convolution's gradient in parts, one for each thread: as many in every process.
        threads = {"NPROC": "8", "PJRT_NPROC": "8"}
        environment = os.environ | threads | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def finish(started: list[subprocess.Popen], timeout: float = 280) -> list[subprocess.CompletedProcess]:
    """The processes when they have ended, with what they printed."""
    until = time.monotonic() + timeout
    outputs = [process.communicate(timeout=max(until - time.monotonic(), 1)) for process in started]
    pairs = zip(started, outputs, strict=True)
    return [subprocess.CompletedProcess(process.args, process.returncode, *output) for process, output in pairs]


def run(call: str, processes: int, devices: int = 1) -> list[subprocess.CompletedProcess]:
    """Processes that must all succeed, when they have ended."""
    with begun(call, processes, devices) as started:
        results = finish(started)
    for index, result in enumerate(results):
        assert result.returncode == 0, f"process {index}: {result.stdout[-1500:]}{result.stderr[-3000:]}"
    return results


PLACE = (None, None, None)


def begin_here(place: tuple) -> None:
    """Sets the process's place among the others."""
    global PLACE
    PLACE = place
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")


def small_config(
    root: str,
    batch_size: int = 4,
    fixed_order: bool = False,
    search: str | None = None,
    heartbeat: float = HEARTBEAT,
    **train_settings,
):
    """The training tests' `tiny` with everything that is random, in this process's place.

    Args:
        search: folder of prepared data, in which proposals are searched in place of being read from a file.
    """
    from frcnn_jax.config import DistributedConfig, replace
    from tests.training.runs import run_config, shrink_tiny

    shrink_tiny()
    coordinator, processes, process = PLACE
    place = DistributedConfig(
        coordinator, processes, process, heartbeat=heartbeat, start_timeout=120, fixed_order=fixed_order
    )
    config = run_config(Path(root), **train_settings)
    if search is not None:
        proposals = {"method": "selective_search_fast", "train_files": (), "test_file": None}
        config = replace(config, data={"tfds_dir": search}, proposals=proposals)
    return replace(config, input={"batch_size": batch_size, "test_batch_size": 1}, distributed=place)


def train_here(root: str, workdir: str, *, evaluate: bool = False, before=None, **settings) -> None:
    """Trains, evaluates if asked to, and prints a hash of the state.

    Args:
        before: called before anything of it.
    """
    import jax

    from frcnn_jax.cli.run import run
    from frcnn_jax.distributed.arrays import digest
    from frcnn_jax.distributed.start import processes
    from frcnn_jax.runs.evaluate import evaluate_run
    from frcnn_jax.runs.train import train

    config = small_config(root, **settings)

    def main() -> None:
        with processes(config.distributed):
            if before is not None:
                before()
            state = train(config, workdir)
            print("state", digest(jax.device_get(state)), file=sys.stderr)
            if evaluate:
                evaluate_run(workdir)
            print("CPU seconds", sum(os.times()[:2]), file=sys.stderr)

    sys.argv = ["test"]
    run(main)


def end_in_step(last: int, number: int, process: int = 1) -> None:
    """Has one process send itself a signal in a step of the training."""
    from frcnn_jax.training.metrics import MetricsLog

    add = MetricsLog.add

    def add_and_end(self, step, *arguments):
        add(self, step, *arguments)
        if step == last and PLACE[2] == process:
            os.kill(os.getpid(), number)

    MetricsLog.add = add_and_end


def show_images() -> None:
    """Has each process print the images that it gives each step."""
    from frcnn_jax.training import steps

    share_out = steps.share_out

    def share_out_and_show(batch, mesh):
        print("images", *batch.image_index, file=sys.stderr, flush=True)
        return share_out(batch, mesh)

    steps.share_out = share_out_and_show


def search_slowly(seconds: float) -> None:
    """Has the search of proposals take so long in each image, and say when one begins."""
    from frcnn_jax.data.proposals import searching

    search = searching._search

    def say_and_search(*arguments, **options):
        print("searching", file=sys.stderr, flush=True)
        time.sleep(seconds)
        return search(*arguments, **options)

    searching._search = say_and_search


def end_in(module: str, name: str, number: int = signal.SIGTERM, process: int = 1) -> None:
    """Has one process send itself a signal when it calls a function of a module, and say so."""
    import importlib

    home = importlib.import_module(module)
    function = getattr(home, name)

    def end_and_call(*arguments, **options):
        if PLACE[2] == process:
            print("signal", file=sys.stderr, flush=True)
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(home, name, end_and_call)


def other_data(process: int = 1) -> None:
    """Has one process find other training data than the others."""
    import dataclasses

    from frcnn_jax.training import loop

    record_data = loop.record_data

    def record_others(*arguments):
        record = record_data(*arguments)
        return dataclasses.replace(record, fingerprint="other") if PLACE[2] == process else record

    loop.record_data = record_others


def not_a_number_in_step(last: int, process: int = 1) -> None:
    """Has the loss of one process's images be NaN in a step."""
    import numpy as np

    from frcnn_jax.training import steps

    share_out, numbers = steps.share_out, iter(range(1, 1000))

    def share_out_spoilt(batch, mesh):
        if next(numbers) == last and PLACE[2] == process:
            batch = batch.replace(gt_labels=np.full_like(batch.gt_labels, 99))  # which no class has
        return share_out(batch, mesh)

    steps.share_out = share_out_spoilt


def evaluate_here(workdir: str) -> None:
    """Evaluates a run."""
    from frcnn_jax.distributed.start import processes
    from frcnn_jax.runs.evaluate import evaluate_run

    with processes(small_config(workdir).distributed):
        evaluate_run(workdir)


def launch_here(root: str, workdir: str) -> None:
    """Launches a training of two processes, of which one is killed; prints what the launcher says, and its status."""
    from frcnn_jax.distributed.launch import launch

    code = (
        "import sys; from tests.distributed.cases import *; place = sys.argv[2::2];"
        "begin_here((place[0], int(place[1]), int(place[2])));"
        f"train_here({root!r}, {workdir!r}, before=lambda: end_in_step(3, signal.SIGKILL), steps=2000)"
    )
    status = launch([sys.executable, "-c", code], 2, lambda line: print("said", line))
    print("status", status)
