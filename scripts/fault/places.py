"""Places in a training at which a process is killed, and the kill itself.

A place in a save, or in another write, is a system call on a named file. strace starts the process and intercepts the
call: `before` kills the process in place of the call; `during` holds the calling thread before the call, while the
other threads continue, and the process is killed from outside; `after` does the same after the call. Other places are
recognised by the output and the files of the process.
"""

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

_RENAMES = "rename,renameat,renameat2"
_HELD = 20_000_000  # microseconds
_ARRAYS = ("arrays.orbax-checkpoint-tmp", "ocdbt.process_0")
_STEP = re.compile(r"Training (\d+)/")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A process that trains, its output, and the folders that it writes to."""

    process: subprocess.Popen
    log: Path
    workdir: Path
    prepared: Path
    every: int  # steps from one checkpoint to the next

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def step(self) -> int:
        """The last step in its output; -1 before the first."""
        return max(map(int, _STEP.findall(self.printed)), default=-1)

    def checkpoint(self, step: int, *parts: str) -> Path:
        return self.workdir.joinpath("checkpoints", str(step), *parts)

    @property
    def newest(self) -> int:
        """Step of the newest checkpoint, 0 if there is none."""
        return max((int(path.name) for path in self.workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call on a path.

    Attributes:
        names: names of the call, for strace.
        path: function of the workdir and the step of a checkpoint; for a rename, the old path.
        phase: before, during or after the call.
        main: the call is in the main thread, where strace 6.1 fails to intercept calls with --seccomp-bpf. Without that
            option all calls are slower.
    """

    names: str
    path: Callable[[Path, int], Path]
    phase: str
    main: bool = False

    def command(self, workdir: Path, step: int, log: Path) -> list[str]:
        """A command prefix that kills or holds a process at the first such call."""
        action = {"before": "signal=SIGKILL", "during": f"delay_enter={_HELD}", "after": f"delay_exit={_HELD}"}
        options = [] if self.main else ["--seccomp-bpf"]
        options += ["-e", "signal=none", "-P", str(self.path(workdir, step)), "-e", f"trace={self.names}"]
        inject = f"inject={self.names}:{action[self.phase]}"
        return ["strace", "-f", "-qq", *options, "-e", inject, "-o", str(log)]


@dataclasses.dataclass(frozen=True)
class Place:
    """A place where a process is killed.

    Attributes:
        name: name in the table.
        call: the system call; None for another place.
        reached: without a call: returns True, for a process and the step of a checkpoint, if the process is there.
        later: most seconds from then to the kill, drawn at random.
        saves: the place is inside a save.
    """

    name: str
    call: Call | None = None
    reached: Callable[[Attempt, int], bool] | None = None
    later: float = 0.0
    saves: bool = False

    def kill(self, attempt: Attempt, step: int, random: Random) -> None:
        """Kills the process there.

        Raises:
            NotReachedError: it ended before.
        """
        if self.call is None:
            wait_for(attempt, lambda: self.reached(attempt, step))
            time.sleep(random.uniform(0, self.later))
            attempt.process.kill()
        elif self.call.phase != "before":
            wait_for(attempt, lambda: any(attempt.workdir.glob(f"checkpoints/{step}*")) and _held(_traced(attempt)))
            os.kill(_traced(attempt), signal.SIGKILL)
        code = attempt.process.wait()
        if code != -signal.SIGKILL:
            raise NotReachedError(f"{self.name}: the process ended before with {code}, see {attempt.log}")


class NotReachedError(Exception):
    """The process ended or continued without reaching the place."""


def wait_for(attempt: Attempt, condition: Callable[[], bool], seconds: float = 600) -> None:
    """Waits until a condition of a running process holds.

    Raises:
        NotReachedError: the process ended before, or took longer.
    """
    until = time.monotonic() + seconds
    while not condition():
        if attempt.process.poll() is not None:
            raise NotReachedError(f"the process ended before with {attempt.process.returncode}, see {attempt.log}")
        if time.monotonic() > until:
            raise NotReachedError(f"not reached in {seconds:g} s, see {attempt.log}")
        time.sleep(0.005)


def _traced(attempt: Attempt) -> int | None:
    """The process that strace has started; None before its start and after its end."""
    tracer = attempt.process.pid
    try:
        children = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _held(process: int | None) -> bool:
    """True if strace has held a thread of the process for two seconds."""
    if process is None:
        return False
    held: set[Path] | None = None
    for _ in range(40):
        stopped = set()
        for task in Path(f"/proc/{process}/task").glob("*"):
            try:
                if "State:\tt" in (task / "status").read_text():
                    stopped.add(task)
            except OSError:  # it has ended
                continue
        held = stopped if held is None else held & stopped
        if not held:
            return False
        time.sleep(0.05)
    return True


def _trained(attempt: Attempt, step: int) -> bool:
    return attempt.step >= step


def _searching(attempt: Attempt, step: int) -> bool:
    return any(attempt.prepared.rglob("segment-*")) or bool(re.search(r"(?i)proposals.* [1-9]\d*/\d", attempt.printed))


def _compiling(attempt: Attempt, step: int) -> bool:
    return attempt.step == 0


def _measuring(attempt: Attempt, step: int) -> bool:
    return attempt.checkpoint(step).is_dir() and "Detecting" in attempt.printed


def _in_save(name: str, calls: str, phase: str, path: Callable[[Path, int], Path]) -> Place:
    return Place(f"save, {phase} {name}", Call(calls, path, phase), saves=True)


def _checkpoint(*parts: str) -> Callable[[Path, int], Path]:
    return lambda workdir, step: workdir.joinpath("checkpoints", str(step), *parts)


def _unfinished(*parts: str) -> Callable[[Path, int], Path]:
    return lambda workdir, step: workdir.joinpath("checkpoints", f"{step}.orbax-checkpoint-tmp", *parts)


PLACES = {
    place.name: place
    for place in (
        Place("search for proposals", reached=_searching, later=0.3),
        Place("first compilation", reached=_compiling, later=2.0),
        Place("a step", reached=_trained, later=0.3),
        Place("evaluation", reached=_measuring, later=0.5),
        Place("before write to .lock", Call("pwrite64", lambda workdir, _: workdir / ".lock", "before", main=True)),
        Place(
            "before write to metrics.jsonl",
            Call("write", lambda workdir, _: workdir / "metrics.jsonl", "before", main=True),
        ),
        _in_save("mkdir", "mkdir,mkdirat", "before", _unfinished()),
        _in_save("fsync of arrays", "fsync", "during", _unfinished(*_ARRAYS, "d")),
        _in_save("rename of arrays", _RENAMES, "before", _unfinished(_ARRAYS[0])),
        _in_save("rename", _RENAMES, "before", _unfinished()),
        _in_save("rename", _RENAMES, "during", _unfinished()),
        _in_save("rename", _RENAMES, "after", _unfinished()),
        # The call that makes its folder, if missing, is just before the write of the file.
        _in_save("checksums.json", "mkdir", "before", _checkpoint()),
        # Two checkpoints are kept: the step is that of the removed one.
        _in_save("first removal of an old file", "unlinkat", "after", _checkpoint()),
    )
}
