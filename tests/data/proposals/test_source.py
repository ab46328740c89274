"""Computing, storing and resuming the proposals of a data set, and which of a file's are kept."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.proposals.selective_search import selective_search
from frcnn_jax.data.proposals.source import Proposals, open_proposals, proposal_files, select_proposals
from frcnn_jax.data.proposals.store import StoreKey, parts_folder, read_store

CONFIG = ProposalConfig(method="selective_search_fast", max_side=0, min_side=4.0, max_count=50, workers=2)


class FakeDataset:
    """Coloured rectangles on noise, one image of each position; `read` records which images were asked for."""

    name = "folder/train"

    def __init__(self, directory, count=6, fingerprint="abc", delay=0.0, stop_at=None):
        self.directory, self.fingerprint, self._delay, self._stop_at = Path(directory), fingerprint, delay, stop_at
        self.image_ids = tuple(f"{i:06d}" for i in range(count))
        self.sizes = np.tile([40, 60], (count, 1))
        self.read = []

    def __len__(self):
        return len(self.image_ids)

    def image(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(90, 130, (40, 60, 3), dtype=np.uint8)
        x, y = rng.integers(5, 30, 2)
        image[y : y + 10, x : x + 25] = rng.integers(0, 255, 3)
        return image

    def __getitem__(self, index):
        if index == self._stop_at:
            raise KeyboardInterrupt
        time.sleep(self._delay)
        self.read.append(index)
        return SimpleNamespace(image=cv2.imencode(".png", self.image(index)[:, :, ::-1])[1].tobytes())


def stored(dataset, config=CONFIG):
    (path,) = (dataset.directory / "proposals").glob("*.npz")
    return path


def assert_same(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


def test_computed_proposals_are_those_of_each_image_and_are_read_back(tmp_path):
    dataset = FakeDataset(tmp_path)
    computed = open_proposals(dataset, CONFIG, progress=False)
    assert not list((tmp_path / "proposals").glob("*.parts")), "the parts are removed"
    arguments = {"mode": "fast", "max_side": 0, "max_count": 50, "min_side": 4.0}
    assert_same(computed, [selective_search(dataset.image(i), **arguments) for i in range(6)])
    assert computed.computed == 6
    assert sum(map(len, computed)) > 20
    again = FakeDataset(tmp_path)
    loaded = open_proposals(again, CONFIG, progress=False)
    assert_same(computed, loaded)
    assert (loaded.computed, again.read) == (0, [])


def test_result_does_not_depend_on_the_number_of_workers(tmp_path):
    results = []
    for workers in (1, 3):
        config = ProposalConfig(**{**vars(CONFIG), "workers": workers})
        results.append(open_proposals(FakeDataset(tmp_path / str(workers)), config, progress=False))
    assert_same(*results)


def test_the_file_is_in_the_documented_format(tmp_path):
    dataset = FakeDataset(tmp_path)
    proposals = open_proposals(dataset, CONFIG, progress=False)
    with np.load(stored(dataset), allow_pickle=False) as content:
        assert content["boxes"].dtype == np.float32
        assert content["offsets"].dtype == content["indices"].dtype == np.int64
        assert content["image_ids"].tolist() == list(dataset.image_ids)
        np.testing.assert_array_equal(np.diff(content["offsets"]), [len(boxes) for boxes in proposals])
        metadata = json.loads(str(content["metadata"]))
    assert metadata["format"] == "frcnn_jax proposals"
    assert (metadata["version"], metadata["dataset"], metadata["fingerprint"]) == (1, "folder/train", "abc")
    assert metadata["settings"]["method"] == "selective_search_fast"


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    whole = open_proposals(FakeDataset(tmp_path / "whole", 8), CONFIG, progress=False)
    with pytest.raises(KeyboardInterrupt):
        open_proposals(FakeDataset(tmp_path / "cut", 8, stop_at=6), CONFIG, progress=False)
    assert not list((tmp_path / "cut" / "proposals").glob("*.npz")), "nothing looks complete"
    dataset = FakeDataset(tmp_path / "cut", 8)
    resumed = open_proposals(dataset, CONFIG, progress=False)
    assert_same(whole, resumed)
    assert resumed.computed == len(dataset.read) < 8
    assert {6, 7} <= set(dataset.read)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    program = (
        "import sys; import frcnn_jax.data.proposals.source as module; from tests.data.proposals.test_source import *\n"
        "module._SECONDS_BETWEEN_PARTS = 0.0\n"
        "open_proposals(FakeDataset(sys.argv[1], 60, delay=0.1), CONFIG, progress=False)"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cut")], cwd=root)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "cut" / "proposals").glob("*.parts/*.npz"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not list((tmp_path / "cut" / "proposals").glob("*.npz"))
    dataset = FakeDataset(tmp_path / "cut", 60)
    resumed = open_proposals(dataset, CONFIG, progress=False)
    assert resumed.computed == len(dataset.read) <= 57
    assert_same(resumed, open_proposals(FakeDataset(tmp_path / "whole", 60), CONFIG, progress=False))


def test_a_damaged_part_is_computed_again(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        open_proposals(FakeDataset(tmp_path, 8, stop_at=7), CONFIG, progress=False)
    (part,) = (tmp_path / "proposals").glob("*.parts/*.npz")
    part.write_bytes(part.read_bytes()[:-100])
    dataset = FakeDataset(tmp_path, 8)
    assert open_proposals(dataset, CONFIG, progress=False).computed == 8
    assert part.name in caplog.text


@pytest.mark.parametrize("stop_at", [None, 5])
def test_proposals_of_other_data_are_refused_and_kept(tmp_path, stop_at):
    try:
        open_proposals(FakeDataset(tmp_path, stop_at=stop_at), CONFIG, progress=False)
    except KeyboardInterrupt:
        assert stop_at
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    assert before
    with pytest.raises(ValueError, match=r"made from other data \(fingerprint abc\).*holds now \(def\)"):
        open_proposals(FakeDataset(tmp_path, fingerprint="def"), CONFIG, progress=False)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}


def test_other_settings_have_a_file_of_their_own(tmp_path):
    dataset = FakeDataset(tmp_path, 2)
    for changes in ({}, {"min_side": 20.0}, {"segment_scale": 50}, {"workers": 1}):
        open_proposals(dataset, ProposalConfig(**{**vars(CONFIG), **changes}), progress=False)
    assert len(list((tmp_path / "proposals").glob("*.npz"))) == 3, "the number of workers makes no difference"


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    dataset = FakeDataset(tmp_path, 2)
    open_proposals(dataset, CONFIG, progress=False)
    path = stored(dataset)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        open_proposals(dataset, CONFIG, progress=False)


def test_a_file_of_a_later_version_is_refused(tmp_path):
    dataset = FakeDataset(tmp_path, 2)
    open_proposals(dataset, CONFIG, progress=False)
    path = stored(dataset)
    with np.load(path) as content:
        arrays = dict(content)
    arrays["metadata"] = np.array(str(arrays["metadata"]).replace('"version": 1', '"version": 2'))
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="version 2; this program reads version 1"):
        open_proposals(dataset, CONFIG, progress=False)


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_are_kept(tmp_path):
    class Torn(FakeDataset):
        def __getitem__(self, index):
            return SimpleNamespace(image=b"no image") if index == 4 else super().__getitem__(index)

    with pytest.raises(ValueError, match="folder/train: image 000004"):
        open_proposals(Torn(tmp_path), CONFIG, progress=False)
    assert open_proposals(FakeDataset(tmp_path), CONFIG, progress=False).computed < 6


def test_images_without_proposals(tmp_path):
    dataset = FakeDataset(tmp_path, 3)
    config = ProposalConfig(**{**vars(CONFIG), "min_side": 1000.0})
    for _ in range(2):
        proposals = open_proposals(dataset, config, progress=False)
        assert [boxes.shape for boxes in proposals] == [(0, 4)] * 3
        assert proposals[0].dtype == np.float32
    assert [boxes.shape for boxes in Proposals.from_arrays([])] == []


def test_proposals_are_a_sequence():
    arrays = [np.full((n, 4), n, np.float32) for n in (2, 0, 3)]
    proposals = Proposals.from_arrays(arrays)
    assert_same(proposals, arrays)
    assert_same(proposals[1:], arrays[1:])
    np.testing.assert_array_equal(proposals[-1], arrays[2])
    with pytest.raises(IndexError):
        proposals[3]


def test_proposals_of_a_file_are_cut_as_set(tmp_path):
    dataset = FakeDataset(tmp_path, 1)
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


def test_stored_proposals_can_be_given_as_a_file(tmp_path):
    dataset = FakeDataset(tmp_path, 3)
    proposals = open_proposals(dataset, CONFIG, progress=False)
    config = ProposalConfig(method="file", min_side=4)
    assert_same(open_proposals(dataset, config, str(stored(dataset))), proposals)


def test_each_data_set_needs_its_file():
    assert proposal_files(ProposalConfig(), ["a", "b"]) == ((None, None), None)
    given = ProposalConfig(method="file", train_files=("1.mat", "2.mat"), test_file="t.mat")
    assert proposal_files(given, ["a", "b"]) == (("1.mat", "2.mat"), "t.mat")
    with pytest.raises(ValueError, match=r"train_files: 2 files for 1 data sets \(a\)"):
        proposal_files(given, ["a"])
    with pytest.raises(ValueError, match="test_file: not set"):
        proposal_files(ProposalConfig(method="file", train_files=("1.mat",)), ["a"])


def test_store_key_names_a_file_in_the_data_set_folder(tmp_path):
    key = StoreKey("voc/2007/train[:5%]", "abc", {"method": "selective_search_fast"})
    path = key.path(tmp_path)
    assert path.parent == tmp_path / "proposals"
    assert path.name.startswith("train__5__-selective_search_fast-")
    assert parts_folder(path).name == path.name.replace(".npz", ".parts")


def test_arrays_that_do_not_fit_together_are_refused(tmp_path):
    dataset = FakeDataset(tmp_path, 2)
    open_proposals(dataset, CONFIG, progress=False)
    path = stored(dataset)
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **{**arrays, "boxes": arrays["boxes"][:-1]})
    with pytest.raises(ValueError, match="do not fit together"):
        read_store(path)
