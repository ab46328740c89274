"""A folder that may only be read, at each place that writes: one line that names it, and nothing is left."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.voc_files import VocFiles, object_xml

ROOT = Path(__file__).parents[2]
# Root may write anywhere until it gives up CAP_DAC_OVERRIDE, here before there are threads.
PROGRAM = """
import contextlib, ctypes, io, json, sys
header, sets, libc = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(), ctypes.CDLL(None)
assert libc.capget(header, sets) == 0
sets[0] &= ~2
assert libc.capset(header, sets) == 0
sys.path.append({root!r})
from tests.reliability.test_read_only import call

for name, arguments in {cases!r}:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call(name, *arguments)
        found = None
    except SystemExit as stopped:
        found = "exit", str(stopped.code)
    except Exception as error:
        found = type(error).__name__, str(error)
    print(json.dumps([name, found]), flush=True)
"""


def call(name, *arguments):
    """A command by its name, or a writer of ours in a folder."""
    from frcnn_jax.checkpoint import Checkpoints
    from frcnn_jax.cli.run import run
    from frcnn_jax.data.proposals.store import ProposalStore
    from frcnn_jax.locks import folder_lock
    from frcnn_jax.training.data_record import DataRecord, write_record
    from frcnn_jax.training.metrics import MetricsLog
    from tests.reliability.test_full_disk import WRITERS
    from tests.test_checkpoint import save

    folder = Path(arguments[0])
    if name in WRITERS:
        WRITERS[name][1](folder)
    elif name == "lock":
        with folder_lock(folder, purpose="a test"):
            pass
    elif name == "store of proposals":
        with ProposalStore(folder, {"method": "m"}).lock():
            pass
    elif name == "metrics":
        log = MetricsLog(folder, 0, lambda step: 0.1)
        log.add(1, {"loss": 1.0, "gradient_norm": 1.0, "classification": 1.0, "localization": 0.0}, ["a"], 0.0)
        log.flush()
    elif name == "record of data":
        write_record(folder, DataRecord("a", (), ("cat",), ("b",), np.zeros((1, 4, 8), np.uint8)))
    elif name == "new checkpoints":
        Checkpoints(folder)
    elif name == "checkpoint":
        save(folder, 2)
    else:
        sys.argv = [f"frcnn {name}", *arguments[1:]]
        run(importlib.import_module(f"frcnn_jax.commands.{name.replace('-', '_')}").main)


@pytest.fixture
def place(tmp_path):
    """A folder with data, and an empty one, which may only be read."""
    files = VocFiles(tmp_path / "data")
    for name in ("a", "b"):
        files.image(name, object_xml())
    files.split("train", "a")
    files.split("test", "b")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    paths = [tmp_path, *tmp_path.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path
    for path in paths:
        path.chmod(0o755)


def test_one_line_that_names_the_folder(place):
    data = ("--data.root", f"{place}/data", "--data.tfds-dir", f"{place}/prepared")
    commands = {
        "demo-data": (f"{place}/demo",),
        "inspect-data": ("--data.root", f"{place}/data", "--out", f"{place}/page"),
        "proposals": ("--image", f"{place}/data/JPEGImages/a.jpg", "--out", f"{place}/pictures"),
        "train": ("--config", "folder_scratch", "--workdir", f"{place}/new", *data),
    }
    writers = ("text", "safetensors", "npz", "picture", "evaluations", "results of a comparison", "lock",
               "store of proposals", "metrics", "record of data", "new checkpoints")  # fmt: skip
    cases = [(name, (str(place), *arguments)) for name, arguments in commands.items()]
    cases += [(name, (str(place / "data"),)) for name in writers]
    cases.append(("checkpoint", (str(place / "run"),)))
    before = sorted(place.rglob("*"))
    program = PROGRAM.format(root=str(ROOT), cases=cases)
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert set(found) == {name for name, _ in cases}
    for name, (kind, message) in found.items():
        assert kind in ("exit", "OSError", "PermissionError"), (name, kind, message)
        assert "Permission denied" in message, (name, message)
        assert str(place) in message, (name, message)
        assert "\n" not in message, (name, message)
    assert sorted(place.rglob("*")) == before
