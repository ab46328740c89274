"""Reads many damaged files of one kind in child processes with limits; reports all that gives neither a result nor one
line.

    python -m tests.reliability.fuzz KIND [--count 20000] [--start 0] [--seed 0] [--keep FOLDER]

Each input follows from the kind, the seed and its number alone, so that one that fails can be read again:
`--start NUMBER --count 1 --keep FOLDER`, which leaves the file there. A child reads many inputs; after one that ends
it the next child goes on with the next.
"""

import argparse
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # bytes of addresses above those that a child has when it begins
SECONDS = 5  # of processor time for one input
_WALL_SECONDS = 60  # for one input, of which processor time does not tell that it waits
_BROKEN = 70  # exit status where it is not the reader that failed
_INPUTS = 4000  # of one child, so that what a library never frees counts against no later input
_LINES = 8  # on stdout and stderr that one input may cost
_LONGEST = 4000  # characters of a message
_FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|fork|spawn|startfile|putenv|chown|link|symlink)|subprocess\.|socket\.(connect|bind)|"
    r"pickle\.find_class|ctypes\.dlopen"
)
_STARTS = ("subprocess.", "os.posix_spawn", "os.fork")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def find_target(kind: str) -> Any:
    from tests.reliability.targets import TARGETS

    if kind in TARGETS:
        return TARGETS[kind]
    from tests.reliability.weight_targets import WEIGHT_TARGETS

    return WEIGHT_TARGETS[kind]


def make_input(kind: str, target: Any, seeds: list[bytes], seed: int, number: int) -> bytes:
    from tests.reliability.mutate import mutate

    return mutate(seeds, random.Random(f"{kind} {seed} {number}"), text=target.text, repair=target.repair)


def fuzz(kind: str, count: int, start: int = 0, seed: int = 0, keep: Path | None = None) -> dict[str, Any]:
    """Reads inputs `start` ... `start + count - 1`: outcomes counted, faults listed, seconds of processor time."""
    target = find_target(kind)
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    outer = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared))
    progress = mmap.mmap(-1, 16)
    begun = _processor_seconds()
    try:
        seeds = _seeds(target, outer)
        outcomes: dict[str, int] = {}
        faults: list[dict[str, Any]] = []
        number, stop = start, start + count
        while number < stop:
            end = min(number + _INPUTS, stop)
            report = outer / "report"
            progress[:8] = number.to_bytes(8, "little")
            pid = os.fork()
            if pid == 0:
                _child(kind, target, seeds, seed, range(number, end), outer, progress, report)
            status = _wait(pid, progress)
            done = json.loads(report.read_text()) if report.exists() else {"outcomes": {}, "faults": []}
            report.unlink(missing_ok=True)
            for name, its in done["outcomes"].items():
                outcomes[name] = outcomes.get(name, 0) + its
            faults += done["faults"]
            number = end
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _BROKEN:
                raise RuntimeError((outer / "report.error").read_text())
            if status:
                reached = int.from_bytes(progress[:8], "little")
                faults.append({"input": reached, "fault": f"the child was ended by {_ending(status)}"})
                number = reached + 1
        for fault in faults:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                content = make_input(kind, target, seeds, seed, fault["input"])
                (keep / f"{kind}-{seed}-{fault['input']}").write_bytes(content)
        seconds = round(_processor_seconds() - begun, 1)
        return {"kind": kind, "inputs": count, "seconds": seconds, "outcomes": outcomes, "faults": faults}
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(its.ru_utime + its.ru_stime for its in used)


def _seeds(target: Any, outer: Path) -> list[bytes]:
    folder = outer / "seeds"
    folder.mkdir()
    seeds = target.seeds(folder)
    shutil.rmtree(folder)
    return seeds


def _wait(pid: int, progress: mmap.mmap) -> int:
    """Waits for a child, and ends one that stays at an input for too long."""
    last, since = b"", time.monotonic()
    pause = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
        if progress[:8] != last:
            last, since = progress[:8], time.monotonic()
        elif time.monotonic() - since > _WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"{name}, more than {SECONDS} s of processor time" if name == "SIGPROF" else name
    return f"exit status {os.WEXITSTATUS(status)}"


def _child(
    kind: str, target: Any, seeds: list[bytes], seed: int, numbers: range, outer: Path, progress: Any, report: Path
) -> None:
    code = _BROKEN
    try:
        log = os.open(outer / "log", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(outer)
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # one line, of an expression in settings
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, in C code too
        events = _watch(outer)
        box = outer / "box"
        shutil.rmtree(box, ignore_errors=True)
        place = _folder(target, box)
        _read_once(target, place, seeds[0])  # imports and threads that come with the first input
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, resource.RLIM_INFINITY))
        done: dict[str, Any] = {"outcomes": {}, "faults": []}
        before = sorted(os.listdir(outer))
        for number in numbers:
            content = make_input(kind, target, seeds, seed, number)
            progress[:8] = number.to_bytes(8, "little")
            os.ftruncate(log, 0)
            os.lseek(log, 0, os.SEEK_SET)
            events.clear()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            outcome, fault = _read_once(target, place, content)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.flush()
            sys.stderr.flush()
            lines = os.pread(log, 1 << 16, 0).decode(errors="replace").splitlines()
            if len(lines) > _LINES:
                fault = fault or f"{len(lines)} lines are printed, as: {lines[0][:200]} / {lines[-1][:200]}"
            seen = [event for event in events if not (target.starts and event.startswith(_STARTS))]
            fault = fault or (f"it does {seen[0]}" if seen else None)
            if sorted(os.listdir(outer)) != before or sorted(os.listdir(box)) != ["in"]:
                fault = f"files beside its folder: {os.listdir(outer)}"
            if fault:
                done["faults"].append({"input": number, "fault": fault})
                place = _folder(target, box)
            done["outcomes"][outcome] = done["outcomes"].get(outcome, 0) + 1
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report.write_text(json.dumps(done))
        code = 0
    except BaseException:
        (outer / "report.error").write_text(traceback.format_exc())
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _folder(target: Any, box: Path) -> Path:
    """The folder of the reader, empty but for what is beside the file; two folders below the one that is watched."""
    shutil.rmtree(box, ignore_errors=True)
    place = box / "in"
    place.mkdir(parents=True)
    target.beside(place)
    (place / target.file).parent.mkdir(parents=True, exist_ok=True)
    return place


def _read_once(target: Any, place: Path, content: bytes) -> tuple[str, str | None]:
    """The outcome of reading, and its fault if any."""
    path = place / target.file
    path.write_bytes(content)
    try:
        target.read(place)
        outcome, fault = "result", None
    except target.errors as error:
        outcome, fault = type(error).__name__, _message_fault(str(error))
    except BaseException as error:
        outcome, fault = "fault", "".join(traceback.format_exception(error)[-6:])[-3000:]
    if target.file.startswith("box/"):  # an archive
        shutil.rmtree(f"{path}.extracted", ignore_errors=True)
    return outcome, fault


def _message_fault(message: str) -> str | None:
    if "\n" in message or "\r" in message:
        return f"a message of several lines: {message[:500]!r}"
    if len(message) > _LONGEST:
        return f"a message of {len(message)} characters: {message[:300]!r}"
    return None if message.strip() else "an empty message"


def _watch(outer: Path) -> list[str]:
    """A list that is filled with what no reader of files does: starting programs, writing elsewhere."""
    events: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if _FORBIDDEN.match(event):
            events.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            name = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else str(outer)
            path = os.path.abspath(os.fsdecode(name))
            if not path.startswith((str(outer), "/dev/null")):
                events.append(f"open {path} for writing")

    sys.addaudithook(hook)
    return events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="+", metavar="KIND")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    for kind in options.kinds:
        print(json.dumps(fuzz(kind, options.count, options.start, options.seed, options.keep)), flush=True)


if __name__ == "__main__":
    main()
