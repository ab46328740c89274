"""Writes the API reference as HTML, from the docstrings of the public names: `make docs`.

python scripts/api_reference.py [--out build/docs]

A docstring or signature that cannot be rendered is an error. Needs pdoc: pip install -e '.[docs]'.
"""

import inspect
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from frcnn_jax.cli.options import make_parser
from frcnn_jax.cli.run import run
from frcnn_jax.config import expand_user

MODULES = ("frcnn_jax", "frcnn_jax.config", "frcnn_jax.types")
# jaxtyping annotations as printed by Python: jaxtyping.Float[jaxlib._jax.Array, 'N 4'].
_SHAPE = re.compile(r"jaxtyping\.(\w+)\[(?:\w+\.)*(\w+), '([^']*)'\]")
_KEY = 'Union[Key[Array, ""], UInt32[Array, "2"], UInt32[Array, "4"]]'
_MODULES_OF_TYPES = re.compile(r"\b(?:typing|pathlib|jax|jaxlib|_jax|flax|linen|module)\.")
# Leaves out the fields that Flax adds to every module, and values that are long tables.
_TEMPLATE = """{% extends "default/module.html.jinja2" %}
{% macro is_public(doc) %}
  {% if doc.name not in ("parent", "scope") %}{{ default_is_public(doc) }}{% endif %}
{% endmacro %}
{% macro default_value(var) %}
  {% if var.default_value_str | length < 200 %}{{ default_default_value(var) }}{% endif %}
{% endmacro %}
"""
_format = inspect.formatannotation


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--out", type=expand_user, default=Path("build/docs"), metavar="FOLDER", help="folder of the pages"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("error", UserWarning)  # warnings of pdoc
    write_reference(arguments.out)
    print(f"API reference: {arguments.out}/index.html")


def write_reference(folder: Path) -> None:
    """The pages of all `MODULES`, an index and a search, in `folder`."""
    try:
        import pdoc.doc
        import pdoc.render
    except ImportError as error:
        raise ImportError(f"{error}: pip install -e '.[docs]'") from error

    # pdoc formats return annotations, Python those of arguments.
    pdoc.doc.formatannotation = inspect.formatannotation = format_annotation
    with tempfile.TemporaryDirectory() as templates:
        (Path(templates) / "module.html.jinja2").write_text(_TEMPLATE)
        pdoc.render.configure(docformat="google", template_directory=Path(templates), show_source=False)
        pdoc.pdoc(*MODULES, output_directory=folder)


def format_annotation(annotation: Any, base_module: str | None = None, **options: Any) -> str:
    """An annotation as in the source, `Float[Array, "N 4"]`; arguments as in `inspect.formatannotation`."""
    text = _SHAPE.sub(r'\1[\2, "\3"]', _format(annotation, base_module, **options))
    return _MODULES_OF_TYPES.sub("", text).replace(_KEY, "PRNGKeyArray")


if __name__ == "__main__":
    run(main)
