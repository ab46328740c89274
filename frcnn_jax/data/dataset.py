"""Data sets in VOC format, checked, prepared by TensorFlow Datasets and opened for random access."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.config import DataConfig
from frcnn_jax.data.faults import DatasetFaultError, Fault
from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.formats.voc_folder import canonical_split
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.index import LAYOUT_FILE, Index, decode_objects, load_index, make_index, save_index

__all__ = ["DatasetFaultError", "Example", "Fault", "VocDataset", "decode_image", "open_dataset"]

_YEARS = ("2007", "2012")


@dataclasses.dataclass(frozen=True)
class Example:
    """One image on the host, with its objects."""

    image_id: str
    image: bytes  # encoded, as in the file
    size: tuple[int, int]  # height, width
    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, " G"]  # int32, 1 ... K
    difficult: Bool[np.ndarray, " G"]


class VocDataset:
    """A split of a prepared data set. It may be read by several threads at once; a pickle holds only what is needed
    to open it again.

    Attributes:
        name: as in `voc/2007/trainval` or `folder/test`.
        directory: folder of the prepared data set.
        classes: names of the labels 1 ... K.
        image_ids: in the order of the split's list.
        sizes: [len, 2] int32, height and width of each image.
        annotations: the objects of each image.
        fingerprint: hash of images, ids, boxes, labels, difficult marks and class names, in order.
        dropped: number of images and objects left out of this split, by kind of fault.
        clipped: number of boxes cut at the image's border.
    """

    def __init__(self, name: str, directory: Path, split: str):
        self.name, self.directory, self._split = name, Path(directory), split
        layout = json.loads((self.directory / LAYOUT_FILE).read_text())
        if split not in layout:
            raise ValueError(f"data set {name}: no split {split!r} with images (there: {', '.join(sorted(layout))})")
        self._stored: tuple[str, ...] = tuple(layout[split]["stored"])
        self.image_ids: tuple[str, ...] = tuple(layout[split]["ids"])
        self.dropped: dict[str, int] = layout[split]["dropped"]
        self.clipped: int = layout[split]["clipped"]
        self._sources: tuple[Any, ...] | None = None
        self._lock = threading.Lock()
        self.classes = tuple((self.directory / "labels.labels.txt").read_text("utf-8").splitlines())

        places = {i: (part, k) for part, s in enumerate(self._stored) for k, i in enumerate(layout[s]["ids"])}
        self._places = tuple(places[image_id] for image_id in self.image_ids)
        parts = [self._index(part, s, len(layout[s]["ids"])) for part, s in enumerate(self._stored)]
        self.sizes: Int[np.ndarray, "len 2"] = np.stack([parts[part].sizes[k] for part, k in self._places])
        self.annotations = tuple(parts[part].annotation(k) for part, k in self._places)
        self._digests = [parts[part].digests[k].tobytes().hex() for part, k in self._places]
        self.fingerprint = content_fingerprint(self)

    def image_fingerprint(self, index: int) -> str:
        """Hex SHA-256 of the encoded image."""
        return self._digests[index]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Example:
        part, position = self._places[index]
        record = self._open()[part][position]
        size = tuple(int(side) for side in self.sizes[index])
        truth = decode_objects(record, size)
        return Example(self.image_ids[index], record["image"], size, truth.boxes, truth.labels, truth.difficult)

    def __repr__(self) -> str:
        return f"VocDataset({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __reduce__(self) -> tuple:
        return VocDataset, (self.name, self.directory, self._split)

    def _open(self) -> tuple[Any, ...]:
        """TFDS's data source of each stored split."""
        with self._lock:
            if self._sources is None:
                import tensorflow_datasets as tfds

                builder = tfds.builder_from_directory(str(self.directory))
                decoders = {"image": tfds.decode.SkipDecoding()}
                self._sources = tuple(builder.as_data_source(s, decoders=decoders) for s in self._stored)
            return self._sources

    def _index(self, part: int, stored: str, count: int) -> Index:
        path = self.directory / f"frcnn_index_{stored}.npz"
        index = load_index(path)
        if index is None:
            index = make_index(self._open()[part], f"Indexing {self.name}")
            save_index(path, index)
        if len(index.sizes) != count:
            raise ValueError(f"{path}: {len(index.sizes)} images, but split {stored} lists {count}")
        return index


def open_dataset(name: str, config: DataConfig) -> VocDataset:
    """The data set of that name: `voc/2007/SPLIT`, `voc/2012/SPLIT`, or `folder/SPLIT` for the folder `config.root`.

    SPLIT is train, validation (or val), trainval or test; of a folder also NAME where ImageSets/Main has NAME.txt.
    What is not prepared yet is downloaded, checked and prepared first.

    Raises:
        ValueError: an unknown name, or a setting that the name needs is missing.
        FileNotFoundError: no such folder or list.
        DatasetFaultError: faults that `config.faults` does not allow; lists all of them.
    """
    from frcnn_jax.data.prepare import prepare_folder, prepare_voc

    official = re.fullmatch(r"voc/([^/]+)/(train|val|validation|trainval|test)", name)
    folder = re.fullmatch(r"folder/([^/]+)", name)
    if official and official[1] in _YEARS:
        split = canonical_split(official[2])
        return VocDataset(f"voc/{official[1]}/{split}", prepare_voc(official[1], config), split)
    if folder:
        split = canonical_split(folder[1])
        return VocDataset(f"folder/{split}", prepare_folder(split, config), split)
    raise ValueError(
        f"unknown data set {name!r}: known are voc/YEAR/SPLIT with year {' or '.join(_YEARS)} and split train, "
        "validation, trainval or test, and folder/SPLIT"
    )
