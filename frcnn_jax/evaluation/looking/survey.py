"""Survey of a folder: splits, objects by class and size, equal images, faults. Images are not decoded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from frcnn_jax.config import Config, DataConfig, expand_user
from frcnn_jax.data.faults import Fault
from frcnn_jax.data.images import check_image, image_size
from frcnn_jax.data.prepared.checks.image import CheckedImage
from frcnn_jax.data.prepared.checks.report import corrections, fault_table, way_on_lines, way_on_options
from frcnn_jax.data.prepared.prepare import Examination, Request, data_dir, examine_folder, find_splits
from frcnn_jax.data.records import SplitRecords
from frcnn_jax.evaluation.analysis.measures import SIZES, size_names
from frcnn_jax.evaluation.looking.equal import equal_files, equal_images, twin_folders
from frcnn_jax.evaluation.looking.objects import all_objects
from frcnn_jax.evaluation.looking.view import FolderView
from frcnn_jax.words import counted

__all__ = ["SplitFacts", "Survey", "equal_images", "survey_folder"]


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """Numbers of usable images and objects of a split."""

    images: int
    objects: int
    empty: int  # images without objects
    most: int  # most objects in one image
    used: str  # purpose in the settings


@dataclasses.dataclass(frozen=True)
class Survey:
    """A folder before training, without images and objects that the settings drop for their faults, and without empty
    boxes and objects of unknown classes.
    """

    folder: Path
    format: str
    splits: dict[str, SplitFacts]
    view: FolderView  # images of all splits, each once
    split_of: tuple[str, ...]  # the split of each of them
    drawn: bool  # the test is a share of all images, `data.split`
    test_stop: str  # why training would stop at such a test, and what to type; empty if it would not
    notes: tuple[str, ...]
    faults: dict[str, tuple[Fault, ...]]  # by kind
    answers: tuple[str, ...]  # lines: answers of the settings to the faults
    stops: bool  # a fault stops the preparation
    way_on: tuple[str, ...]  # lines: settings with which it would not stop
    options: tuple[str, ...]  # the words of these settings, for a command line
    equal: tuple[tuple[tuple[str, str], ...], ...]  # groups of images with equal content, each image as split and id

    def class_table(self) -> tuple[list[str], list[list[str | int]]]:
        """Column heads and a row per class: objects, images with objects, objects by split, by size, and by mark. Marks
        without objects are left out.
        """
        objects = all_objects(self.view.annotations)
        image, sizes = objects.image, size_names(objects.boxes)
        splits = np.array(self.split_of)[image] if len(image) else np.zeros(0, str)
        columns = [(split, splits == split) for split in self.splits]
        columns += [(size, sizes == size) for size in SIZES]
        marks = (("difficult", objects.difficult), ("crowds", objects.crowd))
        columns += [(name, marked) for name, marked in marks if marked.any()]
        rows = []
        for label, name in enumerate(self.view.classes, start=1):
            of_class = objects.labels == label
            row = [name, int(of_class.sum()), len(np.unique(image[of_class]))]
            rows.append(row + [int((of_class & column).sum()) for _, column in columns])
        return ["class", "objects", "images", *(head for head, _ in columns)], rows


def survey_folder(config: Config) -> Survey:
    """Surveys the folder `config.data.root`, with the settings that a training would use.

    Images are checked by their headers, and decoded too with `config.data.verify`.

    Raises:
        ValueError: no root is set, no format fits or several do, or a setting is wrong.
        FileNotFoundError: the folder does not exist, or its format is unknown.
    """
    data = config.data
    if not data.test.startswith("folder/"):
        data = dataclasses.replace(data, train=("folder/trainval",), test="folder/test", validation=None)
    elif not any(name.startswith("folder/") for name in data.train):
        data = dataclasses.replace(data, train=("folder/trainval",))
    examined = _examine(data)
    checks = [found.check for _, found, _ in examined]
    faults: dict[str, list[Fault]] = {}
    for fault in dict.fromkeys(f for check in checks for f in (*check.errors, *check.tolerated, *check.dropped)):
        faults.setdefault(fault.kind, []).append(fault)
    images: dict[str, tuple[CheckedImage, str]] = {}
    splits: dict[str, SplitFacts] = {}
    read: dict[str, SplitRecords] = {}
    for request, found, _ in examined:
        splits |= {name: facts for name, facts in _split_facts(found, request).items() if name not in splits}
        for name in _parts(found.splits):
            read.setdefault(name, found.splits[name])
            for image in found.check.splits[name].images:
                images.setdefault(image.image_id, (_usable(image, found.check.classes), name))
    chosen = [
        f"{use}: {counted(count, 'image')}, {rule.why}"
        for use, rule in dict.fromkeys(used for request, _, _ in examined for used in request.used)
        if rule.why and rule.split in splits and (count := splits[rule.split].images)
    ]
    same = equal_files(read)
    folder, errors = expand_user(data.root).resolve(), [fault for check in checks for fault in check.errors]
    classes = tuple(dict.fromkeys(name for check in checks for name in check.classes))
    stops = [reason for request, found, _ in examined if (reason := _test_stop(request, found))]
    return Survey(
        folder=folder,
        format=examined[0][0].format,
        splits=splits,
        view=FolderView(f"folder {folder.name}", [image for image, _ in images.values()], classes, data_dir(data)),
        split_of=tuple(name for _, name in images.values()),
        test_stop=stops[0] if stops else "",
        drawn=any(request.pooled is not None and request.pooled.chosen for request, _, _ in examined),
        notes=(
            *twin_folders(read, same, folder),
            *chosen,
            *dict.fromkeys(note for _, found, lines in examined for note in (*found.notes, *lines)),
            *(() if faults else corrections(checks)),  # the table of faults has them
        ),
        faults={kind: tuple(of_kind) for kind, of_kind in sorted(faults.items())},
        answers=tuple(fault_table(checks, data.faults)) if faults else (),
        stops=bool(errors),
        way_on=tuple(way_on_lines(checks, errors)) if errors else (),
        options=() if any(fault.kind == "orientation" for fault in errors) else tuple(way_on_options(checks)),
        equal=equal_images(read, same),
    )


def _test_stop(request: Request, found: Examination) -> str:
    """Reason why a test that is a share of the folder would stop the preparation; empty if it would not."""
    pooled = request.pooled
    if pooled is None or not pooled.chosen or found.check.errors or not request.config.test.startswith("folder/"):
        return ""
    if not found.splits["test"].records:
        return f"split 'test' has no images: {pooled.why_empty()}"
    images = {image.image_id: bool(image.objects) for split in found.check.splits.values() for image in split.images}
    try:
        pooled.check_objects(images, request.path)
    except ValueError as error:
        return str(error)
    return ""


def _examine(data: DataConfig) -> list[tuple[Request, Examination, list[str]]]:
    """The examinations that cover the splits in the settings, and the log lines of each."""
    named = [*data.train, data.validation or "", data.test]
    examined: list[tuple[Request, Examination, list[str]]] = []
    for name in dict.fromkeys(name.removeprefix("folder/") for name in named if name.startswith("folder/")):
        with _collected_log() as logged:
            try:
                request = find_splits(name, data)
                if any(set(request.wanted) <= set(other.wanted) for other, _, _ in examined):
                    continue
                found = examine_folder(request, check_image if data.verify else image_size)
            except (ValueError, OSError) as error:
                if not examined:
                    raise
                examined[0][2].append(str(error))
                continue
        examined.append((request, found, logged))
    return examined


def _usable(image: CheckedImage, classes: Sequence[str]) -> CheckedImage:
    """The image with only the objects that can be shown and learned: of these classes, and not empty. A check keeps
    others too if their faults stop.
    """
    kept = tuple(item for item in image.objects if item.name in classes and _area(item.box) > 0)
    return dataclasses.replace(image, objects=kept)


def _area(box: Sequence[float]) -> float:
    """Area of a box; 0 if its corners are reversed."""
    x1, y1, x2, y2 = box
    return max(x2 - x1, 0) * max(y2 - y1, 0)


def _parts(splits: Mapping[str, SplitRecords]) -> list[str]:
    """The splits without `trainval` if its parts are among them."""
    return [name for name in splits if name != "trainval" or not {"train", "validation"} <= splits.keys()]


def _split_facts(found: Examination, request: Request) -> dict[str, SplitFacts]:
    uses: dict[str, list[str]] = {}
    parts = _parts(found.splits)
    for use, rule in request.used:
        for name in (rule.split,) if rule.split in parts else ("train", "validation"):
            uses.setdefault(name, []).append({"train": "trained on", "test": "tested on"}.get(use, use))
    facts = {}
    for name in parts:
        counts = [len(_usable(image, found.check.classes).objects) for image in found.check.splits[name].images]
        used = ", ".join(dict.fromkeys(uses.get(name, ())))
        lost = f" but for {found.lost[name]} that are tested on" if found.lost[name] else ""
        empty = sum(count == 0 for count in counts)
        facts[name] = SplitFacts(len(counts), sum(counts), empty, max(counts, default=0), used + lost)
    return facts


@contextmanager
def _collected_log() -> Iterator[list[str]]:
    """Collects the package's log lines instead of logging them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                messages.append(record.getMessage())

    logger, collector = logging.getLogger("frcnn_jax"), Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
