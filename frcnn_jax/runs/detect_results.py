"""Names of the files with detections, and the check that none of another file is overwritten."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from frcnn_jax.words import counted

__all__ = ["check_results", "result_files"]

_LONGEST_NAME = 255  # bytes, on all common disks
# Results begin with two paths of at most 4096 bytes each, six times as many characters in JSON; the rest may be long.
_HEAD = 1 << 16
_STRING = r'"(?:[^"\\]|\\.)*"'
_START = re.compile(rf'\s*\{{\s*"(?:image|video)":\s*{_STRING},\s*"path":\s*({_STRING})\s*,')


def result_files(out: Path, file: Path, *, video: bool) -> tuple[Path, Path]:
    """Paths of a file's results: the JSON, and the video or the picture (which may end in .png instead)."""
    name = out / f"{file.stem}.detections"
    endings = (".jsonl", ".mp4") if video else (".json", ".jpg")
    return name.with_name(name.name + endings[0]), name.with_name(name.name + endings[1])


def check_results(out: Path, images: Iterable[Path], videos: Iterable[Path]) -> None:
    """Checks that the results can be named, and that `out` holds none of other files with the same names.

    Raises:
        FileExistsError: it holds some.
        ValueError: an existing file of that name is not a result, or a name would be too long.
    """
    for video, files in ((False, images), (True, videos)):
        for file in files:
            results = result_files(out, file, video=video)
            excess = max(len(os.fsencode(path.name)) for path in results) - _LONGEST_NAME
            if excess > 0:
                ending = "".join(results[0].suffixes[-2:])
                raise ValueError(
                    f"{file}: its name is {counted(excess, 'byte')} too long for NAME{ending}, as names of files have "
                    f"at most {_LONGEST_NAME}: rename it"
                )
            other = _other_file(results[0], file)
            if other is not None:
                raise FileExistsError(f"{out} holds detections of {other}: give another --out for {file}")


def _other_file(results: Path, file: Path) -> str | None:
    """The other file with its detections in `results`; None if it is this file, or without results.

    Raises:
        ValueError: `results` holds something else.
    """
    try:
        with results.open() as text:
            if start := _START.match(text.read(_HEAD)):
                about = {"path": json.loads(start[1])}
            else:
                text.seek(0)
                about = json.loads(text.readline() if results.suffix == ".jsonl" else text.read())
        # Old results have no "path" but "image", relative to an unknown folder.
        before = Path(about["path"] if "path" in about else about["image"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{results} is not a file of `detect`: give another --out, or move it ({error!r})") from error
    if not before.is_absolute():
        return f"{before} in an unknown folder"
    return str(before) if before.resolve() != file.resolve() else None
