"""Proposals of a file: which of them are kept, and that they are mapped from disk."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.proposals.selected import select_proposals
from frcnn_jax.data.proposals.source import open_proposals, proposal_files
from tests.data.proposals.test_source import FakeDataset, assert_same


def test_proposals_of_a_file_are_cut_as_set(tmp_path):
    dataset = FakeDataset(tmp_path, range(1))
    rows = np.array([[0, 0, 3, 30], [0, 0, 10, 10], [1, 1, 9, 9], [0, 0, 60, 40]], np.float32)
    np.savez(tmp_path / "mine.npz", **{"000000": rows})
    config = ProposalConfig(method="file", min_side=4, max_count=2)
    assert_same(open_proposals(dataset, config, str(tmp_path / "mine.npz")), [rows[1:3]])
    with pytest.raises(ValueError, match="no file is given for the data set folder/train"):
        open_proposals(dataset, config)


def rows_in(order, count=12):
    """Boxes of 8 x 6 and 6 x 8 pixels in one of the orders that files come in."""
    random = np.random.default_rng(0)
    corners = random.integers(0, [52, 32], (count, 2))
    boxes = np.float32(np.concatenate([corners, corners + np.where(np.arange(count)[:, None] % 2, [8, 6], [6, 8])], 1))
    keys = {"top to bottom": [1, 0, 3, 2], "left to right": [0, 1, 2, 3]}.get(order)
    return boxes if keys is None else np.float32(sorted(boxes.tolist(), key=lambda box: [box[k] for k in keys]))


@pytest.mark.parametrize("order", ["top to bottom", "left to right"])
def test_a_file_sorted_by_position_is_thinned_out_and_not_cut_off(order):
    """The original's Selective Search files: their first boxes are those at the top of the image."""
    rows = rows_in(order)
    config = ProposalConfig(method="file", min_side=1, max_count=5)
    (kept,) = select_proposals([rows], config, "a.mat")
    np.testing.assert_array_equal(kept, rows[[0, 2, 4, 7, 9]])
    (kept,) = select_proposals([rows], dataclasses.replace(config, max_count=12), "a.mat")
    np.testing.assert_array_equal(kept, rows)


def test_a_file_in_another_order_is_cut_off():
    rows = rows_in("best first")
    (kept,) = select_proposals([rows], ProposalConfig(method="file", min_side=1, max_count=5), "a.npz")
    np.testing.assert_array_equal(kept, rows[:5])


def test_what_was_left_out_is_counted(caplog):
    rows = np.concatenate([np.float32([[0, 0, 3, 30]]), rows_in("top to bottom")])
    with caplog.at_level("INFO"):
        select_proposals([rows, rows[:3]], ProposalConfig(method="file", min_side=4, max_count=5), "a.mat")
    assert "a.mat: of 16 boxes, left out 2 below min_side, 7 beyond max_count" in caplog.text


def test_each_data_set_needs_its_file():
    assert proposal_files(ProposalConfig(), ["a", "b"]) == ((None, None), None)
    given = ProposalConfig(method="file", train_files=("1.mat", "2.mat"), test_file="t.mat")
    assert proposal_files(given, ["a", "b"]) == (("1.mat", "2.mat"), "t.mat")
    with pytest.raises(ValueError, match=r"train_files: 2 files for 1 data sets \(a\)"):
        proposal_files(given, ["a"])
    with pytest.raises(ValueError, match="test_file: not set"):
        proposal_files(ProposalConfig(method="file", train_files=("1.mat",)), ["a"])


def test_proposals_of_a_file_are_mapped_from_disk(tmp_path):
    """60 images of 64 kB: the file is read image by image, and no image's boxes stay in memory."""
    dataset = FakeDataset(tmp_path, range(60))
    random = np.random.default_rng(0)
    corners = random.uniform(0, 20, (60, 4000, 2)).astype(np.float32)
    arrays = np.concatenate([corners, corners + 18], axis=2)
    np.savez(tmp_path / "all.npz", **dict(zip(dataset.image_ids, arrays, strict=True)))
    config = ProposalConfig(method="file", max_count=4000)
    tracemalloc.start()
    proposals = open_proposals(dataset, config, str(tmp_path / "all.npz"))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < arrays.nbytes / 20
    assert peak < arrays.nbytes / 4
    assert_same(proposals, list(arrays))
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"], "the mapped file has no name"
