"""The comparison's script: one process per system and network, the table of existing results, kills."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frcnn_jax.commands import compare
from frcnn_jax.comparison.record import Record
from tests.comparison.cases import case
from tests.test_scripts import ROOT
from tests.training.runs import write_data

SCRIPT = ROOT / "scripts/compare.py"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """`run(*arguments)` gives the commands that the script would run; each leaves a record."""
    (tmp_path / "small.py").write_text(
        "from frcnn_jax.config import Config, ModelConfig\n\n\n"
        "def get_config():\n    return Config(model=ModelConfig('tiny'))\n"
    )
    commands = []

    class Popen:
        def __init__(self, command, stdin):
            commands.append(command)
            system, model = (command[command.index(name) + 1] for name in ("--systems", "--models"))
            record = Record(tmp_path / f"table/{system}-{model}/record.json", system=system, model=model)
            record.set_train("fine_tuning", 60 * len(commands))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            code = codes.pop(0) if codes else 0
            if code is KeyboardInterrupt:
                raise code
            return code

    codes = []
    monkeypatch.setattr(subprocess, "Popen", Popen)

    def run(*arguments, returns=()):
        commands.clear()
        codes[:] = returns
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--config", str(tmp_path / "small.py"), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return commands

    return run


def systems(commands):
    return [(c[c.index("--systems") + 1], c[c.index("--models") + 1]) for c in commands]


def test_each_system_and_network_has_a_process_of_its_own(script, tmp_path, capsys):
    work = ["--workdir", str(tmp_path / "table")]
    commands = script(*work, "--train.steps", "7", "--evaluate.no-flip")
    assert systems(commands) == [("rcnn", "tiny"), ("sppnet", "tiny"), ("fast_rcnn", "tiny")]
    for command in commands:
        assert command[:5] == [sys.executable, "-P", "-m", "frcnn_jax", "compare"]
        assert command[9:13] == ["--train.steps", "7", "--evaluate.no-flip", "--child"]
    # The table has what earlier commands left too; the paper has no SPPnet of S and M.
    capsys.readouterr()
    commands = script(*work, "--models", "vgg16", "caffenet", "--systems", "sppnet", "fast_rcnn")
    assert systems(commands) == [("sppnet", "vgg16"), ("fast_rcnn", "vgg16"), ("fast_rcnn", "caffenet")]
    printed = capsys.readouterr().out
    fast = ["Fast R-CNN caffenet (S)", "Fast R-CNN vgg16 (L)", "Fast R-CNN tiny"]
    expected = [*fast, "R-CNN tiny", "SPPnet vgg16 (L)", "SPPnet tiny"]
    heading = (tmp_path / "table/comparison.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in heading.split("|")][2:-1] == expected
    assert heading in printed
    assert "sppnet with caffenet: left out, as in the paper" in printed
    # Their lengths are not that of Fast R-CNN, which the config and `--train.steps` give.
    length = "90,000 steps of fine-tuning by --comparison.sppnet.fine-tuning.steps, not --train.steps"
    assert f"sppnet with vgg16: {length}" in printed
    assert "fast_rcnn with vgg16\n" in printed
    script(*work, "--systems", "rcnn", "--comparison.rcnn.fine-tuning.held-out", "0.1")
    assert "rcnn with tiny: at most 70,000 steps of fine-tuning by" in capsys.readouterr().out
    assert f"Table: {tmp_path}/table/comparison.html" in printed


@pytest.mark.parametrize(("code", "exits"), [(1, 1), (-9, 137)])
def test_a_system_that_fails_ends_the_comparison(script, tmp_path, code, exits):
    with pytest.raises(SystemExit) as stopped:
        script("--workdir", str(tmp_path / "table"), returns=[0, code])
    assert stopped.value.code == exits
    # What was done before is in the table.
    assert "| R-CNN tiny |" in (tmp_path / "table/comparison.md").read_text()


@pytest.mark.parametrize(("after", "exits"), [(0, 130), (143, 143)])
def test_an_interruption_is_not_followed_by_the_next_system(script, tmp_path, after, exits):
    """Also where the system under way ends as if nothing had happened."""
    with pytest.raises(SystemExit) as stopped:
        script("--workdir", str(tmp_path / "table"), returns=[KeyboardInterrupt, after])
    assert stopped.value.code == exits
    assert [path.name for path in (tmp_path / "table").glob("*-*")] == ["rcnn-tiny"]


def test_plug_ins_are_imported_by_the_systems_alone(script, tmp_path, monkeypatch):
    """One that computes would hold the memory of a GPU in the process that waits; each system knows all names."""
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    work = ["--workdir", str(tmp_path / "table"), "--plugins", "mine", "--models", "tiny", "vgg61"]
    commands = script(*work, "--systems", "rcnn")
    assert [command[command.index("--models") + 1 :] for command in commands] == [["tiny", "vgg61"], ["vgg61", "tiny"]]
    with pytest.raises(ValueError, match="no model 'vgg61'; there are"):
        compare.train_and_test("rcnn", *case(tmp_path), tmp_path / "none", ["tiny", "vgg61"])
    assert not (tmp_path / "none").exists()


def test_mistakes_are_named_before_anything_is_done(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"compare.py: comparison.share must be above 0"):
        script("--workdir", str(tmp_path), "--comparison.share", "0")
    with pytest.raises(SystemExit):
        script("--workdir", str(tmp_path), "--comparison.svn.c", "1")
    assert "--comparison.svm" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"compare.py: no model 'vgg61'; there are"):
        script("--workdir", str(tmp_path / "table"), "--models", "tiny", "vgg61")
    assert not (tmp_path / "table").exists()
    (tmp_path / "small.py").write_text(
        "from frcnn_jax.config import Config, EvalConfig\n\n\n"
        "def get_config():\n    return Config(evaluate=EvalConfig(flip=True, box_voting=0.5))\n"
    )
    for setting in (["flip"], ["box-voting", "0.5"], ["second-pass", "8"]):
        with pytest.raises(SystemExit):
            script("--workdir", str(tmp_path), f"--evaluate.{setting[0]}", *setting[1:])
        error = f"error: --evaluate.{setting[0]}: R-CNN and SPPnet have none, and all are tested alike\n"
        assert capsys.readouterr().err.endswith(error)
    with pytest.raises(SystemExit):
        script("--workdir", str(tmp_path), "--systems", "fast_rcnn_svm", "--input.test-scales", "300", "400")
    assert "--input.test-scales: the SVMs of fast_rcnn_svm see one scale" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script("--train.steps", "7")
    assert "the following arguments are required: --workdir" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script("--settings")
    printed = capsys.readouterr().out
    assert "--comparison.rcnn.fine-tuning.steps" in printed
    assert "--train.steps" in printed


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    load = "import os, sys, time; from frcnn_jax.commands import compare; "
    child = load + (
        f"compare.end_with_parent(); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    parent = load + f"compare.in_a_process_of_its_own([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", parent], env=environment) as process:
        deadline = time.monotonic() + 200
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
    number = int((tmp_path / "pid").read_text())
    while is_alive(number) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(number)


def is_alive(number):
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A command that compares all systems on drawn images, with a narrow network from a plug-in."""
    root = tmp_path_factory.mktemp("whole")
    write_data(root / "data")
    _, comparison = case(root / "data")
    (root / "narrow.py").write_text("from tests.comparison.cases import SMALL\n\nimport frcnn_jax\n\n"
                                    "frcnn_jax.register_architecture('narrow', SMALL)\n")  # fmt: skip
    (root / "small.py").write_text(
        "from dataclasses import replace\nfrom pathlib import Path\n\nfrom tests.comparison.cases import case\n\n\n"
        "def get_config():\n"
        f"    return replace(case(Path({str(root / 'data')!r}))[0], plugins=('narrow',))\n"
    )
    settings = ["--models", "narrow", "--systems", "rcnn", "sppnet", "fast_rcnn", "fast_rcnn_svm"]
    for name, value in flat(comparison).items():
        settings += [f"--comparison.{name}", *map(str, value if isinstance(value, tuple) else [value])]
    command = [sys.executable, SCRIPT, "--config", root / "small.py", "--workdir", root / "work", *settings]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{root}",
        "JAX_PLATFORMS": "cpu",
    }
    return root / "work", list(map(str, command)), environment


def flat(settings):
    """The settings that differ from their defaults, by their names on the command line."""
    found = {}
    for name, value in vars(settings).items():
        if hasattr(value, "__dataclass_fields__"):
            found |= {f"{name}.{inner}": v for inner, v in flat(value).items()}
        elif value != getattr(type(settings)(), name):
            found[name] = value
    return found


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_from_images_to_the_table_over_a_kill(whole):
    work, command, environment = whole
    killed = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not (work / "rcnn-narrow/vectors/settings.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=700)
    assert result.returncode == 0, result.stderr[-3000:]
    contents = {path.parent.name: json.loads(path.read_text()) for path in work.glob("*/record.json")}
    assert contents.keys() == {"rcnn-narrow", "sppnet-narrow", "fast_rcnn-narrow", "fast_rcnn_svm-narrow"}
    for content in contents.values():
        assert 0 <= content["map"] <= 1
        assert all(entry["seconds"] > 0 for entry in content["train"].values())
    assert contents["rcnn-narrow"]["train"].keys() == {"fine_tuning", "features", "svms", "regressors"}
    assert contents["fast_rcnn-narrow"]["test"].keys() == {"", "svd"}
    table = (work / "comparison.md").read_text()
    assert "| Fast R-CNN narrow | Fast R-CNN, SVMs narrow | R-CNN narrow | SPPnet narrow |" in table
    for row in ("train time", "train speedup", "test time an image", "test speedup with SVD", "mAP", "peak memory"):
        assert f"\n| {row} |" in table
    # Once more, nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in work.glob("*/*/features.bin")}
    again = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=700)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in work.glob("*/*/features.bin")} == before
