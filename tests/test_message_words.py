"""Numbers and lists of names in messages."""

import re
from pathlib import Path

import pytest

from frcnn_jax.words import counted, listed

PACKAGE = Path(__file__).resolve().parents[1] / "frcnn_jax"


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("object",), "0 objects"),
        (1, ("object",), "1 object"),
        (2, ("object",), "2 objects"),
        (1, ("class", "classes"), "1 class"),
        (3, ("class", "classes"), "3 classes"),
    ],
)
def test_counted(number, words, text):
    assert counted(number, *words) == text


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c", "d"], "a, b and 2 more")]
)
def test_listed(names, text):
    assert listed(names, 2) == text


def test_messages_count_with_counted():
    """A line that is logged or printed with a number of images or files would read "1 images"."""
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"left out \{len|\{len\(\w+\)\} (images|files|annotations) are", line)
    ]
    assert found == []
