"""Several supervised processes of one command on this machine: signals reach all of them, and they end together."""

import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from frcnn_jax.signals import set_unsaved

__all__ = ["launch", "share_of_gpus"]

_RELAYED = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 12.0  # seconds for the others to end by themselves
_MORE_PATIENCE = 12.0  # seconds to end after SIGTERM
_INTERRUPTED = 128 + signal.SIGINT  # exit status of a command after Ctrl-C or SIGTERM
_ERROR = 1  # that of a command that failed, and of one whose neighbour ended
_GPU_PLATFORMS = {"cuda", "gpu"}  # names in JAX_PLATFORMS; AMD's obey other variables
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def launch(command: Sequence[str], processes: int, say: Callable[[str], None] | None = None) -> int:
    """Runs a command in several processes that find each other at 127.0.0.1, until all have ended.

    Args:
        command: takes the settings `--distributed.*` at its end.
        say: gets the line about a process that failed; stderr if None.

    Returns:
        0, or the exit status of the process that failed: 130 after Ctrl-C or SIGTERM, 143 after a SIGTERM before the
        processes have begun, 128 and the signal's number for one that was killed, 1 after an error.

    Raises:
        ValueError: the processes cannot share the GPUs.
    """
    address = f"127.0.0.1:{_free_port()}"
    shares = [share_of_gpus(index, processes, os.environ) for index in range(processes)]
    started: list[subprocess.Popen] = []
    relayed: list[int] = []

    def relay(number: int, _: object) -> None:
        relayed.append(number)
        _send(started, number)

    before = {number: signal.getsignal(number) for number in _RELAYED}
    set_unsaved(True)  # the processes may have work to save
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, relay)
        for index, share in enumerate(shares):
            started.append(_start(command, address, index, processes, share))
        for number in relayed:  # signals that arrived during the starts
            _send(started, number)
        # An empty line first, as the cursor may be in a progress bar.
        return _watch(started, relayed, say or (lambda line: print(f"\n{line}", file=sys.stderr, flush=True)))
    finally:
        _send(started, signal.SIGKILL)
        for number, handler in before.items():
            signal.signal(number, handler)
        set_unsaved(False)


def share_of_gpus(index: int, count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that gives process `index` of `count` its GPUs of NVIDIA; empty if JAX uses none.

    Raises:
        ValueError: the number of GPUs is not a multiple of `count`.
    """
    platforms = environment.get("JAX_PLATFORMS")
    if platforms and not _GPU_PLATFORMS & {name.strip().lower() for name in platforms.split(",")}:
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
        gpus = [str(number) for number in sorted(int(name[1]) for name in names if name)]
    else:
        # CUDA reads names up to the first invalid one.
        names = [name.strip() for name in visible.split(",")]
        gpus = [name for name in itertools.takewhile(lambda name: name != "-1", names) if name]
    if not gpus:
        return {}
    if len(gpus) % count:
        raise ValueError(
            f"{count} processes cannot share {len(gpus)} GPUs: give --processes a number that divides {len(gpus)}, or "
            "choose some by CUDA_VISIBLE_DEVICES, or none by JAX_PLATFORMS=cpu"
        )
    each = len(gpus) // count
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}


def _start(
    command: Sequence[str], address: str, index: int, count: int, environment: Mapping[str, str]
) -> subprocess.Popen:
    place = {"coordinator": address, "processes": count, "process": index}
    settings = [text for name, value in place.items() for text in (f"--distributed.{name}", str(value))]
    return subprocess.Popen(
        [*command, *settings],
        env=os.environ | dict(environment),
        start_new_session=True,  # Ctrl-C at the terminal is passed on from here, once
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Makes the system end this process when its parent is killed, if supported."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def _watch(started: Sequence[subprocess.Popen], relayed: Sequence[int], say: Callable[[str], None]) -> int:
    """Waits for all processes; ends the others when one fails.

    Args:
        relayed: signals that all processes were sent so far; process 0 prints their effect.
    """
    seen: float | None = None  # time at which a failure was seen
    status, terminated = 0, False
    while True:
        codes = [process.poll() for process in started]
        ended = None not in codes
        seen = time.monotonic() if seen is None and any(codes) else seen
        waited = 0.0 if seen is None else time.monotonic() - seen
        cause = _cause(codes)
        if not status and cause is not None and (codes[cause] != _ERROR or ended or waited > _PATIENCE):
            status = codes[cause]
            if status not in (_INTERRUPTED * bool(relayed), *(s for n in relayed for s in (-n, 128 + n))):
                say(_describe(codes, cause))
        if ended:
            return 128 - status if status < 0 else status
        if waited > _PATIENCE + _MORE_PATIENCE:
            _send(started, signal.SIGKILL)
        elif waited > _PATIENCE and not terminated:
            terminated = True
            _send(started, signal.SIGTERM)
        time.sleep(0.2)


def _cause(codes: Sequence[int | None]) -> int | None:
    """The process that failed first, as far as the exit statuses tell; None if none has failed.

    A process ends with 1 because of an error, or because another one has ended; process 0 ends last.
    """
    failed = [index for index, code in enumerate(codes) if code]
    return next((index for index in failed if codes[index] != _ERROR), failed[0] if failed else None)


def _describe(codes: Sequence[int | None], cause: int) -> str:
    """A line about the process that failed, or about those that ended with an error, which each prints."""
    if codes[cause] == _ERROR and codes.count(_ERROR) > 1:
        return f"{codes.count(_ERROR)} of {len(codes)} processes ended with exit status {_ERROR}"
    return f"process {cause} of {len(codes)} {_describe_status(codes[cause])}; the others end"


def _describe_status(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return "was stopped by a signal" if status == _INTERRUPTED else f"ended with exit status {status}"


def _send(started: Sequence[subprocess.Popen], number: int) -> None:
    for process in started:
        if process.poll() is None:
            process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
