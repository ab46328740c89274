"""The contract of a data set, kept by every kind there is."""

import cv2
import numpy as np
import pytest

from frcnn_jax.data.dataset import legacy_fingerprint, open_dataset
from frcnn_jax.data.joined import JoinedDataset
from frcnn_jax.types import GroundTruth
from tests.data.contracts import check_dataset
from tests.data.memory import MemoryDataset
from tests.data.voc_files import pixels


def in_memory(tmp_path, seeds=(1, 2, 3), name="memory/train"):
    objects = GroundTruth(
        boxes=np.float32([[0, 0, 40, 30], [4.5, 5, 20, 21]]), labels=np.int32([2, 1]), difficult=np.array([True, False])
    )
    nothing = GroundTruth(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32), difficult=np.zeros(0, bool))
    return MemoryDataset(
        name,
        tmp_path,
        ("ant", "bee"),
        tuple(f"i{seed}" for seed in seeds),
        tuple(cv2.imencode(".png", pixels(seed))[1].tobytes() for seed in seeds),
        (objects, *[nothing] * (len(seeds) - 1)),
    )


def test_prepared(config):
    for split in ("train", "trainval"):
        check_dataset(open_dataset(f"folder/{split}", config))


def test_in_memory(tmp_path):
    check_dataset(in_memory(tmp_path))


def test_joined(tmp_path):
    parts = [in_memory(tmp_path, (1, 2), "memory/a"), in_memory(tmp_path, (1, 3), "memory/b")]
    joined = JoinedDataset(parts)
    check_dataset(joined)
    assert joined.fingerprint == "+".join(part.fingerprint for part in parts)
    assert legacy_fingerprint(joined) == "+".join(legacy_fingerprint(part) for part in parts)
    assert joined.image_fingerprint(2) == joined.image_fingerprint(0) == parts[0].image_fingerprint(0)
    np.testing.assert_array_equal(joined.read_image(-1), parts[1].read_image(1))


def test_joined_and_prepared(config):
    check_dataset(JoinedDataset([open_dataset(f"folder/{split}", config) for split in ("train", "val", "test")]))


def test_fingerprints_tell_ids_and_classes_apart_that_run_together(tmp_path):
    """Texts are hashed with their lengths."""
    values = set()
    for classes in (("a", "bc"), ("ab", "c"), ("a", "b", "c")):
        dataset = in_memory(tmp_path)
        object.__setattr__(dataset, "classes", classes)
        values.add(dataset.fingerprint)
    assert len(values) == 3


@pytest.mark.parametrize("suffix", ["", "+turned6"])
def test_the_earlier_fingerprint_leaves_the_orientation_out(tmp_path, monkeypatch, suffix):
    dataset = in_memory(tmp_path)
    before, earlier = dataset.fingerprint, legacy_fingerprint(dataset)
    plain = MemoryDataset.image_fingerprint
    monkeypatch.setattr(MemoryDataset, "image_fingerprint", lambda self, index: plain(self, index) + suffix)
    assert legacy_fingerprint(dataset) == earlier
    assert (dataset.fingerprint == before) == (not suffix)
