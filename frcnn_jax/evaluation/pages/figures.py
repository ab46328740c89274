"""Figures of a report: precision over recall, and F1 over the score, with a curve per class."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.atomic import write_bytes
from frcnn_jax.evaluation.analysis.measures import f1_scores
from frcnn_jax.evaluation.drawing import PALETTE
from frcnn_jax.evaluation.fonts import drawable_names, font_families
from frcnn_jax.evaluation.voc_map import PrecisionRecall

__all__ = ["plot_f1", "plot_precision_recall"]

_POINTS = 2000  # most points of a curve
_FEW = 12  # classes in a legend
_MOST = 40  # classes in a legend; of more, only the best and the worst
_ENDS = 10  # of each
_ROWS = 25  # of a legend
_STYLES = ("-", "--", ":", "-.")
_LETTERS = (40, 20)  # most of a name in a legend of one or two columns


def plot_precision_recall(
    curves: Mapping[str, PrecisionRecall], path: str | Path, *, ap: Mapping[str, float | None] | None = None
) -> None:
    """Draws the curves of the classes with objects, with their AP in the legend if given.

    Of more than 40 classes the legend has the ten best and worst by their AP, and the others are gray. Long names are
    cut in the middle.

    Args:
        curves: curves of classes 1 ... K in this order. A class name with characters that no installed font has is
            written as its label, `class 3`, with a note below the axes.
    """
    _plot(
        curves,
        path,
        {"xlabel": "recall", "ylabel": "precision", "xlim": (0, 1.01), "ylim": (0, 1.02)},
        lambda curve: (curve.recall, curve.precision),
        ap or {},
    )


def plot_f1(
    curves: Mapping[str, PrecisionRecall],
    path: str | Path,
    *,
    best: Mapping[str, Mapping[str, float] | None] | None = None,
) -> None:
    """Draws F1 over the score threshold, for the classes with objects; the legend as in `plot_precision_recall`.

    Args:
        curves: as in `plot_precision_recall`.
        best: `best_f1` of each class; the highest F1 is in the legend.
    """
    values = {name: best_of_class["f1"] for name, best_of_class in (best or {}).items() if best_of_class}
    limits = {"xlabel": "score", "ylabel": "F1", "ylim": (0, 1.02)}
    _plot(curves, path, limits, lambda curve: (curve.scores, f1_scores(curve)), values)


def _plot(
    curves: Mapping[str, PrecisionRecall],
    path: str | Path,
    axes_settings: dict[str, Any],
    points: Callable[[PrecisionRecall], tuple[np.ndarray, np.ndarray]],
    values: Mapping[str, float | None],
) -> None:
    """A figure with a curve for each class with objects, and its value in the legend."""
    from matplotlib.figure import Figure

    path = Path(path)
    # The same pixels, with larger text where the legend is short.
    few = sum(curve.objects > 0 for curve in curves.values()) <= _FEW
    figure = Figure(figsize=(6.4, 4) if few else (8, 5), dpi=150 if few else 120, layout="constrained")
    axes = figure.add_subplot(**axes_settings)
    axes.grid(alpha=0.3)
    shown = drawable_names(list(curves))
    drawn = [name for name, curve in curves.items() if curve.objects]
    named = _named(drawn, values)
    letters = _LETTERS[len(named) > _ROWS]
    lines = {}
    for i, (name, curve) in enumerate(curves.items()):
        if curve.objects == 0:
            continue
        some = np.unique(np.linspace(0, len(curve.scores) - 1, _POINTS).astype(int)) if len(curve.scores) else []
        x, y = points(curve)
        if name not in named:
            axes.plot(x[some], y[some], color="0.85", linewidth=0.8, zorder=1)
            continue
        # Curves of a class look alike in all figures, unless there are too many classes to tell apart.
        look = i if len(curves) <= len(_STYLES) * len(PALETTE) else named.index(name)
        color = tuple(value / 255 for value in PALETTE[look % len(PALETTE)])
        # The number in front also keeps Matplotlib from hiding a name that starts with an underscore.
        prefix = " " if values.get(name) is None else f"{values[name]:.3f}  "
        (lines[name],) = axes.plot(
            x[some],
            y[some],
            color=color,
            linestyle=_STYLES[look // len(PALETTE)],
            label=prefix + _short(shown[i], letters).replace("$", r"\$"),
        )
    if named:
        legend = axes.legend(
            handles=[lines[name] for name in named],
            title=_legend_title(len(named), len(drawn)),
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            fontsize="small",
            ncols=math.ceil(len(named) / _ROWS),
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_fontfamily(font_families(text.get_text()))
    numbered = [text for text, name in zip(shown, curves, strict=True) if text != name]
    if numbered:
        note = f"Names in characters that no installed font has are given as numbers, such as {numbered[0]}."
        figure.supxlabel(note, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    write_bytes(path, buffer.getvalue())


def _legend_title(named: int, drawn: int) -> str | None:
    if named == drawn:
        return None
    return f"best and worst {_ENDS} of {drawn}" if named == 2 * _ENDS else f"{named} of {drawn}"


def _named(names: Sequence[str], values: Mapping[str, float | None]) -> list[str]:
    """The classes in the legend, in its order."""
    if len(names) <= _MOST:
        return list(names)
    known = sorted((name for name in names if values.get(name) is not None), key=lambda name: -values[name])
    return known if len(known) <= 2 * _ENDS else [*known[:_ENDS], *known[-_ENDS:]]


def _short(name: str, letters: int) -> str:
    """A name of at most so many letters, without some of its middle."""
    kept = letters // 2
    return name if len(name) <= letters else f"{name[: letters - kept - 1]}\u2026{name[-kept:]}"
