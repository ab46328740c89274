"""Attacks by the pickle of a `.pth` file: nothing in it is run, and it costs neither time nor memory."""

import builtins
import os
import pickle
import struct
import time

import numpy as np
import pytest

from frcnn_jax.weights.formats.torch.state_dict import read_state_dict
from tests.weights.torch_files import WRITERS, Tensor, write_legacy, write_zip

CALLS: list[tuple] = []


class Call:
    """Pickled as a call of a function of Python's own, as in files that are passed around to take over machines."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tuples(depth: int) -> bytes:
    """A tuple of two tuples, each the same of two, and so on: 2 ** depth items that take `depth` places."""
    return b"K\x00" + b"2\x86" * depth  # a number; then twice DUP and TUPLE2


SYSTEM = b"cos\nsystem\n"
ENDLESS = b"}" + tuples(60) + b"K\x01s."
ATTACKS = {
    "a call": pickle.dumps(Call(os.system, "touch made"), protocol=2),
    "a call by protocol 0": b"cos\nsystem\n(S'touch made'\ntR.",
    "a call by protocol 4": pickle.dumps(Call(os.system, "touch made"), protocol=4),
    "eval": pickle.dumps({"a": Call(builtins.eval, "open('made', 'w')")}, protocol=2),
    "INST": b"(S'touch made'\nios\nsystem\n.",
    "OBJ": b"(" + SYSTEM + b"S'touch made'\no.",
    "a class made anew": b"csubprocess\nPopen\n(S'touch made'\nt\x81.",
    "attributes of a name that is known": (
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x24_rebuild_tensor_v2.__globals__.update\x93."
    ),
    "a name below one that is known": b"\x80\x04\x8c\x0bcollections\x8c\x10OrderedDict.keys\x93.",
    "an extension": b"\x82\x01.",
    "a persistent name": b"Pos.system\n.",
    "a persistent text": text("os.system") + b"Q.",
    "the state of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + b"K\x01sb.",
    "the state of a class": b"ccollections\nOrderedDict\n}" + text("items") + b"K\x01sb.",
    "the slots of a function": b"ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__defaults__") + b")s\x86b.",
    "a call of a text": b"ctorch\nFloatStorage\n)R.",
    "items of what is no dictionary": b"]K\x00K\x01s.",
    "a key that takes forever": ENDLESS,
    "keys that take forever": b"}(" + tuples(60) + b"K\x01u.",
    "a dictionary that takes forever": b"(" + tuples(60) + b"K\x01d.",
    "an argument that takes forever": b"ccollections\nOrderedDict\n]]" + tuples(60) + b"aK\x01aa\x85R.",
    "a storage of a name that takes forever": b"(" + text("storage") + tuples(60) + b"K\x00K\x00K\x00tQ.",
    "a storage of a key that takes forever": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + tuples(60) + b"K\x00K\x01tQ."
    ),
    "a shape that takes forever to be told": (
        b"}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage") + b"ctorch\nFloatStorage\nX\x01\x00\x00\x000K\x00K\x01tQK\x00" + tuples(60) + b")tRs."
    ),
    "a text of terabytes": b"\x8d" + struct.pack("<Q", 1 << 41) + b"a.",
    "bytes of terabytes": b"\x8e" + struct.pack("<Q", 1 << 41) + b"a.",
    "an array of terabytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 41) + b"a.",
    "a frame of terabytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 41) + b"N.",
    "a number of terabytes": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"a.",
    "a place far out": b"Nr" + struct.pack("<I", (1 << 32) - 1) + b".",
    "lists in lists": b"]" * 20_000 + b"a" * 19_999 + b".",
}  # fmt: skip


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_one_line_and_does_nothing(tmp_path, monkeypatch, attack, form):
    monkeypatch.chdir(tmp_path)
    pickled = ATTACKS[attack]
    path = WRITERS[form](tmp_path / "a.pth", {}, pickled=pickled)
    started = time.process_time()
    with pytest.raises(ValueError, match=r".") as error:
        read_state_dict(path)
    assert time.process_time() - started < 2
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert os.listdir(tmp_path) == ["a.pth"]
    assert "MemoryError" not in str(error.value)


def test_the_attacks_are_programs_that_python_runs(tmp_path, monkeypatch):
    """Else the test above would show little."""
    monkeypatch.chdir(tmp_path)
    for name in ("a call", "a call by protocol 0", "a call by protocol 4", "INST", "OBJ"):
        assert pickle.loads(ATTACKS[name]) == 0
        os.remove("made")


def test_what_scripts_save_beside_tensors_is_still_skipped(tmp_path):
    state = {"a": Tensor(np.ones((2, 3), np.float32))}
    saved = {"model": state, "seen": 1, "by": {(1, "a"): 2.5, None: b"x", 3: [()]}}
    for write in (write_zip, write_legacy):
        assert read_state_dict(write(tmp_path / "a.pth", saved))["a"].read().tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((1 << 20, 1 << 20), (0, 0), 0), ((3,), (0,), 0), ((2,), (1,), 1), ((2, 1), (1, 1 << 40), 0), ((-1,), (1,), 0)],
)
def test_a_tensor_is_not_larger_than_its_storage(tmp_path, shape, strides, offset):
    """A few bytes that stand for an array of terabytes."""

    def numbers(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K" + bytes([offset]) + numbers(shape)
    pickled = b"\x80\x02}" + text("a") + tensor + numbers(strides) + b"tRs."
    path = write_zip(tmp_path / "a.pth", {"a": Tensor(np.ones(2, np.float32))}, pickled=pickled)
    if shape == (2, 1):
        assert read_state_dict(path)["a"].read().tolist() == [[1], [1]]
        return
    with pytest.raises(
        ValueError, match=r"a of the shape .* is not within the 2 numbers|the shape of a or its strides"
    ):
        read_state_dict(path)


def test_a_compressed_description_is_refused(tmp_path):
    """A megabyte of it can stand for a gigabyte."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"}" + bytes(1 << 20))
    with pytest.raises(ValueError, match=r"a/data\.pkl is compressed"):
        read_state_dict(tmp_path / "a.pth")
