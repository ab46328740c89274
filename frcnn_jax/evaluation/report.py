"""Files of an evaluation: metrics, pictures, curves, and a page that shows them. Each appears whole or not at all."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8

from frcnn_jax.atomic import write_bytes, write_text
from frcnn_jax.evaluation.coco import format_coco
from frcnn_jax.evaluation.drawing import PALETTE, check_image, draw_detections
from frcnn_jax.evaluation.fonts import drawable_names, font_families
from frcnn_jax.evaluation.voc_map import PrecisionRecall

__all__ = [
    "draw_detections",
    "format_metrics",
    "plot_precision_recall",
    "write_image",
    "write_metrics",
    "write_report",
]


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics` as JSON.

    Raises:
        ValueError: a value has no place in JSON, such as NaN or an array.
    """
    try:
        text = json.dumps(dict(metrics), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: metrics cannot be written as JSON: {error}") from None
    write_text(path, text + "\n")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """The AP of each class and their mean as lines to print; below them COCO's measures, if they were measured."""
    names = [*metrics["ap"], "mean"]
    values = [*metrics["ap"].values(), metrics["map"]]
    width = max(len(name) for name in names)
    title = f"Average precision ({metrics['metric']}, {metrics['images']} images)"
    if "step" in metrics:
        title += f" of step {metrics['step']}"
    if "checkpoint" in metrics:
        title += f": {metrics['checkpoint']}"
    rows = [f"  {n:{width}}  {'no objects' if v is None else f'{v:.4f}'}" for n, v in zip(names, values, strict=True)]
    rows += format_coco(metrics["coco"]) if "coco" in metrics else []
    return "\n".join([title, *rows])


def write_image(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an RGB image in the format that the ending of `path` names.

    Raises:
        ValueError: the image is not uint8 [H, W, 3], or the format is unknown.
    """
    import cv2

    path = Path(path)
    check_image(image)
    if not cv2.haveImageWriter(path.name):
        raise ValueError(f"{path}: {path.suffix!r} names no image format that can be written")
    write_bytes(path, cv2.imencode(path.suffix, np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes())


def plot_precision_recall(
    curves: Mapping[str, PrecisionRecall], path: str | Path, *, ap: Mapping[str, float | None] | None = None
) -> None:
    """Draw the curves of the classes that have objects, with their AP in the legend if given.

    Args:
        curves: of classes 1 ... K in this order. One whose name has characters that no installed font has is written as
            its label, `class 3`, with a note below the axes.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    shown = drawable_names(list(curves))
    for i, (name, curve) in enumerate(curves.items()):
        if curve.objects == 0:
            continue
        points = np.unique(np.linspace(0, len(curve.scores) - 1, 2000).astype(int)) if len(curve.scores) else []
        color = tuple(value / 255 for value in PALETTE[i % len(PALETTE)])
        # The number in front also keeps Matplotlib from hiding a name that starts with an underscore.
        prefix = " " if ap is None or ap.get(name) is None else f"{ap[name]:.3f}  "
        axes.plot(
            curve.recall[points],
            curve.precision[points],
            color=color,
            linestyle=("-", "--", ":", "-.")[i // len(PALETTE) % 4],
            label=prefix + shown[i].replace("$", r"\$"),
        )
    if axes.lines:
        columns = math.ceil(len(axes.lines) / 25)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", ncols=columns, frameon=False)
        for text in legend.get_texts():
            text.set_fontfamily(font_families(text.get_text()))
    numbered = [text for text, name in zip(shown, curves, strict=True) if text != name]
    if numbered:
        note = f"Names in characters that no installed font has are given as numbers, such as {numbered[0]}."
        figure.supxlabel(note, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    write_bytes(path, buffer.getvalue())


def write_report(
    directory: str | Path,
    metrics: Mapping[str, Any],
    pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
    curves: Mapping[str, PrecisionRecall],
    *,
    title: str = "Evaluation",
) -> Path:
    """Write `index.html`, `precision_recall.png` and `images/<image id>.jpg`; returns the page's path.

    Args:
        metrics: as from `evaluate_voc`; further numbers and texts in it are listed on the page.
        pictures: RGB, by image id. Characters of an id that may not stand in a file name are written as %XX.

    Raises:
        ValueError: `metrics` lacks `map`, `ap`, `objects` or `detections`.
    """
    import jinja2

    directory = Path(directory)
    for name in ("map", "ap", "objects", "detections"):
        if name not in metrics:
            raise ValueError(f"{directory}: metrics without {name!r}")
    files = {image: re.sub(r"[^\w. -]", lambda m: quote(m[0], safe=""), image) + ".jpg" for image in pictures}
    for image, picture in pictures.items():
        write_image(directory / "images" / files[image], picture)
    plot_precision_recall(curves, directory / "precision_recall.png", ap=metrics["ap"])
    facts = {k: v for k, v in metrics.items() if k != "map" and isinstance(v, (int, float, str))}
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    html = page.render(
        title=title,
        metrics=metrics,
        facts=facts,
        numbered={name: text for name, text in zip(curves, drawable_names(list(curves)), strict=True) if text != name},
        pictures={k: f"images/{quote(v)}" for k, v in files.items()},
    )
    write_text(directory / "index.html", html)
    return directory / "index.html"


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 1.5em auto; max-width: 1200px; padding: 0 1em; color: #222; background: #fff }
.top { display: flex; flex-wrap: wrap; gap: 2em; align-items: flex-start }
table { border-collapse: collapse }
th, td { padding: .15em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1em }
img { max-width: 100% }
figure { margin: 0; min-width: 0 }
figcaption { overflow-wrap: anywhere; color: #666 }
.top figure { flex: 1 1 400px }
</style>
<h1>{{ title }}</h1>
<p>mAP <b>{{ "%.4f" % metrics.map if metrics.map is not none else "not measured" }}</b>
{%- for name, value in facts.items() %}, {{ name }} {{ "%.4g" % value if value is float else value }}{% endfor %}</p>
<div class="top">
<table>
<tr><th>class{% if numbered %}<th>in the figures{% endif %}<th>AP<th>objects<th>detections</tr>
{% for name, value in metrics.ap.items() %}
<tr><td>{{ name }}{% if numbered %}<td>{{ numbered.get(name, name) }}{% endif %}
<td>{{ "%.4f" % value if value is not none else "–" }}
<td>{{ metrics.objects[name] }}<td>{{ metrics.detections[name] }}</tr>
{% endfor %}
</table>
<figure><img src="precision_recall.png" alt="precision over recall for each class"></figure>
</div>
{% if numbered %}
<p>In the figure and the pictures, {{ numbered | join(", ") }}: given as numbers, because no installed font has all
characters of these names.</p>
{% endif %}
{% if pictures %}
<h2>Pictures</h2>
<p>Detections in the colours of their classes, with their scores
{%- if "picture_score" in metrics.settings %}, from {{ metrics.settings.picture_score }} on{% endif %}; annotated
objects in dashed white.</p>
<div class="grid">
{% for name, file in pictures.items() %}
<figure><a href="{{ file }}"><img src="{{ file }}" alt="{{ name }}"></a><figcaption>{{ name }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
</html>
"""
