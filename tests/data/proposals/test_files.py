"""Proposals from .mat and .npz files, and the treatment of invalid boxes."""

import struct

import numpy as np
import pytest
from scipy import sparse
from scipy.io import savemat

from frcnn_jax.data.proposals.files import clean_boxes, read_proposal_file

IDS = ("000001", "000002", "000003")
SIZES = np.array([[40, 60], [50, 30], [10, 10]])  # height, width


def cells(*arrays, shape=(1, -1)):
    array = np.empty(len(arrays), object)
    for i, rows in enumerate(arrays):
        array[i] = rows
    return array.reshape(shape)


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, -1), (-1, 1)])
def test_release_form(tmp_path, dtype, shape):
    # y1 x1 y2 x2, 1-based and inclusive: the whole image of 40 x 60, and a single pixel in the corner.
    first = np.array([[1, 1, 40, 60], [1, 60, 1, 60], [5, 7, 20, 31]], dtype)
    third = np.array([[10, 10, 10, 10]], dtype)
    savemat(tmp_path / "a.mat", {"boxes": cells(first, np.zeros((0, 0), dtype), third, shape=shape)})
    a, b, c = read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")
    np.testing.assert_array_equal(a, [[0, 0, 60, 40], [59, 0, 60, 1], [6, 4, 31, 20]])
    assert a.dtype == b.dtype == np.float32
    assert b.shape == (0, 4)
    np.testing.assert_array_equal(c, [[9, 9, 10, 10]])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 0), (4, 0), (0,)])
def test_images_without_boxes(tmp_path, shape, compressed):
    """Empty cells have whatever shape MATLAB left them with."""
    boxes = cells(np.zeros(shape, np.uint16), np.array([[2, 3, 9, 8]], np.uint16), np.zeros(shape))
    savemat(tmp_path / "a.mat", {"boxes": boxes}, do_compression=compressed)
    a, b, c = read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")
    assert a.shape == c.shape == (0, 4)
    np.testing.assert_array_equal(b, [[2, 1, 8, 9]])


@pytest.mark.parametrize("options", [{"do_compression": True}, {"format": "4"}, {"appendmat": False}])
def test_kinds_of_mat_files(tmp_path, options):
    rows = np.array([[0, 0, 59, 39], [5, 7, 5, 7]], np.uint16)
    savemat(str(tmp_path / "a.mat"), {"boxes": rows}, **options)
    (boxes,) = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 40], [5, 7, 6, 8]])


def test_release_form_of_a_single_image(tmp_path):
    """One cell is a cell still: 1-based, and rows before columns."""
    savemat(tmp_path / "a.mat", {"boxes": cells(np.array([[1, 2, 30, 40]], np.uint16))})
    (boxes,) = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
    np.testing.assert_array_equal(boxes, [[1, 0, 40, 30]])


def test_release_form_over_many_images(tmp_path):
    """Random boxes of random numbers, back and forth, in the order of the split."""
    random = np.random.default_rng(0)
    ids, sizes = [f"{i:06d}" for i in range(40)], random.integers(20, 90, (40, 2))
    expected, rows = [], []
    for height, width in sizes:
        count = random.integers(0, 9)
        x = np.sort(random.integers(1, width + 1, (count, 2)), axis=1)
        y = np.sort(random.integers(1, height + 1, (count, 2)), axis=1)
        rows.append(np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1).astype(random.choice(["u2", "f8", "i4"])))
        expected.append([[x1 - 1, y1 - 1, x2, y2] for (x1, x2), (y1, y2) in zip(x, y, strict=True)])
    savemat(tmp_path / "a.mat", {"boxes": cells(*rows)}, do_compression=True)
    for boxes, own in zip(read_proposal_file(tmp_path / "a.mat", ids, sizes, "error"), expected, strict=True):
        np.testing.assert_array_equal(boxes, np.reshape(own, (-1, 4)))


def test_release_form_with_names_goes_by_name(tmp_path):
    boxes = cells(*(np.array([[1, 1, k, k]]) for k in (3, 2, 1)))
    names = cells(*(np.array([name]) for name in reversed(IDS)), shape=(-1, 1))
    savemat(tmp_path / "a.mat", {"boxes": boxes, "images": names})
    arrays = read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")
    assert [array[0, 2] for array in arrays] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"1 without proposals \(the first: other\), 1 .* not in .* first: 000003\)"):
        read_proposal_file(tmp_path / "a.mat", (*IDS[:2], "other"), SIZES, "error")
    savemat(tmp_path / "b.mat", {"boxes": boxes, "images": names[:2]})
    savemat(tmp_path / "c.mat", {"boxes": boxes, "images": cells(*[np.array([IDS[0]])] * len(IDS), shape=(-1, 1))})
    with pytest.raises(ValueError, match=rf"c.mat: 1 names occur twice in 'images' \(the first: {IDS[0]}\)"):
        read_proposal_file(tmp_path / "c.mat", IDS, SIZES, "error")
    with pytest.raises(ValueError, match="2 names in 'images', but 3 cells in 'boxes'"):
        read_proposal_file(tmp_path / "b.mat", IDS, SIZES, "error")


def test_release_form_of_another_number_of_images(tmp_path):
    savemat(tmp_path / "a.mat", {"boxes": cells(np.ones((1, 4)), np.ones((1, 4)))})
    with pytest.raises(ValueError, match=r"a\.mat: boxes of 2 images, but there are 3"):
        read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")


def test_demo_form(tmp_path):
    # x1 y1 x2 y2, 0-based and inclusive, unsigned as in the original's two files.
    savemat(tmp_path / "a.mat", {"boxes": np.array([[0, 0, 59, 39], [5, 7, 5, 7]], np.uint16)})
    (boxes,) = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 40], [5, 7, 6, 8]])
    with pytest.raises(ValueError, match="for one image, but there are 3"):
        read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")


def test_demo_form_without_boxes(tmp_path):
    savemat(tmp_path / "a.mat", {"boxes": np.zeros((0, 4))})
    (boxes,) = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
    assert boxes.shape == (0, 4)


def test_a_subset_of_the_images_is_read_only_where_it_is_asked_for(tmp_path):
    np.savez(tmp_path / "all.npz", a=[[0, 0, 5, 5]], b=[[1, 1, 4, 4]])
    (boxes,) = read_proposal_file(tmp_path / "all.npz", ["b"], np.array([[9, 9]]), "error", subset=True)
    np.testing.assert_array_equal(boxes, [[1, 1, 4, 4]])
    with pytest.raises(ValueError, match=r"1 that are not in the data set \(the first: a\)"):
        read_proposal_file(tmp_path / "all.npz", ["b"], np.array([[9, 9]]), "error")


def test_plain_npz_is_half_open_and_goes_by_id(tmp_path):
    arrays = {IDS[2]: np.zeros(0), IDS[0]: np.array([[0, 0, 60, 40], [0.5, 1, 2, 3]]), IDS[1]: np.array([[1, 2, 3, 4]])}
    np.savez(tmp_path / "a.npz", **arrays)
    a, b, c = read_proposal_file(tmp_path / "a.npz", IDS, SIZES, "error")
    np.testing.assert_array_equal(a, np.float32([[0, 0, 60, 40], [0.5, 1, 2, 3]]))
    np.testing.assert_array_equal(b, [[1, 2, 3, 4]])
    assert c.shape == (0, 4)
    assert a.dtype == b.dtype == c.dtype == np.float32
    with pytest.raises(ValueError, match=r"1 that are not in the data set \(the first: 000003\)"):
        read_proposal_file(tmp_path / "a.npz", IDS[:2], SIZES[:2], "error")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mat", {"other": np.ones((1, 4))}, r"no variable 'boxes' \(it has: other\)"),
        ("a.mat", {"boxes": np.ones((2, 5))}, r"boxes: expected numbers of shape \[P, 4\], got float64 \[2, 5\]"),
        ("a.mat", {"boxes": cells(np.ones((2, 3)))}, r"boxes\{1\}: expected numbers of shape \[P, 4\]"),
        ("a.npz", {IDS[0]: np.ones((2, 2, 4))}, r"image 000001: expected numbers of shape \[P, 4\]"),
        ("a.npz", {IDS[0]: np.array([["a"] * 4])}, r"image 000001: expected numbers"),
        ("a.npz", {IDS[0]: np.array([[None] * 4])}, r"a\.npz: cannot be read"),
    ],
)
def test_wrong_content(tmp_path, name, content, message):
    if name == "a.mat":
        savemat(tmp_path / name, content)
    else:
        np.savez(tmp_path / name, **content)
    with pytest.raises(ValueError, match=message):
        read_proposal_file(tmp_path / name, IDS[:1], SIZES[:1], "error")


BOXES = np.ones((2, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"boxes": cells(cells(BOXES))}, r"boxes\{1\}: a cell, expected numbers \[P, 4\]"),
        ({"boxes": cells({"box": BOXES})}, r"boxes\{1\}: a struct, expected"),
        ({"boxes": cells(sparse.csc_matrix(BOXES))}, r"boxes\{1\}: a sparse matrix, expected"),
        ({"boxes": cells(BOXES * 1j)}, r"boxes\{1\}: complex numbers, expected"),
        ({"boxes": cells("")}, r"boxes\{1\}: expected numbers"),
        ({"boxes": {"a": BOXES}}, r"boxes: a struct, expected a cell array, or numbers \[P, 4\] of one image"),
        ({"boxes": BOXES * 1j}, r"boxes: complex numbers, expected"),
        ({"boxes": cells(BOXES), "images": np.ones(1)}, r"images: float64 \[1, 1\], expected a cell array of names"),
        ({"boxes": cells(BOXES), "images": cells(cells("a"))}, r"images\{1\}: a cell, expected a name"),
        ({"boxes": cells(BOXES), "images": cells(np.ones(1))}, r"images\{1\}: numbers, expected a name"),
    ],
)
def test_what_holds_no_numbers_is_not_an_image_without_boxes(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=rf"a\.mat: {message}"):
        read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")


def test_complex_numbers_of_level_4_are_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"boxes": BOXES * 1j}, format="4")
    with pytest.raises(ValueError, match=r"boxes: complex numbers, expected"):
        read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


@pytest.mark.parametrize("unsigned", [False, True])
def test_objects_of_matlab_beside_the_boxes_are_skipped(tmp_path, unsigned):
    """A string: no sizes, its own name and class, and a matrix of numbers; its content has a nameless variable."""
    savemat(tmp_path / "a.mat", {"boxes": cells([[1, 1, 40, 60]])})
    data = bytearray((tmp_path / "a.mat").read_bytes())
    if unsigned:  # kind of the sizes of `boxes` itself
        data[data.index(element(5, struct.pack("<ii", 1, 1)))] = 6
    sizes = element(5, struct.pack("<ii", 1, 1))
    nameless = element(14, element(6, struct.pack("<II", 13, 0)) + sizes + element(1, b"") + element(6, bytes(4)))
    names = b"".join(element(1, name) for name in (b"text", b"MCOS", b"string"))
    string = element(14, element(6, struct.pack("<II", 17, 0)) + names + nameless)
    for order in (data + string + nameless, data[:128] + string + data[128:]):
        (tmp_path / "a.mat").write_bytes(order)
        found = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
        np.testing.assert_array_equal(found, [[[0, 0, 60, 40]]])
    (tmp_path / "a.mat").write_bytes(data[:128] + string + nameless)
    with pytest.raises(ValueError, match=r"no variable 'boxes' \(it has: text\)"):
        read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")


def test_variables_after_a_compressed_one(tmp_path):
    """A compressed variable has no padding, so that the next one may begin at any byte."""
    parts = []
    for name, compressed in (("x", True), ("y", False), ("boxes", False)):
        value = cells([[1, 1, 40, 60]]) if name == "boxes" else np.arange(3.0)
        savemat(tmp_path / "part.mat", {name: value}, do_compression=compressed)
        parts.append((tmp_path / "part.mat").read_bytes())
    assert len(parts[0]) % 8
    (tmp_path / "a.mat").write_bytes(parts[0] + parts[1][128:] + parts[2][128:])
    found = read_proposal_file(tmp_path / "a.mat", IDS[:1], SIZES[:1], "error")
    np.testing.assert_array_equal(found, [[[0, 0, 60, 40]]])


@pytest.mark.parametrize("name", ["a.mat", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read"):
        read_proposal_file(tmp_path / name, IDS, SIZES, "error")


def test_single_array_under_the_name_of_an_npz(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
        read_proposal_file(tmp_path / "a.npz", IDS[:1], SIZES[:1], "error")


def test_matlab_7_3_is_explained(tmp_path):
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + b"\x89HDF" + bytes(500))
    with pytest.raises(ValueError, match="save it with the option -v7"):
        read_proposal_file(tmp_path / "a.mat", IDS, SIZES, "error")


def test_missing_file_and_unknown_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match="no proposal file"):
        read_proposal_file(tmp_path / "a.npz", IDS, SIZES, "error")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a\.csv: expected a \.mat or \.npz file"):
        read_proposal_file(tmp_path / "a.csv", IDS, SIZES, "error")


ROWS = np.array(
    [
        [1, 1, 9, 9],
        [np.nan, 0, 5, 5],
        [0, 0, np.inf, 5],
        [8, 0, 2, 5],
        [3, 3, 3, 6],
        [-4, 2, 5, 5],
        [5, 5, 70, 41],
        [-9, -9, -1, -1],
        [0, 0, 60, 40],
    ]
)


def clean(invalid):
    return list(clean_boxes([ROWS, np.zeros((0, 4))], IDS[:2], SIZES[:2], invalid, "f.npz"))


def test_invalid_boxes_are_an_error_with_all_counts():
    with pytest.raises(ValueError, match="invalid boxes") as error:
        clean("error")
    message = str(error.value)
    assert message.startswith("f.npz: 7 invalid boxes (2 not finite, 1 reversed, 1 empty, 3 outside the image)")
    assert "image 000001 (60 x 40), box 1 is not finite: [nan, 0.0, 5.0, 5.0]" in message
    assert "\n" not in message


def test_invalid_boxes_are_dropped_and_counted(caplog):
    boxes, empty = clean("drop")
    np.testing.assert_array_equal(boxes, ROWS[[0, 8]])
    assert boxes.dtype == np.float32
    assert empty.shape == (0, 4)
    assert "7 invalid boxes (2 not finite, 1 reversed, 1 empty, 3 outside the image): 7 dropped" in caplog.text


def test_invalid_boxes_are_clipped_and_counted(caplog):
    boxes, _ = clean("clip")
    np.testing.assert_array_equal(boxes, [[1, 1, 9, 9], [0, 2, 5, 5], [5, 5, 60, 40], [0, 0, 60, 40]])
    assert "5 dropped, 2 clipped" in caplog.text


def test_valid_boxes_are_not_mentioned(caplog):
    list(clean_boxes([ROWS[[0, 8]]], IDS[:1], SIZES[:1], "error", "f.npz"))
    assert not caplog.text


def test_unknown_policy_is_an_error():
    with pytest.raises(ValueError, match=r"proposals\.invalid: expected .* got 'keep'"):
        clean("keep")
