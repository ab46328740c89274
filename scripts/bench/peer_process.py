"""Runs the peer, PyTorch and torchvision, in a process of its own and reads what it measured."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.sizes import Sizes
from bench.timing import Timing

_SCRIPTS = Path(__file__).resolve().parent.parent


class PeerError(Exception):
    """The peer cannot run, or computes something else than we do."""


@dataclasses.dataclass(frozen=True)
class PeerResult:
    """What the peer measured: timings by case, the variant or fault of each in `notes`, and arrays to compare."""

    timings: Mapping[str, Timing]
    notes: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    def timing(self, case: str) -> Timing | None:
        return self.timings.get(case)

    def note(self, case: str) -> str:
        return self.notes.get(case, "")


NO_RESULT = PeerResult({}, {}, {}, {})


@dataclasses.dataclass(frozen=True)
class Peer:
    """An interpreter that imports torch and torchvision."""

    python: str
    versions: Mapping[str, str]
    device: str  # cpu or cuda
    sizes: Sizes

    def run(
        self, topic: str, cases: Sequence[str], arrays: Mapping[str, np.ndarray] | None = None, folder: str = ""
    ) -> PeerResult:
        """Measures the cases of a topic.

        Args:
            arrays: inputs that the peer shares with us.
            folder: of files that it reads.

        Raises:
            PeerError: the process failed.
        """
        with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
            np.savez(Path(work) / "inputs.npz", **(arrays or {}))
            job = {
                "topic": topic, "cases": list(cases), "device": self.device, "folder": folder,
                "sizes": dataclasses.asdict(self.sizes),
            }  # fmt: skip
            (Path(work) / "job.json").write_text(json.dumps(job))
            done = subprocess.run(
                [self.python, "-m", "bench.peer", work],
                cwd=_SCRIPTS,
                env={**os.environ, "PYTHONPATH": str(_SCRIPTS)},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise PeerError(f"the peer failed in topic {topic}: {_last_line(done.stderr)}")
            result = json.loads((Path(work) / "result.json").read_text())
            with np.load(Path(work) / "outputs.npz") as outputs:
                arrays = {name: outputs[name] for name in outputs.files}
        timings = {case: Timing(tuple(samples)) for case, samples in result["samples"].items()}
        return PeerResult(timings, result["notes"], arrays, result["facts"])


def find_peer(python: str | None, platform: str, sizes: Sizes) -> tuple[Peer | None, str]:
    """The peer, and a line that says which it is or why there is none.

    Args:
        python: an interpreter; this one if None, provided that it has torch and torchvision.
        platform: where we run; the peer runs there too.

    Raises:
        PeerError: the interpreter that was asked for does not import torch and torchvision or lacks the GPU.
    """
    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if device is None:
        return None, f"No peer: PyTorch is measured on CPUs and GPUs, and this is a {platform}"
    if python is not None:
        # The process starts in another folder. Links stay: they are what makes a virtual environment.
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
