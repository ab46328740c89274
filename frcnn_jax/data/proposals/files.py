"""Proposal files: readers for `.mat` and `.npz`, and the treatment of invalid boxes.

Accepted files
    .mat  a variable `boxes`, a cell array with one cell per image in the order of the split, rows `y1 x1 y2 x2`,
          1-based and inclusive: the Selective Search files of the original release. With a cell array `images` of
          names, by name.
    .mat  a variable `boxes`, a matrix for a single image, rows `x1 y1 x2 y2`, 0-based and inclusive: the
          original's two demo files.
    .npz  an array [P, 4] per image under its id, rows `x1 y1 x2 y2`, 0-based and half-open.
    .npz  computed proposals stored by earlier versions (see `legacy.py`), by id.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.config import expand_user
from frcnn_jax.data.proposals.legacy import is_store, npz_arrays, npz_names, read_store
from frcnn_jax.data.proposals.matlab import NotNumbers, read_mat
from frcnn_jax.data.records import float_boxes
from frcnn_jax.words import counted

__all__ = ["clean_boxes", "iterate_proposal_file", "read_proposal_file"]

_log = logging.getLogger(__name__)


def read_proposal_file(
    path: str | Path, image_ids: Sequence[str], sizes: Int[np.ndarray, "N 2"], invalid: str, *, subset: bool = False
) -> list[Float[np.ndarray, "P 4"]]:
    """The boxes of each image of `image_ids`, from a file in one of the forms above, all in memory.

    Args:
        sizes: height and width of each image.
        invalid: `error`, `drop` or `clip`: answer to boxes that are not finite, reversed, empty or not inside the
            image. Dropped and clipped boxes are counted and logged.
        subset: the file may also hold other images, by name.

    Returns:
        float32 boxes, half-open, in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has an unknown form, is not for these images, or a box is invalid.
    """
    return list(iterate_proposal_file(path, image_ids, sizes, invalid, subset=subset))


def iterate_proposal_file(
    path: str | Path, image_ids: Sequence[str], sizes: Int[np.ndarray, "N 2"], invalid: str, *, subset: bool = False
) -> Iterator[Float[np.ndarray, "P 4"]]:
    """Proposals image by image, otherwise like `read_proposal_file`.

    With an .npz file by id, only one image is in memory at a time.

    Raises:
        FileNotFoundError, ValueError: as in `read_proposal_file`; for invalid boxes after the last image.
    """
    path = expand_user(path)
    if not path.is_file():
        raise FileNotFoundError(f"no proposal file {path}")
    readers = {".mat": _read_mat, ".npz": _read_npz}
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a .mat or .npz file")
    rows = readers[path.suffix](path, image_ids, subset)
    arrays = (_as_rows(array, f"{path}: image {name}") for name, array in zip(image_ids, rows, strict=True))
    return clean_boxes(arrays, image_ids, sizes, invalid, str(path))


def clean_boxes(
    arrays: Iterable[Float[np.ndarray, "P 4"]],
    image_ids: Sequence[str],
    sizes: Int[np.ndarray, "N 2"],
    invalid: str,
    source: str,
) -> Iterator[Float[np.ndarray, "P 4"]]:
    """`arrays` without invalid boxes, as float32, image by image; after the last their number is logged.

    `clip` moves corners into the image and drops boxes that are not finite, reversed or then empty.

    Raises:
        ValueError: after the last image, with `error`, for all invalid boxes together; names the first and counts each
            kind.
    """
    if invalid not in ("error", "drop", "clip"):
        raise ValueError(f"proposals.invalid: expected 'error', 'drop' or 'clip', got {invalid!r}")
    counts: dict[str, int] = {}
    first = ""
    dropped = 0
    for name, given, (height, width) in zip(image_ids, arrays, sizes, strict=True):
        boxes = float_boxes(given)
        frame = np.array([width, height, width, height], np.float64)
        kinds = _faults(boxes, frame)
        for kind, bad in kinds.items():
            counts[kind] = counts.get(kind, 0) + int(bad.sum())
            if bad.any() and not first:
                index = int(np.argmax(bad))
                first = f"image {name} ({width} x {height}), box {index} is {kind}: {boxes[index].tolist()}"
        keep = ~np.logical_or.reduce(list(kinds.values()))
        if invalid == "clip":
            boxes = np.clip(boxes, 0, frame)
            keep = ~kinds["not finite"] & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        dropped += int((~keep).sum())
        yield boxes[keep].astype(np.float32)
    total = sum(counts.values())
    if total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        if invalid == "error":
            raise ValueError(
                f"{source}: {total} invalid boxes ({kinds}), the first: {first}; "
                "set proposals.invalid to drop or clip to go on"
            )
        _log.warning(
            "%s: %d invalid boxes (%s): %d dropped, %d clipped", source, total, kinds, dropped, total - dropped
        )


def _faults(boxes: Float[np.ndarray, "P 4"], frame: Float[np.ndarray, " 4"]) -> dict[str, Bool[np.ndarray, " P"]]:
    """Masks of the boxes with each fault; a box counts for the first fault that applies."""
    wild = ~np.isfinite(boxes).all(axis=1)
    reversed_ = ~wild & (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    empty = ~wild & ~reversed_ & (boxes[:, 2:] == boxes[:, :2]).any(axis=1)
    outside = ~wild & ~reversed_ & ~empty & ((boxes < 0) | (boxes > frame)).any(axis=1)
    return {"not finite": wild, "reversed": reversed_, "empty": empty, "outside the image": outside}


def _read_mat(path: Path, image_ids: Sequence[str], subset: bool) -> list[Any]:
    """Rows of each image as half-open `x1 y1 x2 y2`, 0-based."""
    try:
        content, names_in_file = read_mat(path, ("boxes", "images"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as a .mat file: {error}") from None
    if "boxes" not in content:
        raise ValueError(f"{path}: no variable 'boxes' (it has: {', '.join(names_in_file[:20]) or 'none'})")
    boxes = content["boxes"]
    if isinstance(boxes, NotNumbers):
        raise ValueError(f"{path}: boxes: {boxes.kind}, expected a cell array, or numbers [P, 4] of one image")
    if boxes.dtype != object:
        if len(image_ids) != 1:
            raise ValueError(f"{path}: 'boxes' is a matrix, so for one image, but there are {len(image_ids)}")
        rows = _as_rows(boxes, f"{path}: boxes")
        return [rows + np.array([0, 0, 1, 1])]
    cells = [_as_rows(cell, f"{path}: boxes{{{i}}}") for i, cell in enumerate(boxes.ravel(), start=1)]
    cells = [cell[:, [1, 0, 3, 2]] - np.array([1, 1, 0, 0]) for cell in cells]
    if "images" in content:
        names = _names(content["images"], path)
        if len(names) != len(cells):
            raise ValueError(f"{path}: {len(names)} names in 'images', but {len(cells)} cells in 'boxes'")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"{path}: {len(repeated)} names occur twice in 'images' (the first: {repeated[0]})")
        return _by_id(path, dict(zip(names, cells, strict=True)), image_ids, subset)
    if len(cells) != len(image_ids):
        raise ValueError(f"{path}: boxes of {counted(len(cells), 'image')}, but there are {len(image_ids)}")
    return cells


def _names(images: np.ndarray | NotNumbers, path: Path) -> list[str]:
    """The texts in a cell array of names."""
    if isinstance(images, NotNumbers) or images.dtype != object:
        kind = images.kind if isinstance(images, NotNumbers) else f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{path}: images: {kind}, expected a cell array of names")
    for i, name in enumerate(images.ravel(), start=1):
        if isinstance(name, NotNumbers) or name.dtype.kind != "U":
            kind = name.kind if isinstance(name, NotNumbers) else "numbers"
            raise ValueError(f"{path}: images{{{i}}}: {kind}, expected a name")
    return [str(name[0]) for name in images.ravel()]


def _read_npz(path: Path, image_ids: Sequence[str], subset: bool) -> Iterable[Any]:
    if is_store(path):
        store = read_store(path)
        ends = store.offsets[1:-1]
        return _by_id(path, dict(zip(store.image_ids, np.split(store.boxes, ends), strict=True)), image_ids, subset)
    _check_ids(path, npz_names(path), image_ids, subset)
    return npz_arrays(path, image_ids)


def _by_id(path: Path, arrays: Mapping[str, Any], image_ids: Sequence[str], subset: bool) -> list[Any]:
    """The arrays in the order of `image_ids`."""
    _check_ids(path, arrays, image_ids, subset)
    return [arrays[name] for name in image_ids]


def _check_ids(path: Path, names: Collection[str], image_ids: Sequence[str], subset: bool) -> None:
    """Raises ValueError unless `image_ids` are the images of the file, or with `subset` some of them."""
    names = set(names)
    missing = [name for name in image_ids if name not in names]
    extra = [] if subset else sorted(names - set(image_ids))
    if missing or extra:
        parts = [
            f"{len(names)} {what} (the first: {names[0]})"
            for names, what in ((missing, "without proposals"), (extra, "that are not in the data set"))
            if names
        ]
        raise ValueError(f"{path}: images do not match the data set: {', '.join(parts)}")


def _as_rows(array: Any, where: str) -> Float[np.ndarray, "P 4"]:
    """`array` as float64 [P, 4]; numbers without elements are no boxes, whatever their shape."""
    if isinstance(array, NotNumbers):
        raise ValueError(f"{where}: {array.kind}, expected numbers [P, 4]")
    array = np.asarray(array)
    if array.size == 0 and array.dtype.kind in "iuf":
        return np.zeros((0, 4))
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{where}: expected numbers of shape [P, 4], got {array.dtype} {list(array.shape)}")
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are reported as invalid boxes
        return array.astype(np.float64)
