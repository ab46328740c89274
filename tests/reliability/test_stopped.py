"""SIGTERM and Ctrl-C in the search for proposals, the first compilation and an evaluation: out in time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 30.0  # seconds
SETTINGS = (
    *("--train.steps", "4", "--train.checkpoint-every", "2", "--train.evaluate-every", "2"),
    *("--input.scales", "64", "--input.max-size", "96", "--input.test-scale", "64", "--input.test-max-size", "96"),
    *("--input.batch-size", "2", "--proposals.max-count", "60", "--data.validation", "folder/test"),
)
# Words in what a training prints there.
PLACES = {"proposals": "proposals of folder/train", "compilation": "Training 0/4", "evaluation": "Detecting"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "frcnn_jax", "demo-data", str(root / "data"), "--train", "60", "--test", "12"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return root / "data"


def start(data: Path, folder: Path) -> tuple[subprocess.Popen, Path]:
    """A training in the folder, with the usual effect of Ctrl-C, and the file of what it prints."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " \
           "from frcnn_jax.__main__ import main; main()"  # fmt: skip
    command = [
        *(sys.executable, "-c", code, "train", "--config", "demo", "--workdir", str(folder / "run")),
        *("--data.root", str(data), "--data.tfds-dir", str(folder / "prepared"), *SETTINGS),
    ]
    with log.open("w") as file:
        env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file), log


def wait_for(process: subprocess.Popen, log: Path, words: str) -> None:
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.01)
    time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_each_place_and_on_again(data, tmp_path, number):
    for place, words in PLACES.items():
        process, log = start(data, tmp_path)
        try:
            wait_for(process, log, words)
            process.send_signal(number)
            since = time.monotonic()
            code = process.wait(timeout=300)
        finally:
            process.kill()
        seconds = time.monotonic() - since
        print(f"{signal.Signals(number).name} in {place}: {code} after {seconds:.1f} s")
        assert code in (128 + number, -number), log.read_text()[-2000:]
        assert seconds < LIMIT
        assert "Traceback" not in log.read_text()
    process, log = start(data, tmp_path)
    assert process.wait() == 0, log.read_text()[-2000:]
    assert "Training 4/4" in log.read_text()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_second_signal_ends_at_once(data, tmp_path):
    process, log = start(data, tmp_path)
    try:
        wait_for(process, log, PLACES["compilation"])
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        since = time.monotonic()
        assert process.wait(timeout=300) in (143, 130, -signal.SIGTERM)
    finally:
        process.kill()
    assert time.monotonic() - since < 5
