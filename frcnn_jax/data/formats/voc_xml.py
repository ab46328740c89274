"""Reading one annotation file in VOC's XML format."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree

__all__ = ["CORNERS", "AnnotatedObject", "Annotation", "Problem", "UnreadableAnnotation", "read_annotation"]

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class AnnotatedObject:
    """One object as it stands in the file."""

    index: int  # position among the file's objects, from 0
    name: str
    corners: tuple[float, float, float, float]  # xmin ymin xmax ymax: 1-based, inclusive
    pose: str
    truncated: bool
    difficult: bool


@dataclasses.dataclass(frozen=True)
class Problem:
    """A field that cannot be used: of an object (its index), or of the whole file (None)."""

    object: int | None
    field: str
    value: str
    message: str


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Content of one file; `problems` names the objects that are missing in `objects`."""

    filename: str | None
    width: float
    height: float
    objects: tuple[AnnotatedObject, ...]
    problems: tuple[Problem, ...]


class UnreadableAnnotation(ValueError):
    """The file as a whole cannot be used."""

    def __init__(self, problems: list[Problem]):
        super().__init__("; ".join(f"{p.field} = {p.value!r}: {p.message}" for p in problems))
        self.problems = tuple(problems)


def read_annotation(path: Path) -> Annotation:
    """The annotation in the file `path`.

    Pose, `truncated` and `difficult` may be missing, as other tools leave them out. Objects inside a `part` of an
    object do not count.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAnnotation: it is not XML, contains a DTD, or gives no image size.
    """
    try:
        root = defusedxml.ElementTree.parse(path, forbid_dtd=True).getroot()
    except FileNotFoundError:
        raise
    except defusedxml.DTDForbidden as error:
        raise UnreadableAnnotation([Problem(None, "DOCTYPE", str(error.name), "a DTD is not allowed")]) from error
    except defusedxml.DefusedXmlException as error:
        raise UnreadableAnnotation([Problem(None, "XML", type(error).__name__, "not allowed")]) from error
    except (ParseError, ValueError, LookupError, OSError) as error:
        raise UnreadableAnnotation([Problem(None, "XML", str(error), "cannot be read")]) from error
    problems: list[Problem] = []
    width, height = (_number(root, f"size/{side}", None, problems) for side in ("width", "height"))
    if problems:
        raise UnreadableAnnotation(problems)
    objects = [_read_object(element, i, problems) for i, element in enumerate(root.findall("object"))]
    return Annotation(
        filename=_text(root, "filename"),
        width=width,
        height=height,
        objects=tuple(o for o in objects if o is not None),
        problems=tuple(problems),
    )


def _read_object(element: Element, index: int, problems: list[Problem]) -> AnnotatedObject | None:
    """The object, or None where that adds to the problems."""
    before = len(problems)
    name = " ".join((_text(element, "name") or "").split())
    if not name:
        problems.append(Problem(index, "name", "", "missing"))
    corners = tuple(_number(element, f"bndbox/{corner}", index, problems) for corner in CORNERS)
    difficult = _text(element, "difficult") or "0"
    if difficult not in ("0", "1"):
        problems.append(Problem(index, "difficult", difficult, "neither 0 nor 1"))
    if len(problems) > before:
        return None
    pose = (_text(element, "pose") or "unspecified").lower()
    return AnnotatedObject(index, name, corners, pose, _text(element, "truncated") == "1", difficult == "1")


def _text(element: Element, field: str) -> str | None:
    found = element.find(field)
    return None if found is None else (found.text or "").strip()


def _number(element: Element, field: str, index: int | None, problems: list[Problem]) -> float:
    """The number in a field; NaN where that adds to the problems."""
    text = _text(element, field)
    if text is None:
        problems.append(Problem(index, field, "", "missing"))
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.append(Problem(index, field, text, "not a number"))
    return value
