"""A survey as lines to print and as a page that opens offline."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from frcnn_jax.atomic import write_text
from frcnn_jax.config import Config
from frcnn_jax.data.formats.csv_files.class_names import coded_classes
from frcnn_jax.data.pipeline import without_background
from frcnn_jax.data.prepared.names import slips, without_slips
from frcnn_jax.evaluation.analysis.measures import SIZES
from frcnn_jax.evaluation.analysis.remarks import few_objects, rare_classes
from frcnn_jax.evaluation.looking.advice import larger_test, tested_objects
from frcnn_jax.evaluation.looking.network import Recall
from frcnn_jax.evaluation.looking.samples import Picture
from frcnn_jax.evaluation.looking.survey import Survey
from frcnn_jax.evaluation.pages.render import render_page
from frcnn_jax.words import counted

__all__ = ["check_page", "format_survey", "remarks", "write_page"]

_EXAMPLES = 3
_TITLE = "a look at the data"
_HEAD = 4096  # bytes of a page in which its title stands
_EQUAL = 5  # most groups of equal images to print


def format_survey(survey: Survey, config: Config, recall: Recall | None = None) -> str:
    """The survey as lines: splits, classes, equal images, remarks, faults, and the recall of proposals if given."""
    facts = survey.splits.values()
    lines = [
        f"{survey.folder}: layout {survey.format}, {counted(len(survey.view.classes), 'class', 'classes')}, "
        f"{counted(len(survey.view), 'image')}, {counted(sum(split.objects for split in facts), 'object')}",
        "",
        *_table(
            ("split", "images", "objects", "without objects", "most in one", "used"),
            [(name, s.images, s.objects, s.empty, s.most, s.used) for name, s in survey.splits.items()],
        ),
    ]
    heads, rows = survey.class_table()
    if rows:
        lines += ["", *_table(heads, rows), f"  ({_sizes()})"]
    if recall is not None:
        named = [("all objects", recall.overall), *recall.classes.items(), *recall.sizes.items()]
        title = f"recall of {recall.proposals:.0f} proposals an image, {counted(recall.images, 'image')}"
        heads = (title, "objects", *(f"IoU {threshold:g}" for threshold in recall.overall.shares))
        rows = [(name, covered.objects, *map(_share, covered.shares.values())) for name, covered in named]
        lines += ["", *_table(heads, rows)]
    lines += ["", *_equal_lines(survey), *(f"- {text}" for text in (*remarks(survey, config), *survey.notes))]
    lines += ["", *_fault_lines(survey)]
    return "\n".join(lines)


def remarks(survey: Survey, config: Config) -> list[str]:
    """Settings that probably do not suit these data, each with its effect and the option to type."""
    found = []
    most = max((split.most for split in survey.splits.values()), default=0)
    if most > config.input.max_objects:
        found.append(
            f"an image has {most} objects, more than input.max_objects = {config.input.max_objects}: training stops "
            f"there; set it with --input.max-objects {most}"
        )
    least = config.proposals.min_side
    sides = [(truth.boxes[:, 2:] - truth.boxes[:, :2]).min(axis=1) for truth in survey.view.annotations]
    small = int(sum((side < least).sum() for side in sides))
    if small and config.proposals.method != "file":
        share = small / max(sum(map(len, sides)), 1)
        found.append(
            f"{counted(small, 'object')} ({share:.1%}) with a side below proposals.min_side = {least:g} pixels: no "
            f"proposal is that small; --proposals.min-side {max(math.floor(min(map(min, filter(len, sides)))), 1)} "
            "admits proposals of their size"
        )
    trained = [split for split in survey.splits.values() if "trained on" in split.used]
    unused = without_background(sum(split.empty for split in trained), config.sampling.background_iou)
    found += [unused] if unused else []
    found += coded_classes(survey.folder, survey.view.classes)
    found += slips(survey.view.classes)
    found += rare_classes(without_slips({row[0]: row[1] for row in survey.class_table()[1]}))
    found += [f"training would stop: {survey.test_stop}"] if survey.test_stop else []
    found += few_objects(*tested_objects(survey), drawn=survey.drawn, share=larger_test(survey, config))
    marked = sum(int((truth.difficult & ~truth.crowd).sum()) for truth in survey.view.annotations)
    if marked:
        learned = "learned too" if config.sampling.use_difficult else "not learned (sampling.use_difficult)"
        found.append(f"objects marked difficult ({marked}) are {learned}, and an evaluation does not count them")
    if not any(split.objects for split in trained):
        found.append("no split that is trained on has an object")
    return found


def check_page(path: Path) -> None:
    """Raises FileExistsError if the page would replace anything but an earlier one of its kind."""
    if path.is_file():
        with path.open("rb") as page:
            ours = f"{_TITLE}</title>".encode() in page.read(_HEAD)
    else:
        ours = not path.exists()
    if not ours:
        raise FileExistsError(f"{path} would be replaced, and is no look at data: give another folder by --out")


def write_page(
    survey: Survey,
    config: Config,
    pictures: dict[str, dict[str, list[Picture]]],
    network: list[Picture],
    path: str | Path,
    recall: Recall | None = None,
) -> Path:
    """Writes the page, one file with all pictures inside; returns its path.

    Args:
        pictures: output of `sample_pictures`.
        network: output of `network_pictures`.
    """
    path = Path(path)
    sizes = survey.view.sizes
    heads, rows = survey.class_table()
    html = render_page(
        "look.html",
        survey=survey,
        title=_TITLE,
        objects=sum(split.objects for split in survey.splits.values()),
        rows=rows,
        heads=heads,
        largest=max((row[1] for row in rows), default=0),
        size_note=_sizes(),
        image_sizes=np.stack([sizes.min(axis=0), np.median(sizes, axis=0), sizes.max(axis=0)]).astype(int).tolist()
        if len(sizes)
        else [],
        remarks=remarks(survey, config),
        faults={
            kind: (len(of_kind), [str(fault) for fault in of_kind[:_EXAMPLES]], max(len(of_kind) - _EXAMPLES, 0))
            for kind, of_kind in survey.faults.items()
        },
        pictures=pictures,
        network=network,
        recall=recall,
    )
    write_text(path, html)
    return path


def _equal_lines(survey: Survey) -> list[str]:
    if not survey.equal:
        return ["No duplicate images."]
    across = sum(len({split for split, _ in group}) > 1 for group in survey.equal)
    images = counted(len(survey.equal), "image occurs", "images occur")
    where = f"{across} of them in several splits" if across else "each in one split only"
    lines = [f"{images} more than once with the same bytes, {where}:"]
    lines += ["  " + " = ".join(f"{split}/{name}" for split, name in group) for group in survey.equal[:_EQUAL]]
    return lines + ([f"  ... and {len(survey.equal) - _EQUAL} more"] if len(survey.equal) > _EQUAL else [])


def _fault_lines(survey: Survey) -> list[str]:
    if not survey.faults:
        return ["No faults."]
    lines = ["Faults; training would stop:" if survey.stops else "Faults:", *survey.answers]
    for kind, of_kind in survey.faults.items():
        lines += [f"  {fault}" for fault in of_kind[:_EXAMPLES]]
        lines += [f"  ... and {len(of_kind) - _EXAMPLES} more of {kind}"] if len(of_kind) > _EXAMPLES else []
    return [*lines, *survey.way_on]


def _sizes() -> str:
    small, medium = (round(high**0.5) for _, high in list(SIZES.values())[:2])
    return f"small: area below {small} x {small} pixels, large: from {medium} x {medium}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(heads: tuple[str, ...] | list[str], rows: list) -> list[str]:
    """Lines with a column of text, then columns of numbers; a last column of text is left-aligned."""
    texts = [list(map(str, heads)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    lines = []
    for row in texts:
        cells = [f"{row[0]:<{widths[0]}}"]
        for head, cell, width in zip(heads[1:], row[1:], widths[1:], strict=True):
            cells.append(f"{cell:<{width}}" if head == "used" else f"{cell:>{width}}")
        lines.append("  ".join(cells).rstrip())
    return lines
