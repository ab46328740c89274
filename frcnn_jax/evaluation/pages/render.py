"""Rendering of the templates beside this file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["render_page"]

_FOLDER = Path(__file__).parent


def render_page(template: str, **values: Any) -> str:
    """The page of a template `NAME.html`, with embedded style and scripts."""
    import jinja2

    loader = jinja2.FileSystemLoader(_FOLDER, encoding="utf-8")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["json"] = _json
    environment.filters["share"] = _share
    environment.filters["short_hashes"] = lambda text: re.sub(r"(\.rf\.\w{4})\w{9,}", "\\1\u2026", text)
    environment.filters["whole_sizes"] = lambda text: re.sub(r"(\d) x (\d)", "\\1\u00a0x\u00a0\\2", text)
    return environment.get_template(template).render(values)


def _json(value: Any) -> Any:
    """JSON that is safe inside a script element, whatever names it holds."""
    import markupsafe

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return markupsafe.Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _share(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
