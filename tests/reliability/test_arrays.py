"""Files of arrays made to do harm: lengths that lie, links to other files, what ends a process with other readers."""

import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from frcnn_jax.data.proposals.files import read_proposal_file
from frcnn_jax.data.proposals.matlab import read_mat
from frcnn_jax.npz import open_npz
from frcnn_jax.weights.formats.keras_file import read_layers
from frcnn_jax.weights.formats.protobuf import FIXED32, fields


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def npz(path, content: bytes, method: int = zipfile.ZIP_STORED, stated: int | None = None):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", content)
    if stated is not None:  # in the list at the end of the archive, which is what counts
        data = path.read_bytes()
        at = data.rindex(b"PK\x01\x02") + 24
        path.write_bytes(data[:at] + struct.pack("<I", stated) + data[at + 4 :])
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"), "have 16000000000000 bytes"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", bytes(16)), "bytes for the shape|negative"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n."), "Python objects"),
        (npy("[" * 3000), "."),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 90), "."),
        (b"\x93NUMPY\x09\x00" + bytes(20), "version 9.0"),
        (b"", "."),
    ],
)  # fmt: skip
def test_npz_that_lies(tmp_path, content, reason):
    path = npz(tmp_path / "a.npz", content)
    with pytest.raises(ValueError, match=reason) as error, open_npz(path) as arrays:
        arrays["a"]
    assert "\n" not in str(error.value)


def test_npz_of_more_than_deflate_can_pack(tmp_path):
    path = npz(
        tmp_path / "a.npz", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4)), stated=1 << 31
    )
    with pytest.raises(ValueError, match="a claims 2147483648 bytes, compressed to"), open_npz(path) as arrays:
        arrays["a"]


def matlab(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def mat_file(shape: tuple[int, ...], flags: int = 6, name: bytes = b"boxes", more: bytes = b"") -> bytes:
    sizes = matlab(5, struct.pack(f"<{len(shape)}i", *shape))
    body = matlab(6, struct.pack("<II", flags, 0)) + sizes + matlab(1, name) + more
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + matlab(14, body)


@pytest.mark.parametrize(
    "content",
    [
        mat_file((1 << 30, 4), more=matlab(9, bytes(32))),
        mat_file((-1, 4), more=matlab(9, bytes(32))),
        mat_file((1 << 30, 1), flags=1),
        mat_file((2, 4), more=matlab(77, bytes(64))),
        mat_file((2, 4), more=struct.pack("<II", 9, 1 << 31)),
        mat_file((1,) * 100),
        b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + matlab(15, zlib.compress(struct.pack("<II", 14, 1 << 31))),
        b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + matlab(15, b"no zlib"),
        struct.pack("<5i", 0, 1 << 30, 1 << 30, 0, 6) + b"boxes\0",
        struct.pack("<5i", 0, 4, 1, 0, 1 << 30) + b"boxes\0",
    ],
)
def test_mat_that_lies(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat: cannot be read as a \.mat file: .") as error:
        read_proposal_file(tmp_path / "a.mat", ["a"], np.array([[9, 9]]), "error")
    assert "\n" not in str(error.value)


def test_a_text_that_ends_the_process_with_scipys_reader(tmp_path):
    """Its length is a little more than the four bytes that a small element has."""
    savemat(tmp_path / "a.mat", {"boxes": np.ones((2, 4)), "more": "text"})
    data = bytearray((tmp_path / "a.mat").read_bytes())
    data[data.rindex(b"\x10\x00\x04\x00text")] = 0x01
    (tmp_path / "a.mat").write_bytes(data)
    found, names = read_mat(tmp_path / "a.mat", ["boxes"])
    assert names == ["boxes", "more"]
    assert (found["boxes"] == 1).all()


@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"format": "4"}], ids=["5", "packed", "4"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_mat_is_read_as_scipy_reads_it(tmp_path, dtype, options):
    random = np.random.default_rng(0)
    numbers = {
        f"a{i}": random.integers(0, 100, shape).astype(dtype) for i, shape in enumerate([(3, 4), (1, 4), (4, 1)])
    }
    if options.get("format") != "4":
        cells = np.empty((2, 3), object)
        for i in range(6):
            cells.flat[i] = random.integers(0, 300, (i, 4)).astype(dtype)
        numbers |= {"cells": cells, "three": random.integers(0, 9, (2, 3, 4)).astype(dtype)}
    elif dtype in ("i1", "u4", "i8", "u8"):
        pytest.skip("not a type of level 4")
    savemat(tmp_path / "a.mat", numbers, **options)
    found, names = read_mat(tmp_path / "a.mat", numbers)
    wanted = loadmat(tmp_path / "a.mat")
    assert names == list(numbers)
    for name in numbers:
        for ours, theirs in zip(np.atleast_1d(found[name]).flat, np.atleast_1d(wanted[name]).flat, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)
        assert found[name].dtype == wanted[name].dtype
        assert found[name].shape == wanted[name].shape


def elsewhere(path):
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["numbers"] = np.ones((3, 3, 3, 4), np.float32)
    (path.parent / "secret").write_bytes(bytes(432))


def h5(path, how: str):
    elsewhere(path)
    with h5py.File(path, "w") as file:
        vars_ = file.create_group("layers/conv/vars")
        vars_.attrs["name"] = "block1_conv1"
        if how == "link":
            vars_["0"] = h5py.ExternalLink("other.h5", "numbers")
        elif how == "external":
            vars_.create_dataset("0", (3, 3, 3, 4), "f4", external=[("secret", 0, 432)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "numbers", (3, 3, 3, 4))
            vars_.create_virtual_dataset("0", layout)
        elif how == "not there":
            vars_.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
        elif how == "packed":
            vars_.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")
        elif how == "text":
            vars_["0"] = "text"
        elif how == "group":
            vars_.create_group("0")
    return path


@pytest.mark.parametrize(
    ("how", "reason"),
    {
        "link": "in another file", "external": "in another file", "virtual": "in another file",
        "not there": "are not there", "packed": "are not there", "text": "not an array", "group": "not an array",
    }.items(),
)  # fmt: skip
def test_h5_that_points_elsewhere_or_nowhere(tmp_path, monkeypatch, how, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"block1_conv1.*{reason}|{reason}.*block1_conv1|{reason}"):
        read_layers(h5(tmp_path / "a.h5", how))


def test_short_runs_of_numbers_are_not_looked_for_in_all_of_the_rest(monkeypatch):
    """Two of one field, then two of another."""
    pair = b"".join(bytes([number << 3 | FIXED32]) + bytes(4) for number in (1, 1, 2, 2))
    content = memoryview(pair * 500)
    looked_at, plain = [], np.frombuffer
    monkeypatch.setattr(np, "frombuffer", lambda *args: looked_at.append(args[2]) or plain(*args))
    assert [field.count for field in fields(content, 0, len(content))] == [2] * 1000
    assert sum(looked_at) < 3 * len(content)
    one = memoryview((bytes([1 << 3 | FIXED32]) + bytes(4)) * 1000 + bytes([2 << 3 | FIXED32]) + bytes(4))
    assert [field.count for field in fields(one, 0, len(one))] == [1000, 1]


def test_names_of_variables_are_told_as_a_terminal_can_show_them(tmp_path):
    (tmp_path / "a.mat").write_bytes(mat_file((1, 4), name=b"box\r\n\x1b[2Jes" + b"x" * 100, more=matlab(9, bytes(32))))
    with pytest.raises(ValueError, match=r"no variable 'boxes' \(it has: box\?\?\?\[2Jesx{52}\)$"):
        read_proposal_file(tmp_path / "a.mat", ["a"], np.array([[9, 9]]), "error")


def test_letters_that_are_none(tmp_path):
    path = npz(tmp_path / "a.npz", npy("{'descr': '<U1', 'fortran_order': False, 'shape': ()}", b"\x00\x00\x11\x00"))
    with pytest.raises(ValueError, match=r"^a holds code points that are not characters$"), open_npz(path) as arrays:
        arrays["a"]
    np.savez(tmp_path / "b.npz", a=np.array("\U0010ffff"))
    with open_npz(tmp_path / "b.npz") as arrays:
        assert str(arrays["a"]) == "\U0010ffff"
