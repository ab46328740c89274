"""Reader of VOC's XML files in other arrangements of folders than VOC's: beside the images, as labelImg and Roboflow
write them, or in folders of their own; names of folders give the splits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax.data.formats.layout import ALL, Entry, LayoutReader, warn_once
from frcnn_jax.data.formats.tree import files_below, split_of
from frcnn_jax.data.formats.voc import VOC_CORNERS, read_xml, with_annotation
from frcnn_jax.data.formats.voc_folder import voc_folders
from frcnn_jax.data.records import ImageRecord

__all__ = ["LabelImgReader"]

_MOST = 50  # XML files that are looked at to see whether they are VOC's
_START = 2000  # bytes of a file in which its first element is looked for


class LabelImgReader(LayoutReader):
    """XML files anywhere below the folder, each with the image of its name. Images without XML are left out: labelImg
    writes a file for an image without objects too."""

    layout = "XML annotations beside images"

    @staticmethod
    def fits(root: Path) -> bool:
        if voc_folders(root):
            return False
        files = zip(range(_MOST), files_below(root, (".xml",)), strict=False)
        return any(_is_annotation(root.joinpath(*folders, name)) for _, (folders, name) in files)

    def _entries(self) -> Iterator[Entry]:
        others, used, places = [], set(), []
        for folders, name in files_below(self.root, (".xml",)):
            found = self.images.find(name[:-4], folders, split_of(folders), by_stem=True)
            if found or _is_annotation(self.root.joinpath(*folders, name)):
                places.append((folders, name, found))
                used.update(found)
            else:
                others.append("/".join((*folders, name)))
        of_stem = frozenset(used)
        for folders, name, found in places:
            file, split = "/".join((*folders, name)), split_of(folders)
            path = self.root / file
            if len(found) != 1:
                named = self._named(path, file, folders, split)
                # The name in a file copied from another is that of an image with a file of its own.
                found = [image for image in named if image in found or image not in of_stem] or found
            split = split or (found[0].split if found else None) or ALL
            used.update(found)
            yield Entry(split, name[:-4], file, tuple(found), path)
        if others:
            warn_once(f"{self.root}: {len(others)} XML files are left out, which are not VOC's ({others[0]})")
        left = len(self.images) - len(used)
        if left:
            warn_once(f"{self.root}: {left} images without annotation are left out")

    def _named(self, path: Path, file: str, folders: tuple[str, ...], split: str | None) -> list:
        """Images of the name in the annotation, for one whose own name is that of no image or of several."""
        annotation, _ = read_xml(path, file)
        if annotation is None or not annotation.filename:
            return []
        return self.images.find(annotation.filename, folders, split)

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        annotation, faults = read_xml(entry.annotation, entry.file)
        record = dataclasses.replace(record, faults=(*faults, *record.faults), notation=VOC_CORNERS)
        return with_annotation(record, annotation)


def _is_annotation(path: Path) -> bool:
    """True if the first element of an XML file is VOC's; true as well for a file that cannot be read as text."""
    with path.open("rb") as file:
        start = file.read(_START)
    text = start.decode("utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "ignore")
    element = re.search(r"<\s*([A-Za-z_][\w:.-]*)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    return element is not None and element[1] == "annotation"
