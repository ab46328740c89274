"""Faults in a data set, the error that lists them, and notes on data that are read differently than written."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from frcnn_jax.words import counted, listed

__all__ = ["DatasetFaultError", "Fault", "Note", "note_sentences"]

_EXAMPLES = 3
# Kind: a thing and what is so of it, several things, and what is done about them.
_NOTES = {
    "polygon": ("row is a polygon", "rows are polygons", ", read as the bounding box"),
    "repeated": ("row has", "rows have", " the class and box of an earlier row of the same file: left out"),
    "outline": ("object has", "objects have", " no box: the one around the polygons is taken"),
    "rotated": ("rotated box is", "rotated boxes are", " read as the upright box around it"),
    "part": ("box of a part, not an object, is", "boxes of parts, not objects, are", " left out"),
    "filename": ("annotation has", "annotations have", " a filename of another stem: the name of the XML file counts"),
    "named": ("annotation has", "annotations have", " no image of its own name: the one that filename names is taken"),
    "suffix": ("image has", "images have", " another suffix than in the annotations: the one of the name is taken"),
    "dark": (
        "image has",
        "images have",
        " 16 bits and values up to {value} of 65535, which become at most {most} of 255: convert to 8 bits first, as "
        'with: python -c "import cv2; '
        "cv2.imwrite('OUT.png', cv2.convertScaleAbs(cv2.imread('IN', -1), alpha=1/{factor}))\"",
    ),
    "deep": ("image has", "images have", " 16 bits, read as 8: --data.verify finds those that become dark"),
    "ending": ("image is", "images are", " in another format than the ending says: the content counts"),
    "unlabelled": ("image has", "images have", " no label file: taken to have no objects"),
    "class": ("named class has", "named classes have", " no object: left out"),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault and its place."""

    kind: str  # a field of FaultPolicy
    file: str  # relative to the data set's folder
    object: int | None  # position among the file's objects, from 0; None for a fault of the whole image
    field: str
    value: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.object is None else f"{self.file}: object {self.object}"
        return f"{where}: {self.field} = {self.value!r}: {self.message} [{self.kind}]"


class DatasetFaultError(ValueError):
    """All faults of a data set that the policy does not drop; the message names the first three of each kind.

    Args:
        more: lines before and after the list of faults.
    """

    def __init__(self, name: str, faults: Sequence[Fault], more: tuple[Sequence[str], Sequence[str]] = ((), ())):
        self.name, self.faults, self.more = name, tuple(faults), more
        counts = Counter(fault.kind for fault in faults)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        lines = [
            f"{name} has {counted(len(faults), 'fault')} ({kinds}); data.faults says what to do about each kind",
            *more[0],
        ]
        for kind, count in sorted(counts.items()):
            lines += [f"  {fault}" for fault in [f for f in faults if f.kind == kind][:_EXAMPLES]]
            if count > _EXAMPLES:
                lines.append(f"  ... and {count - _EXAMPLES} more of {kind}")
        super().__init__("\n".join([*lines, *more[1]]))

    def __reduce__(self) -> tuple:
        return DatasetFaultError, (self.name, self.faults, self.more)


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that is read differently than written: counted and reported, but not a fault."""

    kind: str  # a key of the texts; empty if `place` is the whole text
    place: str
    count: int = 1  # in that place
    value: int = 0  # largest in an image of 16 bits


def note_sentences(notes: Iterable[Note]) -> list[str]:
    """A sentence for each kind of note, with its count and the first three places."""
    notes = list(dict.fromkeys(notes))
    sentences = []
    for kind, (one, several, text) in _NOTES.items():
        of_kind = [note for note in notes if note.kind == kind]
        places = listed([note.place for note in of_kind], _EXAMPLES)
        value = max((note.value for note in of_kind), default=0)
        text = text.format(value=value, most=value >> 8, factor=1 << max(value.bit_length() - 8, 0))
        sentences += (
            [f"{counted(sum(note.count for note in of_kind), one, several)}{text} ({places})"] if of_kind else []
        )
    return sentences + [note.place for note in notes if not note.kind]
