"""Damaged files of every kind that is read end in a result or in one line, in bounded time and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("jpeg", "png", "webp", "bmp", "tiff")
PLAIN = (*IMAGES, "xml", "coco", "yolo", "yolo_yaml", "csv", "voc_list", "mat", "npz", "tar")
WEIGHTS = ("caffemodel", "pth", "pth_legacy", "safetensors", "npz_weights", "metadata", "h5")
# `-P` and `append`: the package as it is installed, not the sources beside the tests.
_CODE = "import sys; sys.path.append({!r}); from tests.reliability.{} import main; main()"


def fuzz(*kinds: str, count: int, module: str = "fuzz", **options: object) -> list[dict]:
    """The outcomes of `fuzz.py` in a process of its own, which has no threads of JAX when it makes its children."""
    code = _CODE.format(str(ROOT), module)
    more = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *kinds, "--count", str(count), *more],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: dict) -> None:
    shown = "\n".join(f"input {fault['input']}: {fault['fault']}" for fault in found["faults"][:5])
    assert not found["faults"], f"{found['kind']}: {len(found['faults'])} faults\n{shown}"
    assert sum(found["outcomes"].values()) == found["inputs"]
    # Some is noticed, in two kinds as faults in a result, and some that is little damaged is read.
    assert found["kind"] in ("xml", "yolo") or found["outcomes"]["result"] < found["inputs"]
    assert found["outcomes"].get("result", 0) > 0


@pytest.mark.parametrize("kinds", [PLAIN, WEIGHTS], ids=["data", "weights"])
def test_damaged_files(kinds):
    # Reading .h5 starts a process each time.
    found = fuzz(*kinds[:-1], count=100) + fuzz(kinds[-1], count=8 if kinds[-1] == "h5" else 100)
    assert [its["kind"] for its in found] == list(kinds)
    for its in found:
        check(its)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", [*PLAIN, *WEIGHTS])
def test_many_damaged_files(kind):
    (found,) = fuzz(kind, count=20_000, seed=1)
    print(f"{kind}: {found['seconds']} s, {found['outcomes']}")
    check(found)


def test_what_a_reader_must_not_do_is_noticed():
    """The same check, of readers that do it."""
    found = fuzz("crash", "hang", "memory", "key_error", "two_lines", "empty", "shout", "write", "run", "good", count=2,
                 module="bad_readers")  # fmt: skip
    faults = {its["kind"]: its["faults"] for its in found}
    wanted = {
        "crash": "ended by SIGABRT", "hang": "ended by SIGPROF", "memory": "MemoryError", "key_error": "KeyError: 'a'",
        "two_lines": "several lines", "empty": "an empty message", "shout": "100 lines are printed",
        "write": "for writing", "run": "it does ",
    }  # fmt: skip
    for kind, fault in wanted.items():
        assert [its["input"] for its in faults[kind]] == [0, 1], kind
        assert fault in faults[kind][0]["fault"], kind
    assert faults["good"] == []
