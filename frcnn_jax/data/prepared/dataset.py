"""A split of a prepared data set, opened for random access."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from frcnn_jax.data.fingerprints import content_fingerprint
from frcnn_jax.data.images import decode_image
from frcnn_jax.data.prepared.damage import damage_named
from frcnn_jax.data.prepared.index import (
    LAYOUT_FILE,
    Index,
    load_index,
    make_index,
    read_summary,
    save_index,
    tfds_split,
)
from frcnn_jax.progress import Progress
from frcnn_jax.sums import check_contents, check_sizes
from frcnn_jax.types import GroundTruth

__all__ = ["PreparedDataset"]


class PreparedDataset:
    """A split of a prepared data set; implements `frcnn_jax.data.dataset.Dataset`.

    Several threads may read it at once; a pickle holds only what is needed to open it again.

    Attributes:
        directory: folder of the prepared data set.
        shared_directory: TFDS's data directory; `directory` is BUILDER/CONFIGURATION/VERSION in it.
        dropped: number of dropped images and objects of this split, by kind of fault.
        clipped: number of boxes cut at the image's border.
        orientation: "apply" if images are turned by their EXIF orientation, "ignore" if not; None if not known.
        chosen: how the images of a test were chosen, if the folder has no test images; else empty.
    """

    def __init__(self, name: str, directory: Path, split: str, chosen: str = ""):
        self.name, self.directory, self._split, self.chosen = name, Path(directory), split, chosen
        with damage_named(self.directory):
            check_sizes(self.directory)
            layout = json.loads((self.directory / LAYOUT_FILE).read_text())
            self.orientation: str | None = read_summary(self.directory).get("orientation")
        if split not in layout:
            raise ValueError(f"data set {name}: {self._why_empty(split)} (there: {', '.join(sorted(layout))})")
        self._stored: tuple[str, ...] = tuple(layout[split]["stored"])
        self.image_ids: tuple[str, ...] = tuple(layout[split]["ids"])
        self.dropped: dict[str, int] = layout[split]["dropped"]
        self.clipped: int = layout[split]["clipped"]
        self._sources: tuple[Any, ...] | None = None
        self._lock = threading.Lock()
        self.classes = tuple((self.directory / "labels.labels.txt").read_text("utf-8").splitlines())

        places = {i: (part, k) for part, s in enumerate(self._stored) for k, i in enumerate(layout[s]["ids"])}
        self._places = tuple(places[image_id] for image_id in self.image_ids)
        turns = {name: orientation for s in self._stored for name, orientation in layout[s].get("turned", {}).items()}
        self._turns = tuple(turns.get(image_id, 1) for image_id in self.image_ids)
        stored_turns = [[turns.get(image_id, 1) for image_id in layout[s]["ids"]] for s in self._stored]
        parts = [self._index(part, s, stored_turns[part]) for part, s in enumerate(self._stored)]
        self.sizes: Int[np.ndarray, "len 2"] = np.stack([parts[part].sizes[k] for part, k in self._places])
        self.annotations: tuple[GroundTruth, ...] = tuple(parts[part].annotation(k) for part, k in self._places)
        self._digests = tuple(parts[part].digests[k].tobytes() for part, k in self._places)

    @property
    def shared_directory(self) -> Path:
        return self.directory.parents[2]

    @cached_property
    def fingerprint(self) -> str:
        return content_fingerprint(self)

    def __len__(self) -> int:
        return len(self.image_ids)

    def read_image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        part, position = self._places[index]
        records = self._open()[part]
        with damage_named(self.directory):
            return decode_image(records[position]["image"], self._turns[index])

    def image_file(self, index: int) -> str:
        """Name of the image's file when it was prepared, without folders; reads its record."""
        part, position = self._places[index]
        name = self._open()[part][position]["image/filename"]
        return name.decode() if isinstance(name, bytes) else str(name)

    def image_fingerprint(self, index: int) -> str:
        orientation = self._turns[index]
        return self._digests[index].hex() + (f"+turned{orientation}" if orientation != 1 else "")

    def check_images(self) -> None:
        """Reads all prepared files and images, with a progress bar.

        Raises:
            ValueError: some have changed since they were prepared; gives their number and names the first.
        """
        damaged = []
        places = Progress(self._places, f"Verifying {self.name}", unit="image", delay=2)
        for index, (part, position) in enumerate(places):
            try:
                intact = hashlib.sha256(self._open()[part][position]["image"]).digest() == self._digests[index]
            except (ValueError, IndexError, RuntimeError):  # raised by ArrayRecord's own check
                intact = False
            if not intact:
                damaged.append(self.image_ids[index])
        if damaged:
            raise ValueError(
                f"{self.directory}: {len(damaged)} prepared images are damaged (the first: {damaged[0]}); remove this "
                f"folder, and it is prepared again: rm -r {shlex.quote(str(self.directory))}"
            )
        with damage_named(self.directory):
            check_contents(self.directory)

    def earlier_states(self) -> list[PreparedDataset]:
        """This split in other prepared folders of the same name, if they hold proposals of earlier versions."""
        label = self.directory.parent.name.rpartition("-")[0] or self.directory.parent.name
        states = []
        for path in sorted(self.directory.parents[1].glob(f"{label}-*/{self.directory.name}")):
            if path != self.directory and (path / "proposals").is_dir():
                with contextlib.suppress(ValueError, OSError):  # a folder without the split
                    states.append(PreparedDataset(self.name, path, self._split))
        return states

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __reduce__(self) -> tuple:
        return PreparedDataset, (self.name, self.directory, self._split, self.chosen)

    def _why_empty(self, split: str) -> str:
        """Reason why an existing split of the folder was not prepared."""
        dropped = read_summary(self.directory)["empty"].get(split)
        if not dropped:
            return f"no split {split!r} with images"
        if set(dropped) == {"missing_annotation"}:
            return (
                f"none of the {dropped['missing_annotation']} images of split {split!r} has an annotation; annotate "
                "them, or take them as images without objects: --data.faults.missing-annotation empty"
            )
        counts = ", ".join(f"{kind} {count}" for kind, count in dropped.items())
        return f"all images of split {split!r} were dropped for their faults ({counts}); put them right"

    def _open(self) -> tuple[Any, ...]:
        """TFDS's data source of each stored split."""
        with self._lock:
            if self._sources is None:
                import tensorflow_datasets as tfds

                with damage_named(self.directory):
                    builder = tfds.builder_from_directory(str(self.directory))
                    decoders = {"image": tfds.decode.SkipDecoding()}
                    self._sources = tuple(
                        builder.as_data_source(tfds_split(s), decoders=decoders) for s in self._stored
                    )
            return self._sources

    def _index(self, part: int, stored: str, turns: Sequence[int]) -> Index:
        path = self.directory / f"frcnn_index_{stored}.npz"
        index = load_index(path)
        if index is None:
            index = make_index(self._open()[part], f"Indexing {self.name}", turns)
            save_index(path, index)
        if len(index.sizes) != len(turns):
            raise ValueError(f"{path}: {len(index.sizes)} images, but split {stored} lists {len(turns)}")
        return index
