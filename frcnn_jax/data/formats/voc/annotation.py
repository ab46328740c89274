"""Reading one annotation file in VOC's XML format."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree

from frcnn_jax.data.formats.rotation import around_rotated, read_angle
from frcnn_jax.words import joined

__all__ = [
    "CORNERS",
    "AnnotatedObject",
    "Annotation",
    "Problem",
    "UnreadableAnnotation",
    "is_annotation",
    "read_annotation",
]

_START = 2000  # bytes of a file to search for its first element
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no", "unspecified")
_MARKS = dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False)  # of `difficult` and `truncated`


@dataclasses.dataclass(frozen=True)
class AnnotatedObject:
    """One object, as in the file."""

    index: int  # position among the file's objects, from 0
    name: str
    corners: tuple[float, float, float, float]  # xmin ymin xmax ymax: 1-based, inclusive
    pose: str
    truncated: bool
    difficult: bool
    rotated: bool = False  # the corners are those of the box around a rotated rectangle


@dataclasses.dataclass(frozen=True)
class Problem:
    """An invalid field: of an object (its index), or of the whole file (None)."""

    object: int | None
    field: str
    value: str
    message: str


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Content of one file; `problems` lists the objects that are missing in `objects`."""

    filename: str | None
    width: float  # 0 if not stated, like the height
    height: float
    objects: tuple[AnnotatedObject, ...]
    problems: tuple[Problem, ...]
    parts: int = 0  # boxes of parts of objects, which are skipped


class UnreadableAnnotation(ValueError):
    """The whole file cannot be used."""

    def __init__(self, problems: list[Problem]):
        super().__init__("; ".join(f"{p.field} = {p.value!r}: {p.message}" for p in problems))
        self.problems = tuple(problems)


def read_annotation(path: Path) -> Annotation:
    """The annotation in the file `path`, written by VOC's organisers or other tools.

    The size, pose, `truncated` and `difficult` may be missing; elements may be in any order and in a default namespace.
    Objects and boxes inside a `part` of an object are skipped.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAnnotation: it is not XML, contains a DTD, or its image size is not a number.
    """
    try:
        # Scripts write an empty line before the declaration, which XML does not allow.
        root = defusedxml.ElementTree.fromstring(path.read_bytes().lstrip(), forbid_dtd=True)
    except FileNotFoundError:
        raise
    except defusedxml.DTDForbidden as error:
        raise UnreadableAnnotation([Problem(None, "DOCTYPE", str(error.name), "a DTD is not allowed")]) from error
    except defusedxml.DefusedXmlException as error:
        raise UnreadableAnnotation([Problem(None, "XML", type(error).__name__, "not allowed")]) from error
    except (ParseError, ValueError, LookupError, OSError) as error:
        raise UnreadableAnnotation([Problem(None, "XML", str(error), "cannot be read")]) from error
    for element in root.iter():
        if element.tag.startswith("{"):  # a namespace
            element.tag = element.tag.rpartition("}")[2]
    problems: list[Problem] = []
    width, height = (_number(_text(root, f"size/{s}") or "0", f"size/{s}", None, problems) for s in ("width", "height"))
    if problems:
        raise UnreadableAnnotation(problems)
    objects = [_read_object(element, i, problems) for i, element in enumerate(root.findall("object"))]
    return Annotation(
        filename=_text(root, "filename"),
        width=width,
        height=height,
        objects=tuple(o for o in objects if o is not None),
        problems=tuple(problems),
        parts=len(root.findall("object/part/bndbox")),
    )


def _read_object(element: Element, index: int, problems: list[Problem]) -> AnnotatedObject | None:
    """The object; None if it has a problem, which is added to the list."""
    before = len(problems)
    name = " ".join((_text(element, "name") or "").split())
    if not name:
        problems.append(Problem(index, "name", "", "missing: the program that wrote the file left the class out"))
    corners = _read_corners(element, index, problems)
    difficult = _text(element, "difficult") or "0"
    if difficult.lower() not in _MARKS:
        problems.append(Problem(index, "difficult", difficult, "neither 0 nor 1"))
    if len(problems) > before:
        return None
    pose = (_text(element, "pose") or "unspecified").lower()
    truncated = _MARKS.get((_text(element, "truncated") or "0").lower(), False)
    angle = next((a for a in element.iterfind("attributes/attribute") if _text(a, "name") == "rotation"), None)
    degrees = 0.0 if angle is None else read_angle(_text(angle, "value"))
    corners, marks = around_rotated(corners, degrees), (truncated, _MARKS[difficult.lower()])
    return AnnotatedObject(index, name, corners, pose, *marks, rotated=degrees != 0)


def _read_corners(element: Element, index: int, problems: list[Problem]) -> tuple[float, float, float, float]:
    """xmin ymin xmax ymax; invalid if a problem is added to the list."""
    boxes = {tuple((child.tag, (child.text or "").strip()) for child in box): box for box in element.iterfind("bndbox")}
    box = next(iter(boxes.values()), None)
    if len(boxes) > 1:
        written = " and ".join(", ".join(" ".join(pair) for pair in pairs) for pairs in boxes)
        problems.append(Problem(index, "bndbox", written, f"{len(boxes)} in one object: give each its own object"))
        return math.nan, math.nan, math.nan, math.nan
    if box is None:
        other = next((tag for tag in ("robndbox", "polygon") if element.find(tag) is not None), None)
        problems.append(Problem(index, "bndbox", "", f"missing; there is a {other} instead" if other else "missing"))
        return math.nan, math.nan, math.nan, math.nan
    found = [(child.tag, (child.text or "").strip()) for child in box if child.tag in CORNERS]
    values = {tag: [text for other, text in found if other == tag] for tag in CORNERS}
    missing = [tag for tag in CORNERS if not values[tag]]
    repeated = [tag for tag in CORNERS if len(values[tag]) > 1 and (missing or len(set(values[tag])) > 1)]
    if repeated:
        message = f"{joined(repeated)} twice"
        message += f" and no {' or '.join(missing)}" if missing else " with different values"
        written = ", ".join(f"{tag} {text}" for tag, text in found)
        problems.append(Problem(index, "bndbox", written, f"{message}: the program that wrote the file is at fault"))
        return math.nan, math.nan, math.nan, math.nan
    problems += [Problem(index, f"bndbox/{tag}", "", "missing") for tag in missing]
    xmin, ymin, xmax, ymax = (
        _number(values[tag][0] if values[tag] else "0", f"bndbox/{tag}", index, problems) for tag in CORNERS
    )
    return xmin, ymin, xmax, ymax


def _text(element: Element, field: str) -> str | None:
    found = element.find(field)
    return None if found is None else (found.text or "").strip()


def _number(text: str, field: str, index: int | None, problems: list[Problem]) -> float:
    """The number in a field; NaN if a problem is added to the list."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.append(Problem(index, field, text, "not a number"))
    return value


def is_annotation(path: Path) -> bool:
    """True if the first element of an XML file is VOC's; also for a file that is not readable as text."""
    with path.open("rb") as file:
        start = file.read(_START)
    text = start.decode("utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "ignore")
    element = re.search(r"<\s*([A-Za-z_][\w:.-]*)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    return element is not None and element[1] == "annotation"
