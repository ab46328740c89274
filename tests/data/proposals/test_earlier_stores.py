"""Proposals that earlier versions stored: taken where they are of the same images and settings."""

import json
import shutil

import numpy as np
import pytest

from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.fingerprints import legacy_fingerprint
from frcnn_jax.data.proposals import store as module
from frcnn_jax.data.proposals.legacy import read_store
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.data.proposals.store import settings_key
from tests.data.proposals.test_source import CONFIG, FakeDataset, assert_same
from tests.data.proposals.test_store import SETTINGS
from tests.data.voc_files import object_xml


def write_legacy(dataset, indices, path=None, *, fingerprint=None, settings=SETTINGS):
    """A file as version 1 of the format has it; boxes of the image with content k are k numbers k."""
    arrays = [np.full((dataset.contents[i], 4), dataset.contents[i], np.float32) for i in indices]
    metadata = {"format": "frcnn_jax proposals", "version": 1, "dataset": dataset.name,
                "fingerprint": fingerprint or legacy_fingerprint(dataset), "settings": settings}  # fmt: skip
    path = path or dataset.directory / "proposals" / f"train-{settings_key(SETTINGS)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *arrays]),
        offsets=np.cumsum([0, *map(len, arrays)], dtype=np.int64),
        image_ids=np.array([dataset.image_ids[i] for i in indices], np.str_),
        indices=np.array(indices, np.int64),
        metadata=np.array(json.dumps(metadata)),
    )
    return path


def legacy_dataset(root, contents=(3, 1, 2, 0)):
    dataset = FakeDataset(root, contents)
    dataset.directory = root / "prepared"
    return dataset


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"frcnn_jax proposals"', "damaged, its metadata are not JSON .*; delete it"),
        ('["frcnn_jax proposals"]', "damaged, its metadata are not an object; delete it"),
        ('{"format": "frcnn_jax proposals"}', "format version None; this program reads version 1"),
    ],
)
def test_damaged_metadata_of_an_earlier_version_are_named(tmp_path, text, reason):
    path = write_legacy(legacy_dataset(tmp_path), range(4))
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **arrays | {"metadata": np.array(text)})
    with pytest.raises(ValueError, match=f"^{path}: {reason}$"):
        read_store(path)


def test_a_file_of_an_earlier_version_is_taken(tmp_path):
    dataset = legacy_dataset(tmp_path)
    path = write_legacy(dataset, range(4))
    for _ in range(2):
        proposals = open_proposals(dataset, CONFIG, progress=False)
        assert [boxes.tolist() for boxes in proposals] == [[[float(k)] * 4] * k for k in (3, 1, 2, 0)]
        assert (proposals.computed, dataset.read) == (0, [])
        shutil.rmtree(path.parent, ignore_errors=True)  # the store has them now
    edited = FakeDataset(tmp_path, (1, 3))
    assert [len(boxes) for boxes in open_proposals(edited, CONFIG, progress=False)] == [1, 3]


def test_boxes_of_an_earlier_version_are_not_those_of_an_image_that_is_turned_now(tmp_path, monkeypatch):
    dataset = legacy_dataset(tmp_path)
    write_legacy(dataset, range(4))
    plain = dataset.image_fingerprint
    monkeypatch.setattr(dataset, "image_fingerprint", lambda i: plain(i) + ("+turned6" if i == 1 else ""))
    open_proposals(dataset, CONFIG, progress=False)
    assert dataset.read == [1]


def test_files_of_an_earlier_version_serve_after_an_edit(config, files):
    """Beside the folder that was prepared before the edit: boxes of the images that are the same."""
    before = open_dataset("folder/train", config)
    before.contents = (2, 1)
    write_legacy(before, range(2))
    files.image("a2", object_xml("dog"))  # another image, and a label corrected
    files.split("train", "a1", "a2")
    after = open_dataset("folder/train", config)
    assert after.directory != before.directory
    proposals = open_proposals(after, CONFIG, progress=False)
    assert proposals.computed == 1
    assert proposals[0].tolist() == [[1, 1, 1, 1]]


def test_unfinished_files_of_an_earlier_version_are_taken(tmp_path, caplog):
    dataset = legacy_dataset(tmp_path)
    parts = tmp_path / f"prepared/proposals/train-{settings_key(SETTINGS)}.parts"
    write_legacy(dataset, [0], parts / "00000000-1.npz")
    damaged = write_legacy(dataset, [1], parts / "00000001-1.npz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    write_legacy(dataset, [2], parts / "00000002-1.npz")
    proposals = open_proposals(dataset, CONFIG, progress=False)
    assert sorted(dataset.read) == [0, 1]
    assert [len(proposals[0]), len(proposals[2])] == [3, 2]
    assert damaged.name in caplog.text


@pytest.mark.parametrize("other", [{"fingerprint": "abc"}, {"settings": {**SETTINGS, "max_side": 7}}])
def test_a_file_of_other_data_or_settings_is_not_taken(tmp_path, caplog, other):
    dataset = legacy_dataset(tmp_path)
    path = write_legacy(dataset, range(4), **other)
    assert open_proposals(dataset, CONFIG, progress=False).computed == 4
    assert f"{path}: skipped" in caplog.text
    assert path.exists()


def test_a_file_of_an_earlier_version_serves_where_nothing_can_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(module, "folder_lock", refuse)
    dataset = legacy_dataset(tmp_path)
    write_legacy(dataset, range(3))
    with pytest.raises(PermissionError):
        open_proposals(dataset, CONFIG, progress=False)
    write_legacy(dataset, range(4))
    assert [len(boxes) for boxes in open_proposals(dataset, CONFIG, progress=False)] == [3, 1, 2, 0]


def test_a_file_of_an_earlier_version_can_be_given_by_name(tmp_path):
    dataset = legacy_dataset(tmp_path)
    dataset.sizes[:] = 40
    arrays = {i: np.float32([[0, 0, 5 + i, 6]]) for i in range(4)}
    path = write_legacy(dataset, range(4))
    with np.load(path) as content:
        stored = dict(content)
    stored |= {"boxes": np.concatenate(list(arrays.values())), "offsets": np.arange(5)}
    np.savez(path, **stored)
    config = ProposalConfig(method="file", min_side=4)
    assert_same(open_proposals(dataset, config, str(path)), list(arrays.values()))
    np.savez(path, **{**stored, "boxes": stored["boxes"][:-1]})
    with pytest.raises(ValueError, match="do not fit together"):
        read_store(path)
