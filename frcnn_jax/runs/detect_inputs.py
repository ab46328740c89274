"""Input files for detection: images, folders of images, and videos."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from frcnn_jax.config import DataConfig
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.images import (
    DRAWN_SUFFIXES,
    IMAGE_SUFFIXES,
    UNREADABLE_SUFFIXES,
    check_image,
    exif_orientation,
    turned_size,
)
from frcnn_jax.progress import Progress
from frcnn_jax.runs.video import VIDEO_SUFFIXES
from frcnn_jax.words import counted, listed

__all__ = ["ImageInput", "check_images", "find_inputs", "say_orientation"]

_NAMED = 3  # files in a message
_KINDS = f"give images, folders of images, or videos ({', '.join(VIDEO_SUFFIXES)})"


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """An image that can be read."""

    path: Path
    size: tuple[int, int]  # height and width, turned
    mark: int  # its EXIF orientation, 1 for none
    orientation: int  # the EXIF orientation if it is applied, else 1


def find_inputs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The images and videos at the given paths, each once: files, and the images in folders, sorted by name.

    Subfolders are not searched; hidden files and pictures of earlier detections are skipped.

    Raises:
        ValueError: a path does not exist, a folder has no images, or the results of two files would have one name.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ValueError(f"no file {', '.join(missing)}: {_KINDS}")
    files = [file for path in paths for file in (_folder_images(path) if path.is_dir() else [path])]
    files = list({(file.resolve(), file.name): file for file in files}.values())
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    images = [file for file in files if file.suffix.lower() not in VIDEO_SUFFIXES]
    for kind, inputs in (("images", images), ("videos", videos)):
        _check_names(kind, inputs)
    return images, videos


def _folder_images(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    images = [file for file in files if _is_image(file)]
    if not images:
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        hint = "give a folder that has some, or files"
        if videos:
            hint = f"{counted(len(videos), 'video is', 'videos are')} to be given one by one, as {videos[0]}"
        elif inner := _first_with_images(folder):
            hint = f"subfolders are not searched; give them, as {inner}"
        raise ValueError(f"{folder} has no images: {hint}")
    return _without_copies(folder, images)


def _without_copies(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The images without those in formats that cannot be read, as HEIC, beside another of the same name."""
    readable = {file.stem for file in images if file.suffix.lower() not in UNREADABLE_SUFFIXES}
    kept = [file.suffix.lower() not in UNREADABLE_SUFFIXES or file.stem not in readable for file in images]
    copies = [file for file, stays in zip(images, kept, strict=True) if not stays]
    if copies:
        beside = "another of its name lies beside it" if len(copies) == 1 else "others of their names lie beside them"
        print(
            f"{folder}: left out {counted(len(copies), 'image')} that cannot be read, as {beside} ({copies[0].name})",
            file=sys.stderr,
        )
    return [file for file, stays in zip(images, kept, strict=True) if stays]


def _is_image(file: Path) -> bool:
    """True for the name of an image that is not a picture of an earlier call."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.lower().endswith(DRAWN_SUFFIXES)


def _first_with_images(folder: Path) -> Path | None:
    """The first folder by name, at any depth, that holds images."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(_is_image(Path(name)) for name in files if not name.startswith(".")):
            return Path(path)
    return None


def _check_names(kind: str, files: Sequence[Path]) -> None:
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(file.stem, []).append(file)
    repeated = {name: same_name for name, same_name in by_name.items() if len(same_name) > 1}
    if repeated:
        first, second, *_ = next(iter(repeated.values()))
        raise ValueError(
            f"several {kind} are named {listed(sorted(repeated), 5)}; their results would overwrite each other: "
            f"detect in {first} and {second} by two calls, each with an --out of its own"
        )


def check_images(
    paths: Sequence[Path],
    orientation: Literal["auto", "apply", "ignore"],
    max_pixels: int = DataConfig.max_pixels,
    *,
    skip_broken: bool = False,
) -> list[ImageInput]:
    """The images, after checking that each is complete and can be decoded.

    Args:
        orientation: `Detector.orientation`: apply the EXIF orientation or not; auto is apply.
        max_pixels: limit on the pixels of an image.
        skip_broken: leave out those that are not, with a line on stderr for each.

    Raises:
        ValueError: some are not, or with `skip_broken` all; names the first three and gives their number.
    """
    found, faults = [], []
    results = map_in_threads(partial(_check, max_pixels=max_pixels), paths)
    for path, result in zip(
        paths, Progress(results, "Checking", len(paths), unit="image", delay=2, leave=False), strict=True
    ):
        if isinstance(result, str):
            faults.append((path, result))
            continue
        size, mark = result
        applied = 1 if orientation == "ignore" else mark
        found.append(ImageInput(path, turned_size(size, applied), mark, applied))
    if faults and found and skip_broken:
        for path, fault in faults:
            print(f"skipped: {path}: {fault}", file=sys.stderr)
    elif faults:
        named = "; ".join(f"{path}: {fault}" for path, fault in faults[:_NAMED]) + ("; ..." if faults[_NAMED:] else "")
        more = f" ({len(faults)} of {len(paths)} files cannot be read)" if len(paths) > 1 else ""
        more += ", --skip-broken leaves them out" if found else ""
        kinds = "" if all(path.suffix.lower() in IMAGE_SUFFIXES for path, _ in faults) else f": {_KINDS}"
        raise ValueError(f"{named}{more}{kinds}")
    return found


def say_orientation(images: Sequence[ImageInput], *, lines: bool) -> None:
    """Prints which images with an EXIF orientation are turned, or their number without `lines`."""
    for turned in (False, True):
        marked = [image for image in images if image.mark != 1 and (image.orientation != 1) == turned]
        what = "is followed" if turned else "is ignored"
        which = "of the turned image" if turned else "as the pixels lie in the file"
        if lines:
            for image in marked:
                mark = f", {image.mark}," if turned else ""
                print(f"{image.path}: its EXIF orientation{mark} {what}: boxes and picture are {which}")
        elif marked:
            many = counted(len(marked), "image has", "images have")
            print(f"{many} an EXIF orientation, which {what}: boxes and pictures are {which}")


def _check(path: Path, max_pixels: int) -> tuple[tuple[int, int], int] | str:
    """Size and EXIF orientation of an image, or its fault."""
    try:
        data = path.read_bytes()
        return check_image(data, max_pixels), exif_orientation(data)
    except (ValueError, OSError) as error:
        return str(error)
