"""Additional files of an evaluation: detections for other programs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from frcnn_jax.atomic import file_in_place
from frcnn_jax.data.dataset import Dataset, file_name
from frcnn_jax.evaluation.outputs.coco_json import (
    CocoIds,
    annotations_file,
    coco_annotations,
    own_ids,
    write_coco_results,
)
from frcnn_jax.evaluation.outputs.voc_results import check_image_ids, voc_results_files, voc_split, write_voc_results
from frcnn_jax.evaluation.outputs.voc_xml import check_xml_files, write_voc_xml
from frcnn_jax.types import Detections

__all__ = ["ResultFiles", "check_folder", "check_report_folder"]

_REPORT = ("index.html", "images", "thumbnails", "precision_recall.png", "f1.png")  # beside metrics.json


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """Paths of the files; None: not written."""

    voc_results: Path | None = None  # folder for results files of the VOC server
    coco_results: Path | None = None  # JSON file of COCO results
    voc_xml: Path | None = None  # folder for VOC XML
    overwrite: bool = False  # replace existing files
    coco_ids: CocoIds | None = None  # ids in the data set's own COCO files

    def check(self, dataset: Dataset) -> None:
        """Checks paths and names before the evaluation.

        Raises:
            ValueError: a file cannot hold the data set's ids or class names.
            FileExistsError: a file already exists; also with `overwrite`, if annotations lie beside COCO results of the
                data set's own ids.
            OSError: a folder to write to is a file, or is not writable.
        """
        files: list[Path] = []
        if self.voc_results is not None:
            check_image_ids(self.voc_results, dataset.image_ids)
            files += voc_results_files(self.voc_results, dataset.classes, voc_split(dataset.name))
            check_folder(self.voc_results, "--voc-results")
        if self.coco_results is not None:
            if self.coco_results.suffix.lower() != ".json" or self.coco_results.is_dir():
                raise ValueError(f"{self.coco_results}: COCO results are a file; give its name, which ends in .json")
            beside = annotations_file(self.coco_results)
            # It is of other ids, or not ours: it must neither be lost nor be read together with these results.
            if self.coco_ids is not None and beside.exists():
                raise FileExistsError(
                    f"{beside} would be taken for the annotations of {self.coco_results.name}, whose ids are those of "
                    "the data set's own file: move it away, or give the results another name"
                )
            files += [self.coco_results, beside]
            check_folder(self.coco_results.parent, "--coco-results")
        if self.voc_xml is not None:
            check_folder(self.voc_xml, "--voc-xml")
            check_xml_files(self.voc_xml, dataset.image_ids, overwrite=self.overwrite)
        for path in filter(Path.exists, [] if self.overwrite else files):
            raise FileExistsError(f"{path} already exists: give --overwrite to replace it, or another name")

    def write(self, detections: Mapping[str, Detections], dataset: Dataset, *, min_score: float) -> None:
        """Writes the detections of a data set.

        Args:
            min_score: detections below this score are not written to XML.
        """
        if self.voc_results is not None:
            write_voc_results(self.voc_results, detections, dataset.classes, voc_split(dataset.name))
        sizes = dict(zip(dataset.image_ids, dataset.sizes.tolist(), strict=True))
        places = {image: index for index, image in enumerate(dataset.image_ids)}
        if self.coco_results is not None:
            ids, annotations = self.coco_ids, None
            if ids is None:
                ids = own_ids(dataset.image_ids, len(dataset.classes))
                truth = dict(zip(dataset.image_ids, dataset.annotations, strict=True))
                # An id holds the folders of an image, its file name does not.
                files = {
                    image: "".join(image.rpartition("/")[:2]) + file_name(dataset, index)
                    for image, index in places.items()
                }
                annotations = coco_annotations(ids, truth, dataset.classes, sizes, files)
            write_coco_results(self.coco_results, detections, ids, annotations)
        if self.voc_xml is not None:
            for image, found in detections.items():
                name = file_name(dataset, places[image])
                write_voc_xml(self.voc_xml, image, name, sizes[image], found, dataset.classes, min_score=min_score)


def check_report_folder(path: Path, option: str = "--out") -> None:
    """Raises OSError if an evaluation cannot be written to `path` as a folder, or would replace files of others there,
    such as photographs in `images/`.

    Args:
        option: names the option that gives another folder.
    """
    check_folder(path, option)
    # An evaluation writes metrics.json first.
    foreign = [] if (path / "metrics.json").exists() else [name for name in _REPORT if (path / name).exists()]
    if foreign:
        raise FileExistsError(
            f"{path / foreign[0]} would be replaced, and is not of an evaluation, as there is no metrics.json: give "
            f"another folder by {option}"
        )


def check_folder(path: Path, option: str) -> None:
    """Raises OSError if `path` cannot be created or written to as a folder; does not create it.

    Args:
        option: names the option that gives another folder.
    """
    file = file_in_place(path.absolute())
    if file is not None:
        raise NotADirectoryError(f"{path}: {file} is a file, not a folder: give another folder by {option}")
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: {existing} cannot be written to: give another folder by {option}")
