"""The store of computed proposals: its format, damage, and merging."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from frcnn_jax.data.proposals import store as module
from frcnn_jax.data.proposals.selective_search import search_settings
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.data.proposals.store import ProposalStore, settings_key
from tests.data.proposals.test_source import CONFIG, FakeDataset, assert_same, segments

SETTINGS = {"method": "selective_search_fast", **search_settings(CONFIG)}


IDS = [f"{i:064d}" for i in range(9)]


def rows(*numbers):
    """Boxes of images by fingerprint: as many of an image as its number."""
    return {IDS[k]: np.full((k, 4), k, np.float32) for k in numbers}


def added(directory, *groups):
    """A store with a segment for each group of images."""
    store = ProposalStore(directory, SETTINGS)
    with store.lock():
        for numbers in groups:
            store.add(rows(*numbers))
    return ProposalStore(directory, SETTINGS)


def boxes_of(store, *numbers):
    places = store.find([IDS[k] for k in numbers])
    return {name: segment.boxes[start:stop] for name, (segment, start, stop) in places.items()}


def test_the_store_is_in_the_documented_format(tmp_path):
    dataset = FakeDataset(tmp_path, range(3))
    proposals = open_proposals(dataset, CONFIG, progress=False)
    (segment,) = segments(tmp_path)
    assert segment.parent.name == settings_key(SETTINGS)
    assert json.loads((segment.parent / "settings.json").read_text()) == {
        "format": "frcnn_jax proposals", "version": 2, "settings": SETTINGS,
    }  # fmt: skip
    boxes = np.load(segment / "boxes.npy", allow_pickle=False)
    assert boxes.dtype == np.float32
    with np.load(segment / "images.npz", allow_pickle=False) as images:
        names, offsets = [name.decode() for name in images["fingerprints"].tolist()], images["offsets"]
    assert sorted(names) == sorted(dataset.image_fingerprint(i) for i in range(3))
    for i in range(3):
        k = names.index(dataset.image_fingerprint(i))
        np.testing.assert_array_equal(boxes[offsets[k] : offsets[k + 1]], proposals[i])


def test_boxes_are_mapped_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAPPED_BYTES", 0)
    (segment, start, stop) = added(tmp_path, (1, 2)).find(IDS)[IDS[2]]
    assert (start, stop) == (1, 3)
    assert not segment.boxes.flags.owndata
    assert not segment.boxes.flags.writeable


def cut_boxes(segment):
    path = segment / "boxes.npy"
    path.write_bytes(path.read_bytes()[:-16])


def change_a_bit(segment):
    data = bytearray((segment / "boxes.npy").read_bytes())
    data[-7] ^= 1
    (segment / "boxes.npy").write_bytes(data)


def cut_index(segment):
    path = segment / "images.npz"
    path.write_bytes(path.read_bytes()[:100])


def other_offsets(segment):
    with np.load(segment / "images.npz") as images:
        arrays = dict(images)
    arrays["offsets"] = arrays["offsets"][::-1]
    np.savez(segment / "images.npz", **arrays)


def no_boxes(segment):
    (segment / "boxes.npy").unlink()


@pytest.mark.parametrize("spoil", [cut_boxes, change_a_bit, cut_index, other_offsets, no_boxes])
def test_a_damaged_segment_is_named_and_searched_again(tmp_path, caplog, spoil):
    expected = open_proposals(FakeDataset(tmp_path), CONFIG, progress=False)
    expected = [boxes.copy() for boxes in expected]
    (segment,) = segments(tmp_path)
    spoil(segment)
    dataset = FakeDataset(tmp_path)
    again = open_proposals(dataset, CONFIG, progress=False)
    assert_same(again, expected)
    assert (again.computed, sorted(dataset.read)) == (6, list(range(6)))
    assert segment.name in caplog.text
    assert not segment.exists()
    caplog.clear()
    assert open_proposals(FakeDataset(tmp_path), CONFIG, progress=False).computed == 0
    assert not caplog.text


def test_checking_maps_no_box_and_survives_a_merge_by_another_process(tmp_path, monkeypatch):
    store = added(tmp_path, (1, 2), (3,))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_checksum", lambda boxes: pytest.fail("read through the map"))
        patch.setattr(module, "_READ_BYTES", 5)
        assert len(boxes_of(store, 1, 2, 3)) == 3
    late = ProposalStore(tmp_path, SETTINGS)
    with store.lock():
        store.merge()
    for name, boxes in rows(1, 2, 3).items():
        np.testing.assert_array_equal(boxes_of(late, 1, 2, 3)[name], boxes)


def test_small_segments_are_merged_and_large_ones_left(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT_BOXES", 7)
    store = added(tmp_path, (8,), (1, 2), (3,), (0, 4), (2, 4))
    before = segments(tmp_path)
    opened = boxes_of(store, *range(9))
    with store.lock():
        store.merge()
    after = segments(tmp_path)
    assert before[0] in after
    assert len(after) == 3
    assert not set(before[1:]) & set(after)
    fresh = ProposalStore(tmp_path, SETTINGS)
    for name, boxes in rows(0, 1, 2, 3, 4, 8).items():
        for found in (boxes_of(store, *range(9)), boxes_of(fresh, *range(9)), opened):
            np.testing.assert_array_equal(found[name], boxes)
    assert [path.name for path in before[0].parent.glob(".*") if path.name != ".lock"] == []


def test_a_long_search_keeps_few_segments_and_files_open(tmp_path, monkeypatch):
    """With a limit of open files as low as that of macOS, in relation to the segments."""
    monkeypatch.setattr(module, "_MOST_SMALL", 20)
    store = ProposalStore(tmp_path, SETTINGS)
    most = 0
    with store.lock():
        for k in range(90):
            store.add({f"{k:064d}": np.full((2, 4), k, np.float32)})
            most = max(most, len(segments(tmp_path)))
    assert most <= 20
    for k in range(90):
        store._write({f"{100 + k:064d}": np.full((2, 4), k, np.float32)})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, limits[1]))
    try:
        found = ProposalStore(tmp_path, SETTINGS)
        with found.lock():
            found.merge()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(segments(tmp_path)) == 1
    assert len(found.find([f"{k:064d}" for k in (*range(90), *range(100, 190))])) == 180


KILLED = """
import os, shutil, sys
from pathlib import Path
import numpy as np
from frcnn_jax.data.proposals.store import ProposalStore, _remove
store = ProposalStore(Path(sys.argv[1]), {settings})
def end(*_, **__):
    os.kill(os.getpid(), 9)
np.savez = shutil.rmtree = end
with store.lock():
    {call}
"""


@pytest.mark.parametrize(
    "call", ["store.add({'a': np.zeros((1, 4), np.float32)})", "_remove(next(store.folder.glob('segment-*')))"]
)
def test_what_a_killed_process_left_is_removed(tmp_path, call):
    store = added(tmp_path, (1,), (2,))
    code = KILLED.format(settings=SETTINGS, call=call)
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    kept = {".lock", "settings.json", *(path.name for path in segments(tmp_path))}
    assert {path.name for path in store.folder.iterdir()} > kept
    with store.lock():
        store.refresh(locked=True)
    assert {path.name for path in store.folder.iterdir()} == kept


def test_a_store_of_a_later_version_is_refused(tmp_path):
    path = added(tmp_path, (1,)).folder / "settings.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(ValueError, match="version 3; this program reads version 2"):
        ProposalStore(tmp_path, SETTINGS)
    path.write_text(path.read_text().replace('"version": 3', '"version": 2').replace("50", "51"))
    with pytest.raises(ValueError, match="made with other settings"):
        ProposalStore(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON, Expecting property name .*"),
        ("", "not JSON, .*"),
        ("[]", "not an object"),
        ("null", "not an ob.*"),
    ],
)
def test_damaged_settings_are_named_and_may_be_deleted(tmp_path, text, reason):
    path = added(tmp_path, (1,)).folder / "settings.json"
    path.write_text(text)
    message = rf"^{path}: damaged \({reason}\); delete this file, the proposals beside it are kept$"
    with pytest.raises(ValueError, match=message):
        ProposalStore(tmp_path, SETTINGS)
    path.unlink()
    assert len(boxes_of(added(tmp_path, (2,)), 1, 2)) == 2
    assert json.loads(path.read_text())["settings"] == SETTINGS


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_complete_store_may_be_read_only(tmp_path):
    expected = open_proposals(FakeDataset(tmp_path), CONFIG, progress=False)
    folder = segments(tmp_path)[0].parent
    folder.chmod(0o555)
    try:
        assert_same(open_proposals(FakeDataset(tmp_path), CONFIG, progress=False), expected)
        with pytest.raises(PermissionError):
            open_proposals(FakeDataset(tmp_path, range(9)), CONFIG, progress=False)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("reader", ["boxes", "images"])
def test_too_little_memory_is_no_damage(tmp_path, monkeypatch, reader):
    """Hours of a search would be removed for it."""
    added(tmp_path, (1, 2))

    def exhaust(*_, **__):
        raise MemoryError

    def in_archive(*_):
        try:
            exhaust()
        except MemoryError as error:
            raise ValueError("damaged") from error

    if reader == "boxes":
        monkeypatch.setattr(np, "load", exhaust)
    else:
        monkeypatch.setattr(module, "open_npz", in_archive)
    with pytest.raises(MemoryError, match="segment-"):
        ProposalStore(tmp_path, SETTINGS)
    monkeypatch.undo()
    assert set(boxes_of(ProposalStore(tmp_path, SETTINGS), 1, 2)) == {IDS[1], IDS[2]}
