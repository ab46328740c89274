"""Pictures that an earlier page of the same folder listed and a new one does not."""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["gallery_files", "listed_pictures", "remove_pictures"]

_DATA = re.compile(r'<script type="application/json" id="gallery">(.*?)</script>', re.DOTALL)
_PICTURE = re.compile(r"(images|thumbnails)/[^/\\]+\.jpg")


def gallery_files(gallery: Mapping[str, Any] | None) -> set[str]:
    """The pictures of the data from `write_gallery`, relative to the page's folder."""
    images = [] if gallery is None else gallery["images"]
    return {unquote(image[kind]) for image in images for kind in ("file", "thumbnail")}


def listed_pictures(page: Path) -> set[str]:
    """The pictures in `images` and `thumbnails` that a page of an evaluation lists; none if it is no such page."""
    try:
        data = _DATA.search(page.read_text("utf-8"))
        return {name for name in gallery_files(json.loads(data[1])) if _PICTURE.fullmatch(name)} if data else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def remove_pictures(directory: Path, earlier: Iterable[str], kept: Iterable[str]) -> None:
    """Removes the files of `earlier` that are not in `kept`, and no others; one that cannot be removed stays."""
    same = {_alike(name) for name in kept}
    for name in earlier:
        if _alike(name) not in same:
            with contextlib.suppress(OSError):  # the page is complete without
                (directory / name).unlink()


def _alike(name: str) -> str:
    """Equal for names of one file where the file system ignores case or the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()
