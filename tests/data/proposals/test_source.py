"""Computing, storing and resuming the proposals of a data set."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.proposals.selective_search import search_settings, selective_search
from frcnn_jax.data.proposals.source import (
    Proposals,
    open_joined_proposals,
    open_proposals,
)
from frcnn_jax.data.proposals.store import settings_key

CONFIG = ProposalConfig(method="selective_search_fast", max_side=0, min_side=4.0, max_count=50, workers=2)
ROOT = Path(__file__).parents[3]


class FakeDataset:
    """Coloured rectangles on noise; the contents of the images are given by numbers. `read` records what was read."""

    name = "folder/train"

    def __init__(self, directory, contents=range(6), delay=0.0, stop_at=None):
        self.directory = self.shared_directory = Path(directory)
        self.contents, self._delay, self._stop_at = tuple(contents), delay, stop_at
        self.image_ids = tuple(f"{i:06d}" for i in range(len(self.contents)))
        self.sizes = np.tile([40, 60], (len(self.contents), 1))
        self.read = []

    def __len__(self):
        return len(self.image_ids)

    def image(self, index):
        rng = np.random.default_rng(self.contents[index])
        image = rng.integers(90, 130, (40, 60, 3), dtype=np.uint8)
        x, y = rng.integers(5, 30, 2)
        image[y : y + 10, x : x + 25] = rng.integers(0, 255, 3)
        return image

    def read_image(self, index):
        if self.contents[index] == self._stop_at:
            raise KeyboardInterrupt
        time.sleep(self._delay)
        self.read.append(self.contents[index])
        return self.image(index)

    def image_fingerprint(self, index):
        return hashlib.sha256(str(self.contents[index]).encode()).hexdigest()


def segments(directory):
    return sorted(Path(directory).glob("frcnn_proposals/*/segment-*"))


def assert_same(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


def test_computed_proposals_are_those_of_each_image_and_are_read_back(tmp_path):
    dataset = FakeDataset(tmp_path)
    computed = open_proposals(dataset, CONFIG, progress=False)
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
        config = dataclasses.replace(CONFIG, workers=workers)
        results.append(open_proposals(FakeDataset(tmp_path / str(workers)), config, progress=False))
    assert_same(*results)


def test_only_new_images_are_searched_and_equal_ones_once(tmp_path):
    """Images added, removed, in another order and in another split of the same data."""
    first = open_proposals(FakeDataset(tmp_path, (0, 1, 2, 1)), CONFIG, progress=False)
    assert first.computed == 3
    assert_same(first[1:2], first[3:4])
    other = FakeDataset(tmp_path, (7, 2, 0))
    other.name, other.directory = "folder/test", tmp_path / "elsewhere"
    second = open_proposals(other, CONFIG, progress=False)
    assert (second.computed, other.read) == (1, [7])
    assert_same(second[1:], [first[2], first[0]])


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    whole = open_proposals(FakeDataset(tmp_path / "whole", range(8)), CONFIG, progress=False)
    with pytest.raises(KeyboardInterrupt):
        open_proposals(FakeDataset(tmp_path / "cut", range(8), stop_at=6), CONFIG, progress=False)
    dataset = FakeDataset(tmp_path / "cut", range(8))
    resumed = open_proposals(dataset, CONFIG, progress=False)
    assert_same(whole, resumed)
    assert resumed.computed == len(dataset.read) < 8
    assert 6 in dataset.read


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    program = (
        "import sys; import frcnn_jax.data.proposals.source as module; from tests.data.proposals.test_source import *\n"
        "module._SECONDS_BETWEEN_SEGMENTS = 0.0\n"
        "open_proposals(FakeDataset(sys.argv[1], range(60), delay=0.1), CONFIG, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cut")], cwd=ROOT)
    try:
        deadline = time.monotonic() + 200
        while len(segments(tmp_path / "cut")) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    dataset = FakeDataset(tmp_path / "cut", range(60))
    resumed = open_proposals(dataset, CONFIG, progress=False)
    assert resumed.computed == len(dataset.read) <= 57
    assert_same(resumed, open_proposals(FakeDataset(tmp_path / "whole", range(60)), CONFIG, progress=False))
    assert len(segments(tmp_path / "cut")) == 1, "merged"


def test_processes_at_once_search_each_image_once(tmp_path):
    """Two that need the same, and one that needs a part of it and others."""
    program = (
        "import sys; from tests.data.proposals.test_source import *\n"
        "dataset = FakeDataset(sys.argv[1], map(int, sys.argv[2:]), delay=0.05)\n"
        "proposals = open_proposals(dataset, CONFIG, progress=False)\n"
        "print(proposals.computed, [boxes.tolist() for boxes in proposals])"
    )
    needs = (range(8), range(8), range(4, 12))
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), *map(str, need)], cwd=ROOT, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for need in needs
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    counts = [int(out.split(maxsplit=1)[0]) for out, _ in outputs]
    assert sum(counts) == 12
    for need, (out, _) in zip(needs, outputs, strict=True):
        expected = open_proposals(FakeDataset(tmp_path, need), CONFIG, progress=False)
        assert expected.computed == 0
        assert out.split(maxsplit=1)[1].strip() == str([boxes.tolist() for boxes in expected])


def test_other_settings_have_a_store_of_their_own(tmp_path):
    dataset = FakeDataset(tmp_path, range(2))
    for changes in ({}, {"min_side": 20.0}, {"segment_scale": 50}, {"workers": 1}):
        open_proposals(dataset, dataclasses.replace(CONFIG, **changes), progress=False)
    assert len(segments(tmp_path)) == 3, "the number of workers makes no difference"


def test_fewer_boxes_are_the_first_of_those_that_are_stored(tmp_path):
    """Of some images here; the others are searched. Less than a store has is not the first of it."""
    whole = open_proposals(FakeDataset(tmp_path, range(3)), CONFIG, progress=False)
    assert min(map(len, whole)) > 4
    fewer, dataset = dataclasses.replace(CONFIG, max_count=4), FakeDataset(tmp_path, range(1, 5))
    found = open_proposals(dataset, fewer, progress=False)
    assert (found.computed, sorted(dataset.read)) == (2, [3, 4])
    assert_same(found, open_proposals(FakeDataset(tmp_path / "alone", range(1, 5)), fewer, progress=False))
    assert_same(found[:2], [boxes[:4] for boxes in whole[1:]])
    more = dataclasses.replace(CONFIG, max_count=60)
    assert open_proposals(FakeDataset(tmp_path, range(1)), more, progress=False).computed == 1
    other = dataclasses.replace(CONFIG, max_count=4, min_side=8.0)
    assert open_proposals(FakeDataset(tmp_path, range(1)), other, progress=False).computed == 1


def test_a_damaged_store_of_more_boxes_does_not_stop_a_search_of_fewer(tmp_path):
    open_proposals(FakeDataset(tmp_path), CONFIG, progress=False)
    (boxes,) = tmp_path.glob("frcnn_proposals/*/segment-*/boxes.npy")
    content = bytearray(boxes.read_bytes())
    content[-1] ^= 1
    boxes.write_bytes(content)
    fewer = dataclasses.replace(CONFIG, max_count=4)
    found = open_proposals(FakeDataset(tmp_path), fewer, progress=False)
    assert found.computed == 6
    (settings,) = (path for path in tmp_path.glob("frcnn_proposals/*/settings.json") if path.parent in boxes.parents)
    settings.write_text("{")
    fewest = dataclasses.replace(CONFIG, max_count=2)
    assert_same(open_proposals(FakeDataset(tmp_path), fewest, progress=False), [boxes[:2] for boxes in found])


def test_a_search_with_settings_that_are_new_says_that_the_others_are_kept(tmp_path, caplog):
    dataset, other = FakeDataset(tmp_path), dataclasses.replace(CONFIG, method="selective_search_mutual")
    names = [settings_key({"method": config.method, **search_settings(config)}) for config in (CONFIG, other)]
    with caplog.at_level("INFO"):
        open_proposals(dataset, CONFIG, progress=False)
        assert not caplog.text
        open_proposals(dataset, other, progress=False)
        said = f"({names[1]}); the proposals of the earlier ones ({names[0]}) are kept"
        assert caplog.messages == [f"folder/train: searching with other settings than before {said}"]
        caplog.clear()
        assert open_proposals(dataset, CONFIG, progress=False).computed == 0
        assert open_proposals(dataset, other, progress=False).computed == 0
        assert open_proposals(FakeDataset(tmp_path, range(7, 9)), other, progress=False).computed == 2
        assert not caplog.text


def test_what_earlier_versions_stored_of_the_same_settings_is_found():
    # Names of stores, as version 0.1 makes them.
    names = {"fast": "4fc40001", "quality": "05818481"}
    for mode, key in names.items():
        config = ProposalConfig(method=f"selective_search_{mode}")
        assert settings_key({"method": config.method, **search_settings(config)}) == f"selective_search_{mode}-{key}"


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_are_kept(tmp_path):
    class Torn(FakeDataset):
        def read_image(self, index):
            return decode_image(b"no image") if index == 4 else super().read_image(index)

    with pytest.raises(ValueError, match="folder/train: image 000004"):
        open_proposals(Torn(tmp_path), CONFIG, progress=False)
    assert open_proposals(FakeDataset(tmp_path), CONFIG, progress=False).computed < 6


def test_images_without_proposals(tmp_path):
    dataset = FakeDataset(tmp_path, range(3))
    config = dataclasses.replace(CONFIG, min_side=1000.0)
    for _ in range(2):
        proposals = open_proposals(dataset, config, progress=False)
        assert [boxes.shape for boxes in proposals] == [(0, 4)] * 3
        assert proposals[0].dtype == np.float32
    assert [boxes.shape for boxes in Proposals.from_arrays([])] == []


def test_a_data_set_without_images(tmp_path):
    assert len(open_proposals(FakeDataset(tmp_path, ()), CONFIG, progress=False)) == 0


def test_proposals_are_a_sequence():
    arrays = [np.full((n, 4), n, np.float32) for n in (2, 0, 3)]
    proposals = Proposals.from_arrays(arrays)
    assert_same(proposals, arrays)
    assert_same(proposals[1:], arrays[1:])
    np.testing.assert_array_equal(proposals[-1], arrays[2])
    with pytest.raises(IndexError):
        proposals[3]


def test_proposals_of_joined_data_sets_follow_each_other(tmp_path):
    rows = np.array([[0, 0, 3, 30], [0, 0, 10, 10], [1, 1, 9, 9]], np.float32)
    np.savez(tmp_path / "first.npz", **{"000000": rows[:1], "000001": rows[1:]})
    np.savez(tmp_path / "second.npz", **{"000000": rows[2:]})
    parts = [FakeDataset(tmp_path, range(count)) for count in (2, 1)]
    files = [str(tmp_path / name) for name in ("first.npz", "second.npz")]
    config = ProposalConfig(method="file", min_side=1)
    assert_same(open_joined_proposals(parts, config, files), [rows[:1], rows[1:], rows[2:]])
    assert_same(open_joined_proposals(parts[:1], config, files[:1]), [rows[:1], rows[1:]])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        open_joined_proposals(parts, config, files[:1])
