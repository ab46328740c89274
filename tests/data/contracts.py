"""Checks that every data set and every reader of annotations must pass."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import Dataset, file_name
from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.formats.table import FORMATS, open_reader
from frcnn_jax.data.records import ImageRecord, SplitRecords


def check_dataset(dataset: Dataset) -> None:
    """The contract of `Dataset`, for one that has at least two images that differ."""
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset.name, str)
    assert isinstance(dataset.directory, Path)
    assert isinstance(dataset.shared_directory, Path)
    assert dataset.classes
    assert all(isinstance(name, str) and name for name in dataset.classes)
    count = len(dataset)
    assert count >= 2
    assert len(dataset.image_ids) == len(set(dataset.image_ids)) == count
    assert (dataset.sizes.shape, dataset.sizes.dtype) == ((count, 2), np.int32)
    assert len(dataset.annotations) == count
    for index, truth in enumerate(dataset.annotations):
        objects = len(truth.labels)
        assert (truth.boxes.shape, truth.boxes.dtype) == ((objects, 4), np.float32)
        assert (truth.labels.shape, truth.labels.dtype) == ((objects,), np.int32)
        assert (truth.difficult.shape, truth.difficult.dtype) == ((objects,), np.bool_)
        assert all(1 <= label <= len(dataset.classes) for label in truth.labels)
        height, width = dataset.sizes[index]
        assert (truth.boxes >= 0).all()
        assert (truth.boxes <= [width, height, width, height]).all()
        assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
        image = dataset.read_image(index)
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    names = [file_name(dataset, index) for index in range(count)]
    assert all(isinstance(name, str) and name and "/" not in name for name in names)
    hashes = [dataset.image_fingerprint(index) for index in range(count)]
    assert all(re.fullmatch(r"[0-9a-f]{64}.{0,16}", value) for value in hashes)
    assert len(set(hashes)) > 1
    assert dataset.fingerprint == dataset.fingerprint != content_fingerprint(_Relabelled(dataset))
    with pytest.raises(IndexError):
        dataset.read_image(count)
    with ThreadPoolExecutor(4) as pool:
        for index, image in zip([0, 1] * 8, pool.map(dataset.read_image, [0, 1] * 8), strict=True):
            np.testing.assert_array_equal(image, dataset.read_image(index))


class _Relabelled:
    """A data set with its classes under other names."""

    def __init__(self, dataset: Dataset):
        self._dataset, self.classes = dataset, tuple(f"not {name}" for name in dataset.classes)

    def __getattr__(self, name: str):
        return getattr(self._dataset, name)


def check_reader(name: str, root: Path, split: str) -> None:
    """The contract of `AnnotationReader`, for a folder in the format `name` that has at least one object in `split`."""
    reader_class, config = FORMATS[name], DataConfig(root=str(root))
    assert reader_class.layout
    assert reader_class.fits(root) is True
    assert reader_class.fits(root / "nothing") is False
    assert [other for other in FORMATS if FORMATS[other].fits(root)] == [name]
    assert open_reader(root, config)[0] == name
    reader = reader_class(root, config)
    assert isinstance(reader.splits, tuple)
    assert split in reader.splits
    with pytest.raises(FileNotFoundError, match="'absent'.*" + split):
        reader.read("absent")
    records = reader.read(split)
    assert isinstance(records, SplitRecords)
    assert records == reader.read(split) == reader_class(root, config).read(split), "the same each time"
    assert len(set(records.ids)) == len(records.ids) > 0
    assert any(record.objects for record in records.records)
    assert all(fault.kind == "duplicate_id" for fault in records.faults)
    for record in records.records:
        _check_record(record, root)


def _check_record(record: ImageRecord, root: Path) -> None:
    assert not Path(record.file).is_absolute()
    if record.path is None:
        assert "missing_image" in {fault.kind for fault in record.faults}
    else:
        assert record.path.is_file()
    left_out = {fault.object for fault in record.faults}
    for item in record.objects:
        assert item.index not in left_out
        assert item.name == " ".join(item.name.split()) != ""
        assert len(item.box) == 4
        assert all(isinstance(value, float) and np.isfinite(value) for value in item.box)
    assert len({item.index for item in record.objects}) == len(record.objects)
