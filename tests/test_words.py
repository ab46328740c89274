"""First words of docstrings, and names of local variables."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("frcnn_jax", "scripts", "configs", "tests")
# A docstring begins with the noun or verb that it is about.
FIRST_WORDS = re.compile(r"(What|Which|How|That|Whether|As|Where|When)\b")
ARRAYS = re.compile("Array|Bool|Float|Float32|Inexact|Int|Int32|Num|Shaped|UInt8|UInt32|Real")
# Words that name nothing: a variable is named by its content.
NAMES = re.compile("apart|gone|here|its|lying|mine|nothing|own|room|said|taken|there|thing|told|turn")


def first_words(tree):
    """Docstrings that begin with a conjunction or a pronoun: line and text."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node) or ""
            if FIRST_WORDS.match(text):
                yield getattr(node, "lineno", 1), text.split("\n")[0]


def names(tree):
    """Variables and arguments with a name of `NAMES`: line and name."""
    for node in ast.walk(tree):
        name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else None
        if name and NAMES.fullmatch(name) and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
            yield node.lineno, name


@pytest.fixture(scope="module")
def trees():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_docstrings_begin_with_a_noun_or_a_verb(trees):
    assert [f"{path}:{line}: {text}" for path, tree in trees.items() for line, text in first_words(tree)] == []


def test_variables_are_named_by_their_content(trees):
    found = [
        f"{path}:{line}: {name}"
        for path, tree in trees.items()
        if path.parts[0] != "tests"
        for line, name in names(tree)
    ]
    assert found == []


def shapes(tree):
    """Annotations of arrays whose shape is no text, as `Int[Array, 2]`, which means nothing: line and code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and re.fullmatch(ARRAYS, getattr(node.value, "id", "")):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if len(parts) != 2 or not (isinstance(parts[1], ast.Constant) and isinstance(parts[1].value, str)):
                yield node.lineno, ast.unparse(node)


def test_shapes_of_arrays_are_text(trees):
    """Only some packages are checked while they run, and `from __future__ import annotations` evaluates none."""
    assert [f"{path}:{line}: {code}" for path, tree in trees.items() for line, code in shapes(tree)] == []
    bad = ast.parse('def f(a: Int[Array, 2], b: Float[Array, " P"], c: Bool[Array]) -> dict[str, 2]: ...')
    assert [code for _, code in shapes(bad)] == ["Int[Array, 2]", "Bool[Array]"]


def test_rule_by_hand():
    bad = ast.parse(
        '"""What it does."""\ndef f(own):\n    """How."""\n    for its in own:\n        gone = (taken := its)\n'
    )
    assert [line for line, _ in first_words(bad)] == [1, 2]
    assert sorted(names(bad)) == [(2, "own"), (4, "its"), (5, "gone"), (5, "taken")]
    assert [*first_words(ast.parse('"""Whatever is."""\nits.x = 1\n')), *names(ast.parse("print(its)"))] == []
