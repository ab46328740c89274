"""Images that are tested and also in other splits, which then lose them."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from frcnn_jax.data.files import file_hash, map_in_threads
from frcnn_jax.data.records import ImageRecord, SplitRecords
from frcnn_jax.words import counted

__all__ = ["without_tested"]

_log = logging.getLogger(__name__)


def without_tested(
    splits: dict[str, SplitRecords], tested: Sequence[str], root: Path, unchanged: Sequence[str] = ()
) -> tuple[dict[str, SplitRecords], Counter[str]]:
    """The splits without images that a tested split has too (by content), and how many each has lost.

    A line in the log gives the numbers. If two tested splits overlap, the first keeps the images.

    Args:
        unchanged: splits that keep their images.
    """
    lost: Counter[str] = Counter()
    for name in tested:
        others = [other for other in splits if other not in (*tested[: tested.index(name) + 1], *unchanged)]
        same = _same_content(splits[name], [splits[other] for other in others])
        for other in others:
            kept = tuple(record for record in splits[other].records if not same(record))
            count = len(splits[other].records) - len(kept)
            if count:
                first = next(record.image_id for record in splits[other].records if same(record))
                splits = splits | {other: dataclasses.replace(splits[other], records=kept)}
                lost[other] += count
                _log.warning(
                    "%s: left out %s of %s, in %s too (the first: %s)",
                    *(root, counted(count, "image"), other, name, first),
                )
    return splits, lost


def _same_content(tested: SplitRecords, others: Sequence[SplitRecords]) -> Callable[[ImageRecord], bool]:
    """True for an image with the same bytes as a tested one. Only files of equal size are read."""
    sizes = {record.path: record.path.stat().st_size for split in (tested, *others) for record in _with_path(split)}
    of_tested = {sizes[record.path] for record in _with_path(tested)}
    of_others = {sizes[record.path] for split in others for record in _with_path(split)}
    paths = [path for path, size in sizes.items() if size in of_tested & of_others]
    hashes = dict(zip(paths, map_in_threads(file_hash, paths), strict=True))
    hashes = {path: digest for path, digest in hashes.items() if len(digest) == 64}  # else the name of an error
    wanted = {hashes[record.path] for record in _with_path(tested) if record.path in hashes}
    return lambda record: record.path in hashes and hashes[record.path] in wanted


def _with_path(split: SplitRecords) -> list[ImageRecord]:
    return [record for record in split.records if record.path is not None]
