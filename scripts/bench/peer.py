"""The peer, PyTorch and torchvision: a separate process that measures samples of its time on request."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.sizes import Sizes
from bench.timing import Sampler, Timing, measure, take_turns
from frcnn_jax.machine import cores

_SCRIPTS = Path(__file__).resolve().parent.parent
# The counterpart of bench.memory.
_KEEP_FREED_MEMORY = "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


class PeerError(Exception):
    """The peer cannot run, or computes something else than this package."""


@dataclasses.dataclass(frozen=True)
class PeerSession:
    """The peer, ready for one topic: outputs to compare, and samples of its time in each of `cases`."""

    cases: frozenset[str] = frozenset()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # the fastest variant, by case
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sample: Callable[[str], float] | None = None

    def measure(
        self, case: str, run: Callable[[], Any], wait: Callable[[Any], Any], sizes: Sizes
    ) -> tuple[Timing, Timing | None]:
        """The times of this package and of the peer, sampled in turns; None if the peer lacks the case."""
        if case not in self.cases:
            return measure(run, wait, sizes.effort), None
        ours, theirs = take_turns([Sampler(run, wait, sizes.effort), lambda: self.sample(case)], sizes.effort)
        return ours, theirs

    def note(self, case: str) -> str:
        return f"peer: {self.notes[case]}" if case in self.notes else ""


@dataclasses.dataclass(frozen=True)
class Peer:
    """An interpreter that imports torch and torchvision."""

    python: str
    versions: Mapping[str, str]
    device: str  # cpu or cuda
    sizes: Sizes

    @contextlib.contextmanager
    def start(
        self, topic: str, cases: Sequence[str], arrays: Mapping[str, np.ndarray] | None = None, folder: str = ""
    ) -> Iterator[PeerSession]:
        """A process that is ready to measure the cases of a topic; it ends with the context.

        Args:
            arrays: shared inputs.
            folder: folder of files that it reads.

        Raises:
            PeerError: the process failed.
        """
        with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
            np.savez(Path(work) / "inputs.npz", **(arrays or {}))
            job = {
                "topic": topic, "cases": list(cases), "device": self.device, "cores": cores(), "folder": folder,
                "sizes": dataclasses.asdict(self.sizes),
            }  # fmt: skip
            (Path(work) / "job.json").write_text(json.dumps(job))
            program = "bench.pytorch.process", [work]
            with (
                open(Path(work) / "stderr", "w+") as errors,
                self._process(*program, errors, GLIBC_TUNABLES=_KEEP_FREED_MEMORY) as process,
            ):

                def ask(question: str | None) -> Any:
                    with contextlib.suppress(BrokenPipeError):
                        if question is not None:
                            process.stdin.write(json.dumps(question) + "\n")
                            process.stdin.flush()
                    answer = process.stdout.readline()
                    if not answer:
                        errors.seek(0)
                        raise PeerError(f"the peer failed in topic {topic}: {_last_line(errors.read())}")
                    return json.loads(answer)

                try:
                    ready = ask(None)
                    with np.load(Path(work) / "outputs.npz") as outputs:
                        found = {name: outputs[name] for name in outputs.files}
                    yield PeerSession(frozenset(cases), ready["notes"], found, ready["facts"], ask)
                finally:
                    process.kill()

    def lines(self, module: str, *arguments: str) -> Iterator[Any]:
        """JSON lines printed by a module of the peer, as they arrive.

        Raises:
            PeerError: the process failed.
        """
        with tempfile.TemporaryFile("w+") as errors, self._process(module, arguments, errors) as process:
            try:
                yield from map(json.loads, process.stdout)
                status = process.wait()
            finally:
                process.kill()
            if status:
                errors.seek(0)
                raise PeerError(f"the peer failed in {module}, exit status {status}: {_last_line(errors.read())}")

    def _process(self, module: str, arguments: Sequence[str], errors: Any, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.python, "-m", module, *arguments],
            cwd=_SCRIPTS,
            env={**variables, **os.environ, "PYTHONPATH": str(_SCRIPTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def open_peer(
    peer: Peer | None,
    topic: str,
    cases: Sequence[str],
    arrays: Mapping[str, np.ndarray] | None = None,
    folder: str = "",
) -> contextlib.AbstractContextManager[PeerSession]:
    """`peer.start`, or a session without cases if there is no peer."""
    return contextlib.nullcontext(PeerSession()) if peer is None else peer.start(topic, cases, arrays, folder)


def find_peer(python: str | None, platform: str, sizes: Sizes) -> tuple[Peer | None, str]:
    """The peer, and a line that names it or says why there is none.

    Args:
        python: an interpreter; this one if None, if it has torch and torchvision.
        platform: platform of this package and of the peer.

    Raises:
        PeerError: the given interpreter does not import torch and torchvision, or lacks the GPU.
    """
    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if device is None:
        return None, f"No peer: PyTorch is measured on CPUs and GPUs, and this is a {platform}"
    if python is not None:
        # The process starts in another folder. Links are kept: they make a virtual environment.
        return _start(os.path.abspath(shutil.which(python) or python), device, sizes)
    missing = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        return None, f"No peer: this Python has no {' and no '.join(missing)} (--peer-python PATH names another)"
    try:
        return _start(sys.executable, device, sizes)
    except PeerError as error:
        return None, f"No peer: {error}"


def _start(interpreter: str, device: str, sizes: Sizes) -> tuple[Peer, str]:
    program = (
        "import json, torch, torchvision; print(json.dumps({'torch': torch.__version__,"
        " 'torchvision': torchvision.__version__, 'cuda': torch.cuda.is_available()}))"
    )
    try:
        done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True)
    except OSError as error:
        raise PeerError(f"{interpreter}: {error.strerror}") from error
    if done.returncode:
        raise PeerError(f"{interpreter} does not import torch and torchvision: {_last_line(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if device == "cuda" and not found.pop("cuda"):
        raise PeerError(f"{interpreter}: its torch {found['torch']} finds no GPU, where JAX has one")
    versions = {name: found[name] for name in ("torch", "torchvision")}
    return Peer(interpreter, versions, device, sizes), (
        f"Peer: PyTorch {versions['torch']}, torchvision {versions['torchvision']} on {device}, in {interpreter}"
    )


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no message"
