"""The command `frcnn`: its list, names of commands and configs, and the help of each."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import __main__ as frcnn
from frcnn_jax.cli.run import package_command
from frcnn_jax.commands.train import open_test_set
from frcnn_jax.config import Config, config_names, derive, flat_settings, load_config, replace, to_json
from frcnn_jax.runs.evaluate import check_changes

ROOT = Path(__file__).parents[1]
# Words by which a help text explains an option without a default.
WITHOUT_DEFAULT = ("not given", "required", "instead of", "may be repeated", "name of a config")


def start(monkeypatch, *arguments, program="/usr/bin/frcnn"):
    """Exit status, or the message it exits with, of `frcnn` in this process; None where it ends well."""
    monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
    try:
        frcnn.main()
    except SystemExit as stopped:
        return stopped.code
    return None


def test_the_list_has_every_command_and_config(monkeypatch, capsys):
    modules = {name.replace("-", "_") for name in frcnn.COMMANDS}
    folder = Path(frcnn.__file__).parent / "commands"
    assert modules == {path.stem for path in folder.glob("*.py") if "def main()" in path.read_text()}
    assert modules <= {path.stem for path in (ROOT / "scripts").glob("*.py")}
    for arguments in ((), ("--help",), ("-h",)):
        assert start(monkeypatch, *arguments) is None
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80
        listed = [line.split()[0] for line in printed.partition("commands:\n")[2].partition("\n\n")[0].splitlines()]
        assert listed == list(frcnn.COMMANDS)
        assert set(config_names()) <= set(printed.split())
    assert start(monkeypatch, "--version") is None
    assert capsys.readouterr().out.startswith("frcnn_jax 0.")


def test_an_unknown_command_names_the_nearest(monkeypatch, capsys):
    assert start(monkeypatch, "convert_weights", "--help") == 2
    refused = "frcnn: no command 'convert_weights', the nearest is convert-weights; frcnn --help lists them\n"
    assert capsys.readouterr() == ("", refused)


def test_an_unknown_option_names_the_nearest(monkeypatch, capsys):
    assert start(monkeypatch, "detect", "a.jpg", "--workdir", "run", "--scor", "0.2") == 2
    refused = "frcnn detect: error: unrecognized arguments: --scor 0.2; the nearest to --scor is --score\n"
    assert capsys.readouterr().err.endswith(refused)


@pytest.mark.parametrize(
    ("command", "option", "least"),
    [
        ("demo-data out", "--train", 1),
        ("demo-data out", "--test", 1),
        ("demo-data out", "--seed", 0),
        ("proposals --config folder --out out", "--pictures", 0),
        ("proposals --config folder --out out", "--augmented", 0),
        ("compress --workdir run", "--images", 0),
        ("compress --workdir run", "--fc7", 0),
        ("export --workdir run --format stablehlo --out a.stablehlo", "--proposals", 1),
        ("convert-weights a.pth --model vgg16 --out out", "--num-classes", 2),
        ("detect a.jpg --workdir run", "--every", 1),
        ("detect a.jpg --workdir run", "--data.max-pixels", 1),
        ("launch train", "--processes", 1),
        ("inspect-data", "--proposals", 1),
    ],
)
def test_a_number_that_is_too_small_is_refused_at_once(command, option, least, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    name, *others = command.split()
    for value, reason in ((least - 1, f"must be at least {least}, not {least - 1}"), ("x", "invalid int value: 'x'")):
        assert start(monkeypatch, name, option, value, *others) == 2
        assert re.search(f"argument (-n/)?{option}: {reason}\n$", capsys.readouterr().err)
    assert not any(tmp_path.iterdir())


def test_every_number_of_a_command_has_its_least():
    for path in (Path(frcnn.__file__).parent / "commands").glob("*.py"):
        assert "type=int" not in path.read_text(), path


def test_a_workdir_is_needed_but_for_the_settings(monkeypatch, capsys):
    assert start(monkeypatch, "train", "--config", "folder") == 2
    printed = capsys.readouterr().err
    assert "--config CONFIG --workdir WORKDIR" in printed
    assert printed.endswith("error: the following arguments are required: --workdir\n")
    assert start(monkeypatch, "train", "--config", "folder", "--settings") == 0
    assert "--train.steps" in capsys.readouterr().out


def test_messages_name_what_was_typed(monkeypatch, tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    for program, name in (("/usr/bin/frcnn", "frcnn"), ("/x/frcnn_jax/__main__.py", "python -m frcnn_jax")):
        message = start(monkeypatch, "evaluate", "--workdir", nowhere, program=program)
        assert message.startswith(f"{name} evaluate: {nowhere} holds no run")
        assert start(monkeypatch, "demo-data", "--help", program=program) == 0
        assert capsys.readouterr().out.startswith(f"usage: {name} demo-data ")
    listed = subprocess.run([sys.executable, "-m", "frcnn_jax"], capture_output=True, text=True, check=True).stdout
    assert listed.startswith("usage: python -m frcnn_jax COMMAND")


def test_processes_import_nothing_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "frcnn_jax.py").write_text("raise SystemExit('the wrong module')\n")
    listed = subprocess.run([*package_command("train"), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    started = []
    monkeypatch.setattr("frcnn_jax.commands.launch.launch", lambda command, count: started.append((command, count)))
    assert start(monkeypatch, "launch", "-n", 2, "train", "--config", "folder") is None
    assert started == [([*package_command("train"), "--config", "folder"], 2)]


@pytest.mark.parametrize("name", ["train", "evaluate", "compress", "compare"])
def test_settings_that_save_memory_are_those_of_the_command(name):
    module = importlib.import_module(f"frcnn_jax.commands.{name}")
    settings = {f"{part}.{key}" for part, key in re.findall(r"([\w.]+)\.(\w+)", module.MEMORY_SETTINGS)}
    assert settings
    known = flat_settings(module.Settings() if name == "compare" else Config())
    assert settings <= set(known)
    if name in ("evaluate", "compress"):
        for setting in settings:
            section, key = setting.split(".")
            check_changes(Config(), replace(Config(), **{section: {key: 1}}))


@pytest.mark.parametrize("name", frcnn.COMMANDS)
def test_help_is_complete_and_fits_the_terminal(name, monkeypatch, capsys):
    parsers = []
    print_help = argparse.ArgumentParser.print_help
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self: (parsers.append(self), print_help(self)))
    monkeypatch.setenv("COLUMNS", "80")
    assert start(monkeypatch, name, "--help") == 0
    if name in ("inspect-data", "train"):
        assert "--data.root FOLDER" in parsers[0].format_help()
    # Python 3.11 repeats the metavar after a short form.
    text = re.sub(r"\n  (-\w) [A-Z]+, --", r"\n  \1, --", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= 80
    assert f"\n    frcnn {name} " in text
    assert importlib.import_module(f"frcnn_jax.commands.{name.replace('-', '_')}").__doc__.split("\n")[0][:40] in text
    for action in parsers[0]._actions:
        if action.help == argparse.SUPPRESS:
            continue
        label = ", ".join(action.option_strings) or action.metavar or action.dest
        assert action.help, f"{label} has no help"
        told = re.split(rf"\n  {re.escape(label)}(?=\s)", text)[-1]  # not --proposals.invalid for --proposals
        told = " ".join(told.partition("\n  -")[0].split())
        assert action.help.split("%")[0] in told
        if action.default == []:
            assert "(default" not in told
        elif not any(action.default is without for without in (None, False, argparse.SUPPRESS)):
            default = action.default if isinstance(action.default, (list, tuple)) else [action.default]
            assert f"(default: {' '.join(map(str, default))})" in told
        elif action.option_strings and not action.required and action.nargs != 0:
            assert any(words in told for words in WITHOUT_DEFAULT), told


def test_every_config_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert set(config_names()) == {path.stem for path in (ROOT / "configs").glob("*.py")}
    for name in config_names():
        assert load_config(name) == load_config(ROOT / f"configs/{name}.py")
    (tmp_path / "mine.py").write_text(
        "from frcnn_jax.config import derive\n\n\ndef get_config():\n"
        "    return derive('voc07_vgg16', __file__, train={'steps': 7})\n"
    )
    assert load_config("mine.py") == derive("voc07_vgg16.py", ROOT / "configs/x.py", train={"steps": 7})
    (tmp_path / "demo").write_text("a file of the name of a config")
    assert load_config("demo") == load_config(ROOT / "configs/demo.py")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/folder.py", "no config file configs/folder.py; --config folder is the one that comes with frcnn_jax"),
        ("folder.py", "no config file folder.py; --config folder is the one"),
        ("configs/none.py", "no config file configs/none.py; those that come with frcnn_jax are bccd, demo, folder, "),
        ("voc07_vgg_16", "no config is named voc07_vgg_16, the nearest is voc07_vgg16; there are bccd, demo, folder, "),
        ("mine", "no config is named mine; there are bccd, demo, folder, "),
        ("mine", "a file of yours is given by its path, as ./mine.py"),
    ],
)
def test_a_config_that_is_not_there_names_what_to_type(config, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = start(monkeypatch, "train", "--config", config, "--workdir", "run")
    assert told.startswith("frcnn train: ")
    assert message in told
    assert "\n" not in told
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_of_data_names_the_one_of_the_run(tmp_path):
    config = replace(load_config("folder"), data={"root": str(tmp_path / "none"), "tfds_dir": str(tmp_path / "kept")})
    with pytest.raises(FileNotFoundError, match=r"--data\.root$"):
        open_test_set(config, tmp_path / "run")
    (tmp_path / "run").mkdir()
    for root, end in (
        ("my photos", f"; the run in {tmp_path}/run has --data.root '{tmp_path}/my photos'"),
        ("none", ""),
    ):
        own = replace(config, data={"root": str(tmp_path / root)})
        (tmp_path / "run/config.json").write_text(to_json(own))
        with pytest.raises(FileNotFoundError, match=rf"by --data\.root{end}$"):
            open_test_set(config, tmp_path / "run")
