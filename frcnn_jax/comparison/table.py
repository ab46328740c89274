"""The paper's table of systems (Fast R-CNN, tables 4 and 8), from records, with the paper's figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn_jax.atomic import write_text
from frcnn_jax.comparison.record import TEST_STAGES, TRAIN_STAGES, Record
from frcnn_jax.config import expand_user

__all__ = ["PAPER", "SYSTEMS", "Row", "Table", "build_table", "find_records", "to_html", "to_markdown", "write_table"]

SYSTEMS = {"fast_rcnn": "Fast R-CNN", "fast_rcnn_svm": "Fast R-CNN, SVMs", "rcnn": "R-CNN", "sppnet": "SPPnet"}
_LETTERS = {"caffenet": "S", "vgg_cnn_m_1024": "M", "vgg16": "L"}
_MARK = "\u2020"  # marks extrapolated figures

# VOC 2007 on a K40: hours of training, seconds per image, seconds with SVD, mAP, mAP with SVD.
PAPER: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("fast_rcnn", "caffenet"): (1.2, 0.10, 0.06, 0.571, 0.565),
    ("fast_rcnn", "vgg_cnn_m_1024"): (2.0, 0.15, 0.08, 0.592, 0.587),
    ("fast_rcnn", "vgg16"): (9.5, 0.32, 0.22, 0.669, 0.666),
    ("fast_rcnn_svm", "caffenet"): (None, None, None, 0.563, None),
    ("fast_rcnn_svm", "vgg_cnn_m_1024"): (None, None, None, 0.587, None),
    ("fast_rcnn_svm", "vgg16"): (None, None, None, 0.668, None),
    ("rcnn", "caffenet"): (22, 9.8, None, 0.585, None),
    ("rcnn", "vgg_cnn_m_1024"): (28, 12.1, None, 0.602, None),
    ("rcnn", "vgg16"): (84, 47.0, None, 0.660, None),
    ("sppnet", "vgg16"): (25, 2.3, None, 0.631, None),
}
# As printed there, computed from unrounded times: training, testing, testing with SVD.
_PAPER_SPEEDUPS: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("fast_rcnn", "caffenet"): (18.3, 98, 169),
    ("fast_rcnn", "vgg_cnn_m_1024"): (14.0, 80, 150),
    ("fast_rcnn", "vgg16"): (8.8, 146, 213),
    ("rcnn", "caffenet"): (1, 1, None),
    ("rcnn", "vgg_cnn_m_1024"): (1, 1, None),
    ("rcnn", "vgg16"): (1, 1, None),
    ("sppnet", "vgg16"): (3.4, 20, None),
}
_STAGE_NAMES = {
    "fine_tuning": "fine-tuning",
    "svms": "SVMs",
    "regressors": "box regressors",
    "fc": "layers after pooling",
    "suppression": "selection and suppression",
}


class Row(NamedTuple):
    """A figure for every column, and the paper's if it has one, else ""."""

    name: str
    ours: Sequence[str]
    paper: Sequence[str]


class Table(NamedTuple):
    """A table with systems and models as columns."""

    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]


class _Figure(NamedTuple):
    value: float = math.nan
    extrapolated: bool = False

    def text(self, form: Any) -> str:
        return "" if math.isnan(self.value) else form(self.value) + _MARK * self.extrapolated

    def __truediv__(self, other: _Figure) -> _Figure:
        return _Figure(self.value / (other.value or math.nan), self.extrapolated or other.extrapolated)


def find_records(workdir: str | Path) -> list[Record]:
    """The records of all systems below a workdir.

    Raises:
        ValueError: one is damaged.
    """
    return [Record.read(path) for path in sorted(expand_user(workdir).glob("*/record.json"))]


def build_table(records: Iterable[Record]) -> Table:
    """The table of some records, in the paper's order of systems and networks, followed by other networks by name."""
    records = sorted(records, key=lambda record: _place(record.content["system"], record.content["model"]))
    keys = [(record.content["system"], record.content["model"]) for record in records]
    baselines = {key[1]: record for key, record in zip(keys, records, strict=True) if key[0] == "rcnn"}
    rows = [row for row in _rows(records, keys, baselines) if any(row.ours)]
    marked = any(_MARK in text for row in rows for text in row.ours)
    notes = ["Times are without proposals. Speedups are over R-CNN with the same network."]
    notes += ["In brackets the paper's figures: VOC 2007, one K40 GPU."] if any(any(row.paper) for row in rows) else []
    notes += [f"{_MARK} A part was timed, and the rest extrapolated from it."] if marked else []
    return Table([_column(*key) for key in keys], rows, notes)


def _rows(records: Sequence[Record], keys: Sequence[tuple[str, str]], baselines: dict[str, Record]) -> Iterable[Row]:
    paper = [PAPER.get(key, (None,) * 5) for key in keys]
    speedups = [_PAPER_SPEEDUPS.get(key, (None,) * 3) for key in keys]
    train = [_Figure(*_ended_training(record)) for record in records]
    so_far = [f"{_Figure(*r.train_seconds()).text(_duration)} so far" * bool(r.content["train"]) for r in records]
    tests = {name: [_Figure(*record.test_seconds(name)) for record in records] for name in ("", "svd")}
    base = [baselines.get(model) for _, model in keys]

    def over(figures: Sequence[_Figure], of: Any) -> list[str]:
        pairs = zip(figures, base, strict=True)
        return [(_Figure() if b is None else _Figure(*of(b)) / figure).text(_times) for figure, b in pairs]

    def row(name: str, ours: list[str], index: int | None = None, form: Any = None, of: Any = paper) -> Row:
        published = [None if index is None else values[index] for values in of]
        return Row(name, ours, ["" if value is None else form(value) for value in published])

    def entry(name: str, form: Any) -> list[str]:
        values = [record.content.get(name) for record in records]
        return ["" if value is None else form(value) for value in values]

    tested = [bool(record.content["test"]) for record in records]
    times = [f.text(_duration) or text * (not t) for f, text, t in zip(train, so_far, tested, strict=True)]
    yield row("train time", times, 0, lambda hours: _duration(3600 * hours))
    yield row("train speedup", over(train, _ended_training), 0, _times, speedups)
    for number, (name, figures) in enumerate(tests.items()):
        suffix = " with SVD" * (name == "svd")
        yield row(f"test time an image{suffix}", [f.text(_duration) for f in figures], 1 + number, _duration)
        yield row(f"test speedup{suffix}", over(figures, Record.test_seconds), 1 + number, _times, speedups)
    yield row("mAP", entry("map", "{:.3f}".format), 3, "{:.3f}".format)
    yield row("mAP with SVD", entry("map_svd", "{:.3f}".format), 4, "{:.3f}".format)
    for stage in TRAIN_STAGES:
        yield row(f"train: {_STAGE_NAMES.get(stage, stage)}", [_stage(r.content["train"].get(stage)) for r in records])
    for name in tests:
        for stage in TEST_STAGES:
            found = [_stage(record.content["test"].get(name, {}).get(stage)) for record in records]
            yield row(f"test{' with SVD' * (name == 'svd')}: {_STAGE_NAMES.get(stage, stage)}", found)
    yield row("peak memory", entry("memory_bytes", _size))
    yield row("peak memory of the device", entry("device_memory_bytes", _size))
    yield row("features on disk", [_disk(record.content).text(_size) for record in records])
    yield row("training steps made", entry("steps", "{:,}".format))
    yield row("windows seen in them", entry("windows", "{:,}".format))
    yield row("share of the paper's schedule", entry("paper_share", lambda share: f"{100 * share:.2g}%"))
    yield row("images to train, test", entry("images", lambda ns: ", ".join(f"{n:,}" if n else "?" for n in ns)))
    yield row("proposals an image", entry("proposals", "{:,.0f}".format))
    yield row("device", entry("device", str))


def _ended_training(record: Record) -> tuple[float, bool]:
    # A test follows the last stage of training; a record that was deleted in between lacks the first one.
    ended = "fine_tuning" in record.content["train"] and record.content["test"]
    return record.train_seconds() if ended else (math.nan, False)


def _place(system: str, model: str) -> tuple[int, int, str]:
    letters = list(_LETTERS)
    return list(SYSTEMS).index(system), letters.index(model) if model in letters else len(letters), model


def _column(system: str, model: str) -> str:
    letter = f" ({_LETTERS[model]})" if model in _LETTERS else ""
    return f"{SYSTEMS[system]} {model}{letter}"


def _stage(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    # Training time is extrapolated to the whole; test time is the mean over the timed images.
    seconds = entry["seconds"] / entry.get("images", entry["share"])
    return _Figure(seconds, entry["share"] < 1).text(_duration)


def _disk(content: dict[str, Any]) -> _Figure:
    """Bytes of the features of all images."""
    share = content["train"].get("features", {}).get("share", 1.0)
    return _Figure(content.get("disk_bytes", math.nan) / share, share < 1)


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length or unit == "s":
            break
    if seconds < 0.1:
        return f"{_digits(1000 * seconds)} ms"
    return f"{_digits(seconds / length)} {unit}"


def _times(ratio: float) -> str:
    return f"{_digits(ratio)}\u00d7"


def _size(size: float) -> str:
    unit, length = next((u, n) for u, n in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)) if size >= n or n == 1)
    return f"{_digits(size / length)} {unit}"


def _digits(number: float) -> str:
    """A positive number with three significant digits, without an exponent where it is large."""
    return f"{number:.3g}" if number < 999.5 else f"{float(f'{number:.3g}'):,.0f}"


def to_markdown(table: Table) -> str:
    """The table as Markdown, with a line for each note."""
    lines = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    for row in table.rows:
        pairs = zip(row.ours, row.paper, strict=True)
        lines.append([row.name, *(f"{a} ({b})" if a and b else a or "\u2013" for a, b in pairs)])
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return text + "\n\n" + "\n".join(table.notes) + "\n"


def to_html(table: Table, title: str) -> str:
    """The table as a page."""
    import jinja2

    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    return page.render(title=title, columns=table.columns, rows=table.rows, notes=table.notes)


def write_table(folder: str | Path, records: Iterable[Record], *, title: str = "Comparison of systems") -> Table:
    """Writes `comparison.md` and `comparison.html` to `folder`."""
    folder, table = expand_user(folder), build_table(records)
    write_text(folder / "comparison.md", to_markdown(table))
    write_text(folder / "comparison.html", to_html(table, title))
    return table


_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 1.5em auto; max-width: 1200px; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse } i { color: #777; font-style: normal }
th, td { padding: .15em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { white-space: normal; vertical-align: bottom }
</style>
<h1>{{ title }}</h1>
<table><tr><th>{% for column in columns %}<th>{{ column }}{% endfor %}</tr>
{% for row in rows %}
<tr><td>{{ row.name }}
{% for ours in row.ours %}
<td>{{ ours or "\u2013" }}{% if ours and row.paper[loop.index0] %} <i>({{ row.paper[loop.index0] }})</i>{% endif %}
{% endfor %}
</tr>
{% endfor %}
</table>
{% for note in notes %}<p>{{ note }}</p>{% endfor %}
</html>
"""
