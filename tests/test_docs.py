"""The code and the commands in README.md and docs/ do what they say."""

import argparse
import dataclasses
import doctest
import html
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import frcnn_jax
from frcnn_jax.commands import compare
from frcnn_jax.config import Config, DataConfig, FaultPolicy, load_config, override
from frcnn_jax.models import architectures
from frcnn_jax.models.architectures import ARCHITECTURES
from frcnn_jax.runs.detector import Detector
from frcnn_jax.training.statistics import identity_statistics
from tests.training.runs import SMALL_TINY, shrink_tiny

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "configs/README.md"]
USE_EXTENSIONS = """
from pathlib import Path

import jax, numpy as np
import frcnn_jax as frcnn
from frcnn_jax.config import DataConfig, LossConfig, replace
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.losses import create_loss

load_plugins(("my_trunks", "my_format"))
model = frcnn.create_model("patches", 3)
params = frcnn.init_params(model, jax.random.key(0))
config = frcnn.resolve_rules(replace(frcnn.load_config(CONFIG), model={"name": "patches"}))
frcnn.create_optimizer(config.optimizer, params, 10)
boxes = np.array([[5, 5, 60, 50], [20, 10, 90, 60.0]])
batch = frcnn.make_batch(np.zeros((64, 96, 3), np.uint8), boxes, boxes[:1] + 2, np.array([2]))
loss = create_loss(LossConfig(localization="my_losses:huber"))
value, parts = frcnn.loss_fn(params, batch, jax.random.key(1), model=model, loss=loss)
assert parts["foreground"] > 0 and np.isfinite(value) and parts["localization"] > 0

name, reader = open_reader(Path.cwd(), DataConfig())
(record,) = reader.read("train").records
assert (name, reader.splits) == ("my_csv", ("train", "test"))
assert (record.image_id, record.size, len(record.objects)) == ("a.jpg", None, 2)
assert (record.objects[1].name, record.objects[1].box) == ("dog", (1.5, 2.0, 8.0, 9.0))
"""
LABELS = """split,image,class,left,top,right,bottom
train,a.jpg,cat,0,0,4,5
train,a.jpg,dog,1.5,2,8,9
test,b.jpg,cat,0,0,4,5
"""


def code_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def small_tiny():
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        yield


def test_the_code_in_the_readme_and_the_guide_to_python(small_tiny, monkeypatch, capsys):
    """Block after block in one namespace, as a person would type them."""
    namespace = {}

    def load_detector(workdir):
        model, params = namespace["model"], namespace["params"]
        return Detector(model, params, identity_statistics(4), ("a", "b", "c"), load_config("folder_scratch"), 1)

    monkeypatch.setattr(frcnn_jax, "load_detector", load_detector)
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    monkeypatch.setattr("cv2.imread", {"runs/demo/data/JPEGImages/test_00000.jpg": picture}.get)
    for name, least in (("README.md", 2), ("docs/python.md", 5)):
        blocks = code_blocks(ROOT / name)
        assert len(blocks) >= least
        for block in blocks:
            exec(compile(block, name, "exec"), namespace)
    step, loss = capsys.readouterr().out.splitlines()[-1].split()
    assert int(step) == 20
    assert np.isfinite(float(loss))
    assert np.isfinite(namespace["parts"]["loss"])
    assert set(namespace["names"]) <= {"a", "b", "c"}


class Patches(nn.Module):
    """A trunk of one layer, which compiles in a moment."""

    dtype: np.dtype = np.dtype("float32")
    param_dtype: np.dtype = np.dtype("float32")

    @nn.compact
    def __call__(self, x, sizes):
        x = nn.relu(nn.Conv(16, (16, 16), 16, padding=((0, 15), (0, 15)))(x))
        return x, None if sizes is None else -(-sizes // 16)


def trace(function, **_):
    """`jax.jit` without compilation: zeros of the outputs' shapes."""

    def traced(*arguments, **options):
        outputs = jax.eval_shape(function, *arguments, **options)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outputs)

    return traced


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_code_in_the_guide_to_experiments(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(jax, "jit", trace)
    tiny = dataclasses.replace(SMALL_TINY, trunk=Patches)
    monkeypatch.setattr(architectures, "ARCHITECTURES", {"tiny": tiny})
    path = ROOT / "docs/experiments.md"
    found = {}
    for block in code_blocks(path):
        exec(compile(block, path.name, "exec"), found)
    images = found["pixels"].shape
    assert found["gradient"]["backbone"].keys() == {"cells"}
    if not compiled:
        return
    assert found["to_pixels"](found["params"], found["pixels"], found["batch"], found["key"]).shape == images
    assert found["saliency"].shape == images[1:3]
    assert float(found["saliency"].max()) > 0
    assert float(jnp.abs(found["learned"]["log_variances"]).min()) > 0
    assert np.isfinite(found["value"])
    frozen, before = found["state"].params["backbone"], found["params"]["backbone"]
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(frozen), jax.tree.leaves(before), strict=True))
    assert float(optax.tree.norm(found["gradient"]["backbone"])) > 0
    # One bin of 2 x 2 samples, a fourth of a cell from the centre of four cells: their mean.
    cells = jnp.array([[[1.0], [2]], [[3], [6]]])
    box = jnp.array([[8.0, 8, 24, 24]])
    assert found["roi_align"](cells, box, jnp.array([2, 2]), (1, 1), 1 / 16).tolist() == [[[[3.0]]]]


def test_the_modules_in_the_guide_to_extending(tmp_path):
    modules = [block for block in code_blocks(ROOT / "docs/extending.md") if block.startswith('"""my_')]
    assert len(modules) == 3
    for text in modules:
        (tmp_path / re.match(r'"""(\w+\.py)"""', text)[1]).write_text(text)
    (tmp_path / "labels.csv").write_text(LABELS)
    config = ROOT / "configs/folder_scratch.py"
    code = f"CONFIG = {str(config)!r}\n{USE_EXTENSIONS}"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("path", PAGES[:-1], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_training_commands_are_understood(path):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("command", "--config", "--workdir"):
        parser.add_argument(option)
    for option, choices in (("--systems", compare.MODULES), ("--models", ARCHITECTURES)):
        parser.add_argument(option, nargs="+", choices=choices)
    parser.add_argument("--settings", action="store_true")
    lines = [line.strip() for line in path.read_text("utf-8").replace("\\\n", " ").splitlines()]
    start = re.compile(r"python scripts/(?:train|compare).py --config configs/|frcnn (?:train|compare) --config [a-z]")
    commands = [shlex.split(line)[1:] for line in lines if start.match(line)]
    assert commands or path.name not in ("own_data.md", "training.md", "extending.md", "comparison.md", "results.md")
    for command in commands:
        options, settings = parser.parse_known_args(command)
        config = load_config(ROOT / options.config if options.config.endswith(".py") else options.config)
        if "compare" in options.command:
            config = compare.Settings(**vars(config))
        override(config, settings)


def test_the_examples_in_docstrings():
    modules = [importlib.import_module(f"frcnn_jax.{home}") for home in sorted(set(frcnn_jax._HOMES.values()))]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 3


def test_every_public_name_has_a_docstring():
    for name in frcnn_jax.__all__:
        assert name.isupper() or getattr(frcnn_jax, name).__doc__, name
    for name in frcnn_jax.config.__all__:
        assert name.isupper() or getattr(frcnn_jax.config, name).__doc__, name


def test_the_api_reference(tmp_path):
    pytest.importorskip("pdoc")
    script = ROOT / "scripts/api_reference.py"
    command = [sys.executable, str(script), "--out", str(tmp_path / "api")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stderr) == (0, "")
    files = ("frcnn_jax.html", "frcnn_jax/config.html")
    page, settings = (html.unescape((tmp_path / "api" / name).read_text("utf-8")) for name in files)
    assert all(f'id="{name}"' in page for name in frcnn_jax.__all__)
    assert all(f'id="{name}"' in settings for name in frcnn_jax.config.__all__)
    text = re.sub(r"<[^>]+>", "", page)
    assert 'features: Float[Array, "H W C"]' in text
    assert "key: PRNGKeyArray" in text
    assert not re.search(r"jaxtyping\.|jaxlib\.| object at 0x", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        page, _, anchor = link.partition("#")
        target = path.parent / page if page else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_the_index_has_every_page():
    index = ROOT / "docs/README.md"
    listed = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", index.read_text("utf-8"))}
    assert {path.resolve() for path in PAGES} - listed == {index.resolve(), (ROOT / "README.md").resolve()}


def test_the_guide_to_own_data_has_every_fault_and_every_answer():
    text = (ROOT / "docs/own_data.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for field in dataclasses.fields(FaultPolicy):
        for answer in get_args(get_type_hints(FaultPolicy)[field.name]):
            assert f"`{answer}`" in rows[field.name].split("|")[3]
    for name in ("corners", "orientation"):
        for choice in get_args(get_type_hints(DataConfig)[name]):
            assert re.search(rf"--data.{name} {choice}|`{choice}`", text)
    # Settings that stand alone, as in the report, are understood.
    for line in re.findall(r"^\s*(--data\S+ .*)$", text, re.MULTILINE):
        assert override(Config(), shlex.split(line)) != Config()
