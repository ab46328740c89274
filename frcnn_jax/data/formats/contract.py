"""The contract of a reader of annotated folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.data.records import SplitRecords

__all__ = ["AnnotationReader"]


class AnnotationReader:
    """A folder in one format, opened by `Reader(root, config)`, which raises FileNotFoundError if a part is missing.

    A reader has `layout`, `splits`, `fits` and `read`. The other methods are optional: `register_format` adds them, as
    they are here, to a reader that does not derive from this class.
    """

    layout: str
    """Description of the format's layout, as in "file labels.csv", for the message that no format fits."""

    splits: tuple[str, ...]
    """Names of the splits, also as a property; `train`, `validation`, `trainval` and `test` for the standard ones."""

    @staticmethod
    def fits(root: Path) -> bool:
        """True for a folder that looks like this format. Must be quick."""
        raise NotImplementedError

    def read(self, split: str) -> SplitRecords:
        """The images of a split, each once, and the faults of its list.

        Raises:
            FileNotFoundError: the split does not exist; names the existing ones.
        """
        raise NotImplementedError

    @staticmethod
    def may_fit(root: Path) -> bool:
        """True for a folder to be read in this format if none fits. Must be quick."""
        return False

    @staticmethod
    def lacking(root: Path) -> str:
        """A sentence about a file that is nearly in the format, and what it lacks; asked for if no format may fit."""
        return ""

    def content(self, splits: Sequence[str], hash_file: Callable[[Path], str]) -> list[Any] | None:
        """A JSON value that changes whenever images or annotations of the splits change; None to hash records and
        images. With it, checking if a prepared folder is up to date reads no records.

        Args:
            hash_file: returns the hex SHA-256 of a file, which it reads only if it has changed.
        """
        return None

    def image_names(self, splits: Sequence[str]) -> list[str]:
        """Paths of the images of splits, below the root or absolute; here those of the records."""
        records = (record for split in splits for record in self.read(split).records)
        return list(dict.fromkeys(record.path.as_posix() for record in records if record.path is not None))

    def places(self, split: str) -> tuple[str, ...]:
        """Files or folders of a split, below the root, for messages."""
        return ()
