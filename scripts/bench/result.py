"""Rows of the result, as a table and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.timing import Timing


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: our time, the peer's and the least that the device allows."""

    topic: str
    what: str
    ours: Timing
    peer: Timing | None = None
    floor: float | None = None  # seconds a call
    items: int = 1  # images or steps in a call
    unit: str = "calls"  # what the items are
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Our time over the peer's: below 1 we are faster."""
        return None if self.peer is None else self.ours.median / self.peer.median

    @property
    def share(self) -> float | None:
        """Floor over our time: 1 is all that the device can do."""
        return None if self.floor is None else self.floor / self.ours.median

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.ours.median

    def to_json(self) -> dict[str, Any]:
        """All of it in seconds, with every sample."""
        return {
            "topic": self.topic,
            "what": self.what,
            "ours": _timing_json(self.ours),
            "peer": None if self.peer is None else _timing_json(self.peer),
            "ratio": self.ratio,
            "floor": self.floor,
            "share_of_floor": self.share,
            "items": self.items,
            "unit": self.unit,
            "items_per_second": self.rate,
            "note": self.note,
        }


HEADER = ("what", "ours ms (min-max)", "per s", "peer ms (min-max)", "ours/peer", "floor ms", "of floor", "note")


def table(rows: Sequence[Row]) -> str:
    """The rows under a header, columns aligned; a blank where there is no figure."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    lines = []
    for line in cells:
        first, *middle, note = line
        padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(middle, widths[1:-1], strict=True)), note]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.topic}: {row.what}",
        _milliseconds(row.ours),
        f"{_figure(row.rate)} {row.unit}",
        "" if row.peer is None else _milliseconds(row.peer),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.floor is None else _figure(1e3 * row.floor),
        "" if row.share is None else f"{row.share:.1%}",
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
