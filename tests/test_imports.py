"""Imports go one way: each part imports only parts below it, without exceptions; and what `import frcnn_jax` costs."""

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import frcnn_jax

ROOT = Path(frcnn_jax.__file__).parent
# From the ground up; the parts of one row do not import each other.
LAYERS = (
    ("types", "atomic", "machine", "npz", "progress", "signals", "words"),
    ("config", "locks", "sums"),
    ("ops", "cli", "distributed", "plugins"),
    ("models", "data"),
    ("checkpoint",),
    ("weights",),
    ("training",),
    ("detection",),
    ("evaluation",),
    ("runs",),
    ("comparison",),
    ("commands",),
    ("__main__", "configs"),
)
LAYER = {part: height for height, parts in enumerate(LAYERS) for part in parts}


def imports_of(text, module):
    """Modules of ours that a module's text imports, anywhere in it, below `frcnn_jax`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            # `from frcnn_jax.ops import losses` imports a module, `from frcnn_jax.ops.nms import nms` a name.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("frcnn_jax.") for name in found if name.startswith("frcnn_jax.")}
    return {name if is_module(name) else name.rpartition(".")[0] for name in ours}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@functools.cache
def graph():
    """Imports of each module by its name below `frcnn_jax`."""
    modules = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith("__init__"):
            modules[name] = imports_of(path.read_text(), name)
    return modules


def offences(modules):
    found = []
    for module, imported in modules.items():
        part = module.split(".")[0]
        others = {other: other.split(".")[0] for other in imported}
        found += [
            f"{module} imports {other}" for other, its in others.items() if its != part and LAYER[its] >= LAYER[part]
        ]
    return found


def test_imports_go_one_way():
    modules = graph()
    assert len(modules) > 30
    assert "ops.boxes" in modules["ops.nms"]
    assert offences(modules) == []


@pytest.mark.parametrize(
    "text",
    [
        "import frcnn_jax.models.heads",
        "def f():\n    from frcnn_jax.data import dataset",
        "from frcnn_jax.weights.load import load_weights",
    ],
)
def test_an_import_the_wrong_way_would_be_found(text):
    assert len(offences({"ops.boxes": imports_of(text, "ops.boxes")})) == 1


def test_no_circle():
    modules = graph()
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(modules.get(module, ())):
            visit(other)
        path.pop()
        done.add(module)

    for module in modules:
        visit(module)


def test_every_public_name_is_there():
    for name in frcnn_jax.__all__:
        value = getattr(frcnn_jax, name)
        home = f"frcnn_jax.{frcnn_jax._HOMES[name]}"
        assert value is getattr(importlib.import_module(home), name)
        # Constants have no name of their own.
        assert name.isupper() or (value.__name__, value.__module__) == (name, home)
        assert name in dir(frcnn_jax)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = frcnn_jax.nothing


def test_editors_see_the_same_names():
    """Type checkers read the imports under TYPE_CHECKING, the program reads `_HOMES`."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"frcnn_jax.{home}" for name, home in frcnn_jax._HOMES.items()}


def test_a_file_is_read_in_one_sitting_and_a_folder_seen_at_a_glance():
    for folder in [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 12, folder
        for path in files:
            assert len(path.read_text().splitlines()) <= (250 if "comparison" in path.parts else 300), path


def defined_twice(text):
    """Names that the top level of a module's text defines more than once."""
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names += [part.id for part in ast.walk(target) if isinstance(part, ast.Name)] if target else []
    return {name for name in names if names.count(name) > 1}


def test_nothing_is_defined_twice():
    assert defined_twice("A: int = 1\nB = 2\nA: int = 1") == {"A"}
    assert defined_twice("def f(): pass\nclass f: pass") == {"f"}
    for path in ROOT.rglob("*.py"):
        assert not defined_twice(path.read_text()), path


def test_the_promised_names_are_public():
    promised = {"create_model", "init_params", "load_weights", "detect", "loss_fn", "MultiTaskLoss", "roi_max_pool",
                "evaluate_voc"}  # fmt: skip
    assert promised <= set(frcnn_jax.__all__)


def test_every_module_has_a_docstring_and_is_imported_from_somewhere():
    for name in graph():
        assert importlib.import_module(f"frcnn_jax.{name}").__doc__, name


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import frcnn_jax", ("jax", "flax", "numpy", "tensorflow_datasets", "cv2", "grain")),
        ("import frcnn_jax.config", ("jax", "tensorflow_datasets", "cv2", "tyro")),
        ("import frcnn_jax.ops.roi_pool.pool, frcnn_jax.ops.losses", ("flax", "optax", "cv2", "tensorflow_datasets")),
        ("import frcnn_jax.runs.detector, frcnn_jax.training.loop", ("tensorflow", "matplotlib", "torch")),
        ("import frcnn_jax; frcnn_jax.make_train_step", ("orbax", "grain", "cv2", "scipy.linalg")),
    ],
)
def test_what_an_import_leaves_alone(statement, absent):
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
