"""From a name such as voc/2007/trainval or folder/test to the folder of its prepared data set."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from frcnn_jax.config import DataConfig, FaultPolicy, expand_user
from frcnn_jax.data.faults import Fault, note_sentences
from frcnn_jax.data.formats.csv_files.class_names import coded_classes
from frcnn_jax.data.images import check_image, image_size
from frcnn_jax.data.prepared.checks.records import usable_records
from frcnn_jax.data.prepared.checks.report import raise_or_report, say_again, say_earlier, say_layout, summarize
from frcnn_jax.data.prepared.checks.splits import Check, CheckedSplit, check_splits, without_objects
from frcnn_jax.data.prepared.content import folder_names, policy_key, source_of
from frcnn_jax.data.prepared.conventions import Conventions, find_conventions, follow
from frcnn_jax.data.prepared.damage import damage_named
from frcnn_jax.data.prepared.evidence.sizes import mark_tiny
from frcnn_jax.data.prepared.evidence.widespread import likely_mistake
from frcnn_jax.data.prepared.hashes import FileHashes
from frcnn_jax.data.prepared.load import LoadedImage, find_classes, load_images
from frcnn_jax.data.prepared.names import OtherClasses, RenamedReader, of_classes, warn_of_slips
from frcnn_jax.data.prepared.request import Request, find_splits
from frcnn_jax.data.prepared.splits.divided import divided_images
from frcnn_jax.data.prepared.splits.rule import SplitRule
from frcnn_jax.data.prepared.splits.tested import without_tested
from frcnn_jax.data.records import SplitRecords, canonical_split, with_trainval
from frcnn_jax.locks import folder_lock
from frcnn_jax.sums import check_sizes
from frcnn_jax.words import joined

__all__ = ["Examination", "Request", "data_dir", "examine_folder", "find_splits", "prepare_folder", "prepare_voc"]

_LEAST_SHARE = 1 / 3  # least share of the images in a list that must exist
_log = logging.getLogger(__name__)
_PREPARED: set[Path] = set()  # folders that this process has already reported on


def prepare_voc(year: str, config: DataConfig) -> Path:
    """The prepared PASCAL VOC of a year, downloaded and checked if it does not exist yet.

    The result has no faults under the strictest policy, so it is valid under any policy. No faults are tolerated,
    corners are VOC's, and images are not turned.

    Raises:
        DatasetFaultError: the data have faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.prepared.builder import CheckedVoc, PreparedConfig, configured, write_prepared

    root = data_dir(config)
    strict = CheckedVoc(config=year, data_dir=root, file_format="array_record")
    builder = strict
    faults = dataclasses.replace(config.faults, tolerance=0)
    if faults != FaultPolicy(tolerance=0) and not strict.data_path.exists():
        settings = PreparedConfig(name=f"{year}-{policy_key(faults)}", year=year, faults=faults)
        builder = configured(CheckedVoc, settings, root)
    if not builder.data_path.exists():
        with _one_process(Path(root) / CheckedVoc.name, year):  # one download and unpacking for all policies
            write_prepared(builder)
    return Path(builder.data_dir)


def prepare_folder(split: str, config: DataConfig) -> tuple[Path, str, str]:
    """The prepared data set of the folder `config.root`, the name of the split in it, and `Request.chosen`.

    It holds all standard splits of the folder, or the requested other one. Its own folder is named by a hash of its
    sources, so a change of the lists, annotations, images, classes or policy makes a new one. If several processes
    prepare the same data, one does and the others wait. Files with unchanged size and times are not read again, unless
    `config.verify` is set (see `hashes`).

    Raises:
        ValueError: no root is set, a split is empty, classes are repeated or missing, several formats fit, or a name of
            `config.rename` does not occur.
        FileNotFoundError: the root is not a folder in a known format, or the split does not exist.
        DatasetFaultError: the data have faults that `config.faults` does not allow.
    """
    from frcnn_jax.data.prepared.builder import (
        FolderBuilder,
        PreparedConfig,
        VocFolderBuilder,
        configured,
        write_prepared,
    )

    request = find_splits(split, config)
    builder_class = VocFolderBuilder if request.format == "voc" else FolderBuilder
    root = data_dir(config)
    label = re.sub(r"[^A-Za-z0-9]+", "_", request.path.name).strip("_") or "root"
    key = hashlib.sha256(os.fsencode(request.path)).hexdigest()[:16]
    hashes = FileHashes(Path(root) / "frcnn_files" / f"{label}-{key}.npz", verify=config.verify)
    # Without tolerated faults the tolerance does not matter: that is the first name.
    found = folder_names(
        *(request.reader, request.wanted, request.path, hashes, request.config),
        format_name=request.format,
        tested=request.tested,
        others=[
            *((rule.reader, [rule.split]) for rule in request.held),
            *([(request.reader, request.evidence)] if request.evidence else []),
        ],
    )
    reader = request.reader
    if isinstance(reader, RenamedReader) and reader.was_read:
        # Its records were hashed as they are renamed, which a name that no object has does not change.
        reader.check_used(request.path)
    names = [f"{label}-{name}" for name in found]
    folder = Path(root) / builder_class.name
    places = [folder / name / str(builder_class.VERSION) for name in names]
    source = source_of(request.path, request.format, request.wanted, config)
    if not any(place.is_dir() for place in places):
        with _one_process(folder, names[0]):
            if not any(place.is_dir() for place in places):
                check = _check_folder(request, folder / f"{names[0]}.faults.txt")
                name = names[check.lenient]
                settings = PreparedConfig(
                    name=name,
                    classes=check.classes,
                    checked=check.splits,
                    summary=check.summary,
                    orientation=check.orientation,
                    source=source,
                )
                write_prepared(configured(builder_class, settings, root))
                _PREPARED.update(places)
                say_earlier(folder, label, places, source)
    place = next(place for place in places if place.is_dir())
    with damage_named(place):
        check_sizes(place)  # before the files of what to say are read
        if place not in _PREPARED:
            say_again(place, str(request.path))
        say_layout(place, str(request.path), request.format, request.used)
    if request.pooled is not None and request.split == "test":
        request.pooled.check_tested(place, request.path)
    return place, request.split, request.chosen


@dataclasses.dataclass(frozen=True)
class Examination:
    """The result of reading and checking a folder."""

    splits: dict[str, SplitRecords]  # as read
    kept: dict[str, SplitRecords]  # without test images and objects of other classes
    lost: Counter[str]  # number of images that each split lost to a tested one
    others: OtherClasses
    images: dict[str, LoadedImage]
    check: Check
    notes: tuple[str, ...]  # decisions, and data that are read differently than written


def examine_folder(request: Request, check_file: Callable[[bytes], tuple[int, int]] = check_image) -> Examination:
    """Reads the splits of a request and checks their images and objects; faults are in the result.

    Args:
        check_file: returns the size of an encoded image, or raises ValueError if it is unusable.
    """
    path, reader, config = request.path, request.reader, request.config
    tested = [name for name in request.tested if name in request.wanted]
    sources = [(name, reader) for name in request.wanted]
    sources += [
        (rule.split, RenamedReader(rule.reader, config.rename) if config.rename else rule.reader)
        for rule in request.held
    ]
    usable = usable_records([source.read(name) for name, source in sources])
    wanted, rest = usable[: len(request.wanted)], usable[len(request.wanted) :]
    read = dict(zip(request.wanted, wanted, strict=True))
    splits, lost = without_tested(read, tested, path)
    held = dict(zip((rule.split for rule in request.held), rest, strict=True))
    more, lost_more = without_tested(splits | held, list(held), path, unchanged=tested)
    splits, lost = {name: more[name] for name in splits}, lost + lost_more
    divided = divided_images(read | held, splits, [*tested, *held], path, config, request.format)
    splits = with_trainval(splits)
    trained = [rule.split for use, rule in request.used if use == "train"]
    kept, others = of_classes(splits, config, trained if request.named else None, path)
    if isinstance(reader, RenamedReader):
        reader.check_used(path)
    if not splits[request.split].records and not lost[request.split]:
        raise ValueError(f"{path}: split {request.split!r} has no images: {_why_empty(request)}")
    decode = check_file is check_image
    if decode:
        check_file = partial(check_image, max_pixels=config.max_pixels)
    images = load_images(splits.values(), path, str(path), check_file, decode=decode)
    notes = [note for source in (*splits.values(), *images.values()) for note in source.notes]
    existing = set(find_classes(images))
    notes = [note for note in notes if note.kind != "class" or not (config.classes or note.place in existing)]
    others_seen = _seen_beside(request, images)
    conventions = find_conventions((*images.values(), *others_seen), config)  # from all objects, also skipped ones
    conventions = dataclasses.replace(conventions, odd=conventions.odd & images.keys())
    records = {record.image_id: record for part in kept.values() for record in part.records}
    images = {
        name: follow(dataclasses.replace(image, record=records[name]), conventions) for name, image in images.items()
    }
    images = mark_tiny(images)
    classes = config.classes or find_classes(images)
    excused = _excused(images, splits, conventions, config) if config.faults.tolerance else {}
    check = check_splits(images, kept, classes, config.faults, sum(others.counts.values()), excused)
    check = dataclasses.replace(
        check,
        lenient=check.lenient or bool(conventions.odd),
        orientation="apply" if conventions.turned else "ignore",
        mistake=likely_mistake(images.values(), check.errors, check.counts["objects"], request.format),
    )
    if conventions.faults:  # with either setting some images state the other size
        way_on = None if check.way_on is None else {"size_mismatch": "drop", **check.way_on}
        check = dataclasses.replace(check, errors=(*conventions.faults, *check.errors), way_on=way_on)
    measured = request.tested if config.test.startswith("folder/") else ()
    sentences = (*divided, *conventions.sentences, *note_sentences(notes), *without_objects(check, kept, measured))
    return Examination(read, kept, lost, others, images, check, sentences)


def _check_folder(request: Request, report: Path) -> Check:
    """The check of a folder, if no fault stops; the list of its faults is written to the file `report`."""
    path, config, found = request.path, request.config, examine_folder(request)
    check, others, lost = found.check, found.others, found.lost
    if request.pooled is not None and request.tested and config.test.startswith("folder/") and not check.errors:
        kept_images = {image.image_id: bool(image.objects) for kept in check.splits.values() for image in kept.images}
        request.pooled.check_objects(kept_images, path)
    raise_or_report(str(path), [check], config.faults, report, found.notes)
    if not found.kept[request.split].records:
        raise ValueError(f"{path}: the images of split {request.split!r} are all among those of the test")
    warn_of_slips(str(path), check.classes)
    for sentence in coded_classes(path, check.classes):
        _log.warning("%s: %s", path, sentence)
    if not check.classes:
        raise ValueError(f"{path}: its annotations name no class; give the names in data.classes")

    def with_others(name: str, result: CheckedSplit) -> CheckedSplit:
        other = others.count([image.image_id for image in result.images])
        dropped = Counter(result.dropped) + Counter({"unknown_class": other, "tested": lost[name]})
        return dataclasses.replace(result, dropped=dict(sorted(dropped.items())))

    more = {"of classes not chosen": sum(others.counts.values()), "that are tested on": sum(lost.values())}
    summary = summarize(check, found.notes, more)
    if others.absent:
        summary = (*summary, f"no object is of class {', '.join(others.absent)}")
    return dataclasses.replace(
        check, splits={name: with_others(name, split) for name, split in check.splits.items()}, summary=summary
    )


def _seen_beside(request: Request, images: Mapping[str, LoadedImage]) -> list[LoadedImage]:
    """The images of other splits that decide the conventions too, without those already loaded; only headers are
    read.
    """
    records = (record for name in request.evidence for record in request.reader.read(name).records)
    unseen = {record.image_id: record for record in records if record.image_id not in images}
    if not unseen:
        return []
    beside = usable_records([SplitRecords(tuple(unseen.values()))])
    return list(load_images(beside, request.path, str(request.path), image_size, decode=False).values())


def _why_empty(request: Request) -> str:
    """The end of a message: reason why a split has no image, and what to type."""
    if request.split == "test" and request.pooled is not None and request.pooled.chosen:
        return request.pooled.why_empty()
    field = "test" if request.split == canonical_split(request.config.test.removeprefix("folder/")) else "train"
    existing = sorted(request.reader.splits, key=lambda name: name != "validation")
    others = [name for name in existing if name != request.split and request.reader.read(name).records]
    another = f", or give another split, as --data.{field} folder/{others[0]}" if others else ""
    places = SplitRule(request.split, request.reader).places()
    return f"{joined(places) or 'the folder'} lists none; add some{another}"


def _excused(
    images: Mapping[str, LoadedImage], splits: Mapping[str, SplitRecords], conventions: Conventions, config: DataConfig
) -> dict[Fault, str]:
    """Faults of images that never stop, with the reason: listed images without a file, if at least a third of the
    listed ones exist, and sizes that contradict the chosen orientation.
    """
    odd = [fault for name in conventions.odd for fault in images[name].faults if fault.kind == "size_mismatch"]
    excused = dict.fromkeys(odd, "they state the size of the other orientation, and many more do not")
    missing = [image for image in images.values() if image.record.optional and image.record.path is None]
    have_files = [any(record.path for record in split.records) for split in splits.values() if split.records]
    if all(have_files) and len(images) - len(missing) >= len(images) * _LEAST_SHARE:
        why = f"listed, but there is no file; the other {len(images) - len(missing)} are used"
        excused |= {fault: why for image in missing for fault in image.faults if fault.kind == "missing_image"}
    return excused


def data_dir(config: DataConfig) -> str:
    """Folder of all prepared data sets."""
    from tensorflow_datasets.core import constants

    return str(expand_user(config.tfds_dir or constants.DATA_DIR).resolve())


def _one_process(folder: Path, name: str) -> Any:
    """A lock beside the folder to prepare, which TFDS writes under another name and then renames."""
    return folder_lock(folder, f".{name}.lock", purpose=f"preparing {name}", wait=True)
