"""Class names in figures and pictures: drawn with installed fonts, or as numbers if no font has the characters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from matplotlib.font_manager import FontEntry

__all__ = ["drawable_names", "font_families", "render_text"]

_CAPITAL = 0.73  # height of a capital letter over the font size
# Unusable fonts: with a box for every character, or with coloured bitmaps or layers as glyphs.
_UNREADABLE = ("last resort", "lastresort", "color emoji")


def drawable_names(class_names: Sequence[str]) -> list[str]:
    """The names of classes 1 ... K for drawing: `class 3` for a name with characters that no font has."""
    return [
        name if (name.isascii() and name.isprintable()) or font_families(name) is not None else f"class {label}"
        for label, name in enumerate(class_names, start=1)
    ]


def font_families(text: str) -> list[str] | None:
    """Matplotlib's font families that together have all characters of `text`: the default ones, then others if needed.

    Returns:
        The families; None if a character is in no installed font.
    """
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont

    families = list(matplotlib.rcParams["font.family"])
    missing = frozenset(ord(character) for character in text if character != "\n")
    missing -= _glyphs(findfont(FontProperties()), missing)
    while missing:
        others = (font for font in _readable_fonts() if font.name not in families)
        best = max(others, key=lambda font: _preference(font, missing), default=None)
        if best is None or not _glyphs(best.fname, missing):
            return None
        families.append(best.name)
        # Matplotlib chooses the file of a family itself.
        missing -= _glyphs(findfont(FontProperties(family=best.name)), missing)
    return families


def render_text(text: str, capital_height: float) -> UInt8[np.ndarray, "H W"]:
    """Coverage of each pixel by `text`, 0 to 255, in the smallest rectangle around it with a margin of a pixel.

    Args:
        capital_height: height of a capital letter in pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import IdentityTransform

    figure = Figure(dpi=72)  # points are pixels
    figure.patch.set_alpha(0)
    canvas = FigureCanvasAgg(figure)
    drawn = figure.text(
        0, 0, text,
        family=font_families(text), fontsize=capital_height / _CAPITAL, parse_math=False, transform=IdentityTransform(),
    )  # fmt: skip
    box = drawn.get_window_extent(canvas.get_renderer())
    drawn.set_position((1 - box.x0, 1 - box.y0))
    figure.set_size_inches(np.ceil((box.width + 2, box.height + 2)) / figure.dpi)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 3].copy()


def _readable_fonts() -> Iterator[FontEntry]:
    """Matplotlib's entries of the installed fonts."""
    from matplotlib.font_manager import fontManager

    for font in fontManager.ttflist:
        if not any(word in font.name.lower() for word in _UNREADABLE):
            yield font


def _preference(font: FontEntry, missing: frozenset[int]) -> tuple[int, bool, int, bool]:
    """Sort key: fonts with more of the missing characters first, then upright, regular ones without serifs."""
    weight = font.weight if isinstance(font.weight, int) else 400
    sans = "sans" in font.name.lower() or "gothic" in font.name.lower()
    return len(_glyphs(font.fname, missing)), font.style == "normal", -abs(weight - 400), sans


@functools.cache
def _glyphs(path: str, characters: frozenset[int]) -> frozenset[int]:
    """The code points that have a scalable glyph in a font file; empty if the file cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return frozenset(code for code in characters if font.scalable and font.get_char_index(code))
