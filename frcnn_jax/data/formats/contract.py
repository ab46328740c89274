"""The contract of a reader of annotated folders."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from frcnn_jax.config import DataConfig
from frcnn_jax.data.records import SplitRecords

__all__ = ["AnnotationReader"]


class AnnotationReader(Protocol):
    """A folder in one format, opened by `Reader(root, config)`.

    Optional methods:

    `content(splits: Sequence[str], hash_file)` returns a JSON value that changes whenever images or annotations of
    these splits change. With it, checking if a prepared folder is up to date reads no records; without it, records and
    image bytes are hashed. `hash_file(path)` is the hex SHA-256 of a file, which is read only if it has changed; the
    method may also take only the splits.

    `image_names(splits) -> list[str]` are paths of the images of these splits, below the root; without it, records are
    read where only names are needed.

    `places(split) -> tuple[str, ...]` names the files or folders of a split, below the root, for the log.

    `may_fit(root)` is a static method like `fits`, called only if no format fits.

    `lacking(root)` is a static method, called if none may fit either: a sentence about a file that is nearly in the
    format, and what it lacks, else an empty text.
    """

    layout: str
    """Description of the format's layout, as in "file labels.csv", for the message that no format fits."""

    def __init__(self, root: Path, config: DataConfig):
        """
        Raises:
            FileNotFoundError: a part of the folder is missing.
        """

    @staticmethod
    def fits(root: Path) -> bool:
        """True for a folder that looks like this format. Must be quick."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; `train`, `validation`, `trainval` and `test` for the standard ones."""

    def read(self, split: str) -> SplitRecords:
        """The images of a split, each once, and the faults of its list.

        Raises:
            FileNotFoundError: the split does not exist; names the existing ones.
        """
