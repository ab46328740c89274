"""Rows of the result, as a table and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from bench.timing import Timing


@dataclasses.dataclass(frozen=True)
class Target:
    """The bound of a row: at most a ratio to the peer, or at least a share of the floor or items per second."""

    measure: Literal["ratio", "share", "rate"]
    bound: float

    def __str__(self) -> str:
        return {
            "ratio": f"<= {self.bound:g} x peer",
            "share": f">= {self.bound:.0%} of floor",
            "rate": f">= {self.bound:g}/s",
        }[self.measure]


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: the time of this package, of the peer, and the least time of the device."""

    topic: str
    what: str
    ours: Timing
    peer: Timing | None = None
    floor: float | None = None  # seconds a call
    target: Target | None = None
    items: int = 1  # images or steps in a call
    unit: str = "calls"  # name of the items
    memory: int | None = None  # bytes of arguments, results and temporary arrays
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The time over the peer's: below 1 this package is faster."""
        return None if self.peer is None else self.ours.median / self.peer.median

    @property
    def share(self) -> float | None:
        """The floor over the time: 1 is the device's peak."""
        return None if self.floor is None else self.floor / self.ours.median

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.ours.median

    @property
    def reached(self) -> bool | None:
        """True if the target is met; None without a target or a figure to compare."""
        if self.target is None or getattr(self, self.target.measure) is None:
            return None
        value = getattr(self, self.target.measure)
        return value <= self.target.bound if self.target.measure == "ratio" else value >= self.target.bound

    def to_json(self) -> dict[str, Any]:
        """All figures in seconds and bytes, with every sample."""
        return {
            "topic": self.topic,
            "what": self.what,
            "ours": _timing_json(self.ours),
            "peer": None if self.peer is None else _timing_json(self.peer),
            "ratio": self.ratio,
            "floor": self.floor,
            "share_of_floor": self.share,
            "target": None if self.target is None else str(self.target),
            "reached": self.reached,
            "items": self.items,
            "unit": self.unit,
            "items_per_second": self.rate,
            "memory": self.memory,
            "note": self.note,
        }


HEADER = ("what", "ours ms (min-max)", "per s", "peer ms (min-max)", "ours/peer", "target", "floor ms", "of floor",
          "memory", "note")  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows under a header, with aligned columns; missing figures are blank, empty columns are left out."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    kept = [i for i in range(len(HEADER)) if any(line[i] for line in cells[1:])]
    widths = {i: max(len(line[i]) for line in cells) for i in kept}
    texts = {0, len(HEADER) - 1}
    lines = [
        "  ".join(line[i].ljust(widths[i]) if i in texts else line[i].rjust(widths[i]) for i in kept).rstrip()
        for line in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    reached = {None: "", True: " yes", False: " NO"}[row.reached]
    return (
        f"{row.topic}: {row.what}",
        _milliseconds(row.ours),
        f"{_figure(row.rate)} {row.unit}",
        "" if row.peer is None else _milliseconds(row.peer),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.target is None else f"{row.target}{reached}",
        "" if row.floor is None else _figure(1e3 * row.floor),
        "" if row.share is None else f"{row.share:.1%}",
        "" if row.memory is None else f"{_figure(row.memory / 1e6)} MB",
        row.note,
    )


def _milliseconds(timing: Timing) -> str:
    median, low, high = (_figure(1e3 * x) for x in (timing.median, timing.fastest, timing.slowest))
    return f"{median} ({low}-{high})"


def _figure(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _timing_json(timing: Timing) -> dict[str, Any]:
    return {"median": timing.median, "min": timing.fastest, "max": timing.slowest, "samples": list(timing.samples)}
