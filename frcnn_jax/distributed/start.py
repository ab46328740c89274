"""Start and end of a process among several; TPU slices, Slurm and Open MPI are detected."""

import atexit
import dataclasses
import importlib.util
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax

from frcnn_jax.config import DistributedConfig
from frcnn_jax.distributed.output import mark_output
from frcnn_jax.distributed.talk import ProcessLostError, client, gather, is_first, process_count, process_index
from frcnn_jax.distributed.watch import GRACE, begin_watch, current_watch
from frcnn_jax.signals import watched_signals

__all__ = ["processes", "start"]

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Errors of a collective operation after another process has ended.
_BROKEN = re.compile(r"Gloo|NCCL|UNAVAILABLE|Connection closed|Connection reset|Socket closed")


def start(settings: DistributedConfig) -> None:
    """Connects this process with the others, unless it is alone or already connected; call it before any device is
    used.

    Raises:
        ValueError: a setting is missing.
        ConnectionError: not all processes connect within `start_timeout`.
        RuntimeError: JAX has used a device already.
    """
    if client() is None:
        arguments = _arguments(settings)
        if arguments is None:
            return
        if settings.coordinator is not None and _at_loopback(settings.coordinator):
            _connect_cpus_at_loopback()
        # JAX would handle SIGTERM, which `watch` treats like SIGINT.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=settings.start_timeout,
                # Longer than the watch needs to end this process with one line: JAX would abort it.
                heartbeat_timeout_seconds=settings.heartbeat + round(4 * GRACE),
                shutdown_timeout_seconds=60,
            )
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            if not arguments and "coordinator_address" in str(error):  # a single TPU host
                return
            raise ConnectionError(
                f"process {arguments.get('process_id', '')} did not find all {arguments.get('num_processes', '')} "
                f"processes by way of {arguments.get('coordinator_address', 'the cluster')} within "
                f"{settings.start_timeout} s (distributed.start_timeout): {str(error).splitlines()[0]}"
            ) from error
    if process_count() > 1:
        begin_watch(settings.heartbeat)
        jax.devices()  # exchanges the devices; a process that waited for another before would block it


@contextmanager
def processes(settings: DistributedConfig) -> Iterator[None]:
    """`start`, for the main part of a program: all processes end together, and only process 0 prints.

    Lines of other processes on stderr are numbered. SIGTERM has the effect of Ctrl-C, in all processes.

    Raises:
        ProcessLostError: another process ended before the work was done; names it.
    """
    start(settings)
    if process_count() == 1:
        yield
        return
    mark_output(process_index())
    watch = current_watch()
    try:
        if is_first():
            host = socket.gethostname()
            print(f"{process_count()} processes with {jax.device_count()} devices; process 0 is on {host}")
        with _signals():
            yield
            gather("done")
    except BaseException as error:
        lost = _named(error)
        atexit.register(watch.end, _exit_code(error))
        watch.leave(_why(lost or error))
        if lost is not None:
            raise lost from error
        if isinstance(error, KeyboardInterrupt) and not is_first():  # process 0 prints the line for all
            raise SystemExit(_exit_code(error)) from None
        raise
    watch.finish()


def _named(error: BaseException) -> ProcessLostError | None:
    """The error that names the lost process, if `error` is that of a collective operation; else None."""
    if not isinstance(error, ValueError | jax.errors.JaxRuntimeError) or not _BROKEN.search(str(error)):
        return None
    reason = current_watch().wait_for_reason()
    return ProcessLostError(reason or f"the connection to another process broke: {str(error).splitlines()[0]}")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def _why(error: BaseException) -> str:
    """End of the line that other processes print about this one."""
    if isinstance(error, KeyboardInterrupt):
        return "was stopped by a signal"
    if isinstance(error, ProcessLostError):
        return "ended with another one"
    return f"stopped: {(str(error) or repr(error)).splitlines()[0]}"


@contextmanager
def _signals() -> Iterator[None]:
    """Makes SIGTERM interrupt the program like Ctrl-C, or end it if that is not possible."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with watched_signals(current_watch().end_by_signal, GRACE):
        handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)


def _arguments(settings: DistributedConfig) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`, which finds the other processes; None for a single process."""
    if settings.processes == 1:
        return None
    cluster = next((cluster for cluster in _CLUSTERS if int(os.environ.get(cluster.count, 1)) > 1), None)
    if settings.coordinator is None:
        if settings.processes is not None or settings.process is not None:
            raise ValueError(
                "distributed.processes and distributed.process need the address of process 0: give "
                "--distributed.coordinator HOST:PORT too"
            )
        if cluster is not None:
            missing = [name for name in cluster.needed if name not in os.environ]
            if missing:
                raise ValueError(
                    f"{cluster.name} has started {os.environ[cluster.count]} processes, but {missing[0]} is not set, "
                    "which says where process 0 is: give --distributed.coordinator HOST:PORT, or "
                    "--distributed.processes 1 for this process alone"
                )
            return {}
        return {} if _on_tpu_host() else None
    count, index = settings.processes, settings.process
    if cluster is not None:
        count = int(os.environ[cluster.count]) if count is None else count
        index = int(os.environ[cluster.index]) if index is None else index
    for name, value in (("processes", count), ("process", index)):
        if value is None:
            raise ValueError(
                f"distributed.coordinator is set without distributed.{name}: give --distributed.{name} too"
            )
    arguments = {"coordinator_address": settings.coordinator, "num_processes": count, "process_id": index}
    if cluster is None:
        arguments["cluster_detection_method"] = "deactivate"
    if _at_loopback(settings.coordinator):  # instead of all addresses of this machine
        arguments["coordinator_bind_address"] = settings.coordinator
    return arguments


def _at_loopback(coordinator: str) -> bool:
    return coordinator.rpartition(":")[0] in _LOOPBACK


def _connect_cpus_at_loopback() -> None:
    """Makes gloo, which connects CPUs, listen at 127.0.0.1 instead of the address of this host's name.

    JAX has no setting for it.
    """
    from jax._src.lib import _jax  # not public, so that only those who need it depend on it

    _jax.make_gloo_tcp_collectives = partial(_jax.make_gloo_tcp_collectives, hostname="127.0.0.1")


@dataclasses.dataclass(frozen=True)
class _Cluster:
    """Environment variables by which a launcher describes its processes."""

    name: str
    count: str
    index: str
    needed: tuple[str, ...]  # variables that JAX needs to find process 0


_CLUSTERS = (
    _Cluster("Slurm", "SLURM_NTASKS", "SLURM_PROCID", ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID")),
    _Cluster("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", ("OMPI_MCA_orte_hnp_uri",)),
)


def _on_tpu_host() -> bool:
    """True if this machine has TPUs that JAX may use."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    devices = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return devices and ("tpu" in wanted or not wanted) and importlib.util.find_spec("libtpu") is not None
