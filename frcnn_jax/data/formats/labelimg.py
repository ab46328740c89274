"""Reader of VOC's XML files in other folder layouts: beside the images, as labelImg and Roboflow write them, or in
separate folders. Lists beside them or folder names give the splits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax.config import DataConfig
from frcnn_jax.data.formats.layout import ALL, Entry, LayoutReader, warn_once
from frcnn_jax.data.formats.matching.candidates import nearness, without_claimed
from frcnn_jax.data.formats.tree import files_below, split_of, usual
from frcnn_jax.data.formats.voc.annotation import is_annotation
from frcnn_jax.data.formats.voc.places import find_annotation, in_voc_format
from frcnn_jax.data.formats.voc.reader import VOC_CORNERS, read_xml, with_annotation
from frcnn_jax.data.records import ImageRecord
from frcnn_jax.words import counted

__all__ = ["LabelImgReader"]


class LabelImgReader(LayoutReader):
    """XML files anywhere below the folder, each for the image with its name. Images without XML are skipped, as
    labelImg also writes files for images without objects.
    """

    layout = "XML annotations beside images"
    lists_first = True

    def __init__(self, root: Path, config: DataConfig):
        super().__init__(root, config)
        used = {image for entries in self._splits.values() for entry in entries for image in entry.found}
        unused = [image.below for image in self.images if image not in used]
        if used and unused:
            warn_once(f"{root}: left out {counted(len(unused), 'image')} without annotation ({min(unused)})")

    @staticmethod
    def fits(root: Path) -> bool:
        return not in_voc_format(root) and find_annotation(root) is not None

    def _entries(self) -> Iterator[Entry]:
        others, used, places = [], set(), []
        for folders, name in files_below(self.root, (".xml",)):
            found = self.images.find(name[:-4], folders, split_of(folders), by_stem=True)
            if found or is_annotation(self.root.joinpath(*folders, name)):
                places.append((folders, name, found))
                used.update(found)
            else:
                others.append("/".join((*folders, name)))
        of_stem = frozenset(used)
        candidates = without_claimed([found for _, _, found in places])
        places = [(folders, name, found) for (folders, name, _), found in zip(places, candidates, strict=True)]
        # If several annotations fit one image, the nearest is used, and the others are faults.
        places.sort(key=lambda place: nearness(place[2][0], place[0]) if len(place[2]) == 1 else (0, 0), reverse=True)
        for folders, name, found in places:
            file, split = "/".join((*folders, name)), split_of(folders)
            path = self.root / file
            if len(found) != 1:
                named = self._named(path, file, folders, split)
                # A copied file may still name an image that has its own file.
                found = [image for image in named if image in found or image not in of_stem] or found
                found = usual(found)
            split = split or (found[0].split if found else None) or ALL
            yield Entry(split, name[:-4], file, tuple(found), path, folders)
        if others:
            warn_once(f"{self.root}: left out {counted(len(others), 'XML file')} not in VOC's form ({others[0]})")

    def _named(self, path: Path, file: str, folders: tuple[str, ...], split: str | None) -> list:
        """Images with the name inside the annotation, if the annotation's file name fits none or several."""
        annotation, _ = read_xml(path, file)
        if annotation is None or not annotation.filename:
            return []
        return self.images.find(annotation.filename, folders, split)

    def _read(self, entry: Entry, record: ImageRecord) -> ImageRecord:
        annotation, faults = read_xml(entry.annotation, entry.file)
        record = dataclasses.replace(record, faults=(*faults, *record.faults), notation=VOC_CORNERS)
        record = with_annotation(record, annotation)
        if not self.images.prefixed:
            return record
        return dataclasses.replace(record, notes=tuple(n for n in record.notes if n.kind not in ("named", "filename")))
