"""Losses of two trainings side by side: a table, a file of all steps and a picture."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.atomic import write_bytes, write_text

PARTS = {"loss": "total", "classification": "class", "localization": "box"}
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # steps in the table, beside the last one
WINDOW = 20


@dataclasses.dataclass(frozen=True)
class Curves:
    """The losses of a training before each update, and the seconds of each step."""

    losses: Mapping[str, np.ndarray]  # by the names of PARTS, [S] each
    seconds: np.ndarray

    @property
    def milliseconds(self) -> float:
        """The median of all steps except the first, which compiles."""
        return 1e3 * float(np.median(self.seconds[1:] if len(self.seconds) > 1 else self.seconds))


def collect(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """Curves from a row of losses and seconds for each step."""
    rows = list(rows)
    losses = {part: np.array([row[part] for row in rows]) for part in PARTS}
    return Curves(losses, np.array([row["seconds"] for row in rows]))


def read_run(workdir: Path, steps: int, images: int, counts: Iterable[tuple[int, int]]) -> Curves:
    """The curves of a run of this package, from its `metrics.jsonl`.

    Args:
        images: images in a batch.
        counts: recorded numbers of foreground and background RoIs of each step.

    Raises:
        ValueError: a step has no separate line, or was made with other RoIs.
    """
    path = workdir / "metrics.jsonl"
    lines = [line for line in map(json.loads, path.read_text().splitlines()) if "loss" in line]
    if [line["step"] for line in lines] != list(range(1, steps + 1)):
        raise ValueError(f"{path} has not one line for each of {steps} steps: give another --workdir")
    for line, recorded in zip(lines, counts, strict=True):
        trained = round(line["foreground"]), round(line["background"])
        if trained != recorded:
            raise ValueError(
                f"{path}: step {line['step']} was made with {trained[0]} RoIs of foreground and {trained[1]} of "
                f"background, where the config and the data as they are now give {recorded[0]} and {recorded[1]}: "
                "give another --workdir"
            )
    # The peer does not read images, so the waiting time for images does not count.
    return collect(
        line | {"seconds": images / line["images_per_second"] * (1 - line["waiting_share"])} for line in lines
    )


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """|ours - theirs| / |theirs| at each step; 0 where both are 0."""
    return np.abs(ours - theirs) / np.where(ours == theirs, 1, np.abs(theirs))


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean of each value and the WINDOW - 1 before it; of fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def table(ours: Curves, theirs: Curves, again: Curves | None = None) -> str:
    """The losses at some steps, the largest differences over all steps, and the time of a step.

    Args:
        again: curves of a second run of the peer with sums in another order; the difference of its two runs is
            rounding.
    """
    steps = len(ours.seconds)
    rows = [
        ["", *(text for name in PARTS.values() for text in (f"{name} loss", "", ""))],
        ["step", *(text for _ in PARTS for text in ("ours", "PyTorch", "differ"))],
    ]
    for step in sorted({*(step for step in SHOWN if step < steps), steps}):
        row = [str(step)]
        for part in PARTS:
            pair = ours.losses[part][step - 1], theirs.losses[part][step - 1]
            row += [*(f"{value:.5f}" for value in pair), f"{difference(*pair):.1e}"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += ["", f"Largest relative difference over {steps} steps, and that of the means over {WINDOW} steps"]
    lines += _largest("ours and PyTorch", ours, theirs)
    if again is not None:
        lines += _largest("PyTorch in two memory layouts", again, theirs)
    times = f"{ours.milliseconds:.0f} ms, PyTorch {theirs.milliseconds:.0f} ms"
    return "\n".join([*lines, "", f"A step, images read before, median: ours {times}"])


def _largest(which: str, first: Curves, second: Curves) -> list[str]:
    lines = [f"  {which}"]
    for part, name in PARTS.items():
        by_step = difference(first.losses[part], second.losses[part])
        means = difference(running_mean(first.losses[part]), running_mean(second.losses[part]))
        lines.append(f"    {name:5}  {by_step.max():.1e} (step {by_step.argmax() + 1}), {means.max():.1e}")
    return lines


def write_csv(path: Path, ours: Curves, theirs: Curves) -> None:
    """Writes a row for each step: both losses and their parts, and the seconds."""
    columns = {"step": range(1, len(ours.seconds) + 1)}
    for part in PARTS:
        columns |= {f"{part}_ours": ours.losses[part], f"{part}_pytorch": theirs.losses[part]}
    columns |= {"seconds_ours": ours.seconds, "seconds_pytorch": theirs.seconds}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())


def plot(path: Path, ours: Curves, theirs: Curves, title: str) -> None:
    """Draws both curves of each part, and below them their relative difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = np.arange(1, len(ours.seconds) + 1)
    for color, (part, name) in zip(("C0", "C1", "C2"), PARTS.items(), strict=True):
        above.plot(steps, ours.losses[part], color=color, label=f"{name}, ours")
        above.plot(steps, theirs.losses[part], color="black", linestyle=":", label=f"{name}, PyTorch")
        gap = difference(ours.losses[part], theirs.losses[part])
        # Equal losses cannot be drawn on a logarithmic axis.
        below.semilogy(steps, np.where(gap > 0, gap, np.nan), color=color, label=name)
    above.set(ylabel="loss", title=title)
    below.set(xlabel="step", ylabel="relative difference")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    above.legend(ncols=3, fontsize="small", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
