"""The report of a check: faults that stop, drops, clips and decisions, and the settings to go on with."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.config import FaultPolicy
from frcnn_jax.data.faults import DatasetFaultError, Fault
from frcnn_jax.data.formats.layout import warn_once
from frcnn_jax.data.prepared.checks.splits import Check
from frcnn_jax.data.prepared.index import LAYOUT_FILE, read_summary
from frcnn_jax.data.prepared.splits.rule import SplitRule
from frcnn_jax.words import counted, joined, listed

__all__ = [
    "corrections",
    "fault_table",
    "raise_or_report",
    "say_again",
    "say_earlier",
    "say_layout",
    "summarize",
    "way_on_lines",
    "way_on_options",
]

_log = logging.getLogger(__name__)
_NAMED = 12  # most class names in a line
_PLACES = 3
_OTHER_ANSWERS = {
    "missing_annotation": "empty takes the image as one without objects",
    "size_mismatch": "use_image takes the boxes as pixels of the image",
    "box_outside": "drop drops the object, better if little of it is inside",
}


def raise_or_report(
    title: str, checks: Sequence[Check], policy: FaultPolicy, file: Path, sentences: Sequence[str] = ()
) -> None:
    """Raises an error with all faults that stop; else logs drops, clips and decisions once.

    Args:
        checks: checks of all parts of the data set.
        file: file for the list of all faults, if any stops or was tolerated.
        sentences: decisions about the whole folder, and data that are read differently than written.

    Raises:
        DatasetFaultError: a fault stops.
        ValueError: no split has an image.
    """
    errors = [fault for check in checks for fault in check.errors]
    tolerated = [fault for check in checks for fault in check.tolerated]
    if errors or tolerated:
        _write_list(file, {"stops": errors, "dropped, tolerated": tolerated, "dropped": _dropped(checks)})
    if errors:
        before = [*fault_table(checks, policy), *(f"  {sentence}" for sentence in sentences)]
        raise DatasetFaultError(title, errors, (before, [f"All of them are in {file}", *way_on_lines(checks, errors)]))
    splits = {name: split for check in checks for name, split in check.splits.items()}
    if not any(split.images for split in splits.values()):
        raise ValueError(f"{title}: no split has any image left")
    for sentence in sentences:
        _log.warning("%s: %s", title, sentence)
    excused = {fault: why for check in checks for fault, why in check.excused.items()}
    for why in dict.fromkeys(excused.values()):
        for_reason = [fault for fault, other in excused.items() if other == why]
        text = "%s: DROPPED %s (%s): %s; the first: %s; all of them are in %s"
        _log.warning(text, title, counted(len(for_reason), "image"), _kinds(for_reason), why, for_reason[0], file)
    tolerated = [fault for fault in tolerated if fault not in excused]
    if tolerated:
        _log.warning(
            "%s: dropped for a handful of faults (%s), as data.faults.tolerance = %g allows of %s; "
            "the first: %s; all of them are in %s",
            *(title, _kinds(tolerated), policy.tolerance, _totals(checks), tolerated[0], file),
        )
    for name, split in splits.items():
        counts = [f"{count} for {kind}" for kind, count in split.dropped.items()]
        if counts:
            _log.warning("%s, split %s: dropped %s", title, name, ", ".join(counts))
        if split.clipped:
            _log.warning("%s, split %s: clipped %s to the image", title, name, counted(split.clipped, "box", "boxes"))
        if split.own_size:
            text = "%s, split %s: took the image's own size for %s, where the annotation states none or another"
            _log.warning(text, title, name, counted(split.own_size, "image"))


def summarize(check: Check, sentences: Sequence[str], others: Mapping[str, int]) -> tuple[str, ...]:
    """Short list of data that are read differently than written, for the log when the prepared data are opened again.

    Args:
        others: numbers of other skipped items by reason, as "of classes not chosen".
    """
    dropped = Counter(fault.kind for fault in (*check.dropped, *check.tolerated))
    counts = [f"{count} for {kind}" for kind, count in sorted(dropped.items())]
    counts += [f"{count} {reason}" for reason, count in others.items() if count]
    texts = [sentence.partition(" (")[0] for sentence in sentences]
    texts += ["dropped " + ", ".join(counts)] if counts else []
    return (*texts, *corrections([check]))


def corrections(checks: Sequence[Check]) -> list[str]:
    """Sentences about boxes that are clipped and images whose stated size is not used; [] if there are none."""
    clipped, own_size = (sum(check.counts[name] for check in checks) for name in ("clipped", "own_size"))
    texts = [f"clipped {counted(clipped, 'box', 'boxes')}"] if clipped else []
    return texts + ([f"took the image's own size for {counted(own_size, 'image')}"] if own_size else [])


def say_again(folder: Path, title: str) -> None:
    """Logs the summary of a prepared folder in one line, once per process."""
    texts = read_summary(folder)["read"]
    if texts:
        warn_once(f"{title}, as it was prepared: {'; '.join(texts)}")


def say_earlier(folder: Path, label: str, current: Sequence[Path], source: Mapping[str, str]) -> None:
    """Logs the prepared copies of a folder from before its files were edited, with their size and how to remove them,
    if there are at least two.

    Args:
        folder: folder of all prepared data sets of a kind, each LABEL-HASH/VERSION.
        current: prepared data sets that are in use.
        source: `source_of` the folder; copies of earlier versions, which do not state it, are not counted.
    """
    earlier = []
    for place in sorted(folder.glob(f"{glob.escape(label)}-*/*")):
        with contextlib.suppress(ValueError, OSError, AttributeError):  # of a damaged one
            if place not in current and read_summary(place).get("source") == source:
                earlier.append(place.parent)
    if len(earlier) > 1:
        size = sum(file.stat().st_size for place in earlier for file in place.rglob("*") if file.is_file())
        _log.info(
            "%d earlier copies of this folder, from before its files were edited, take %.3g GB; if no run still reads "
            "them: rm -r %s",
            *(len(earlier), size / 1e9, " ".join(shlex.quote(str(place)) for place in earlier)),
        )


def say_layout(folder: Path, title: str, layout: str, used: Sequence[tuple[str, SplitRule]]) -> None:
    """Logs the layout, classes and images of each split of a folder in one line, once per process.

    Args:
        folder: the prepared data set.
        used: splits by purpose.
    """
    splits = json.loads((folder / LAYOUT_FILE).read_text("utf-8"))
    classes = (folder / "labels.labels.txt").read_text("utf-8").splitlines()
    parts = [f"layout {layout}, {counted(len(classes), 'class', 'classes')} ({listed(classes, _NAMED)})"]
    for use, rule in used:
        if rule.split in splits:
            places = [_named_place(place) for place in rule.places()]
            text = f"{use}: {counted(len(splits[rule.split]['ids']), 'image')}"
            if len(places) > _PLACES:
                text += f" of {len(places)} folders, the first {places[0]}"
            elif places:
                text += f" of {joined(places)}"
            parts.append(text + (f", {rule.why}" if rule.why else ""))
    level = logging.WARNING if any(rule.unlabelled for _, rule in used) else logging.INFO
    warn_once(f"{title}: {'; '.join(parts)}", level)


def _named_place(place: str) -> str:
    """A list, table or folder of images as part of a sentence; "47 images of images" would read as a mistake."""
    if not place:
        return "the folder itself"
    return place if "/" in place or "." in place else f"the folder {place}"


def fault_table(checks: Sequence[Check], policy: FaultPolicy) -> list[str]:
    """A row for each kind of fault and its answer."""
    rows = [("fault", "images", "objects", "what the settings do about it")]
    tolerance = f"data.faults.tolerance = {policy.tolerance:g}"
    excused = {fault: why for check in checks for fault, why in check.excused.items()}
    few = [fault for check in checks for fault in check.tolerated if fault not in excused]
    groups = [([fault for check in checks for fault in check.errors], "stops")]
    groups += [([f for f in excused if excused[f] == why], f"drop: {why}") for why in dict.fromkeys(excused.values())]
    for faults, answer in (*groups, (few, f"drop: within {tolerance}"), (_dropped(checks), "drop")):
        for kind in sorted({fault.kind for fault in faults}):
            objects = sum(fault.kind == kind and fault.object is not None for fault in faults)
            images = sum(fault.kind == kind for fault in faults) - objects
            rows.append((kind, str(images or "-"), str(objects or "-"), answer))
    clipped, own_size = (sum(check.counts[name] for check in checks) for name in ("clipped", "own_size"))
    if clipped:
        answer = "clip" if policy.box_outside == "clip" else "clip: up to 2 pixels over it"
        rows.append(("box over border", "-", str(clipped), answer))
    if own_size:
        rows.append(("size", str(own_size), "-", "the image's own: none is stated, or use_image"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows]
    few = "up to that share of each" if policy.tolerance else "none of them"
    return [*lines, f"  of {_totals(checks)}; {tolerance} drops {few} in place of stopping"]


def way_on_lines(checks: Sequence[Check], errors: Sequence[Fault]) -> list[str]:
    """Settings to copy, or the reason why there are none."""
    mistakes = dict.fromkeys(check.mistake for check in checks if check.mistake)
    if mistakes:
        return list(mistakes)
    lines = []
    if any(fault.kind == "orientation" for fault in errors):
        lines.append("First say whether boxes were drawn on the turned images or on those that lie in the files:")
        lines += ["  --data.orientation apply", "  --data.orientation ignore"]
    if any(check.way_on is None for check in checks):
        return [*lines, "Dropping what is wrong would leave nothing to train on: it has to be put right"]
    settings = _way_on(checks)
    if settings:
        lines += ["To go on without them:", f"  {' '.join(way_on_options(checks))}"]
        lines += [f"  ({kind}: {text})" for kind, text in _OTHER_ANSWERS.items() if kind in settings]
        if settings.get("missing_annotation") == "empty" and not any(check.classes for check in checks):
            lines.append("  (no annotation names a class: give the names too, as --data.classes cat dog)")
    return lines


def way_on_options(checks: Sequence[Check]) -> list[str]:
    """The words of the settings to copy; [] if none are needed or none help."""
    return [
        word for kind, value in _way_on(checks).items() for word in (f"--data.faults.{kind.replace('_', '-')}", value)
    ]


def _way_on(checks: Sequence[Check]) -> dict[str, str]:
    if any(check.way_on is None or check.mistake for check in checks):
        return {}
    return {kind: value for check in checks for kind, value in (check.way_on or {}).items()}


def _write_list(file: Path, groups: dict[str, Sequence[Fault]]) -> None:
    lines = [f"{answer}: {fault}" for answer, faults in groups.items() for fault in faults]
    write_text(file, "\n".join(lines) + "\n")


def _dropped(checks: Sequence[Check]) -> list[Fault]:
    return [fault for check in checks for fault in check.dropped]


def _kinds(faults: Sequence[Fault]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(f.kind for f in faults).items()))


def _totals(checks: Sequence[Check]) -> str:
    images, objects = (sum(check.counts[key] for check in checks) for key in ("images", "objects"))
    return f"{counted(images, 'image')} and {counted(objects, 'object')}"
