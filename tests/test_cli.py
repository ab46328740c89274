"""Common behaviour of commands: where compiled functions are kept, and by whom that folder may be written."""

import importlib
import io
import os
import re
import subprocess
import sys

import pytest

from frcnn_jax.cli import compiled
from frcnn_jax.cli.run import run

PROGRAM = """
from pathlib import Path
from frcnn_jax.cli.run import run

def main():
    import jax
    jax.jit(lambda x: x @ x.T + 1)(jax.numpy.ones((3, 5))).block_until_ready()

run(main)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the user, and none of JAX's variables set."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", compiled._LEAST_SECONDS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_is_private_and_stays(cache):
    before = os.umask(0)  # others would be allowed everything
    try:
        folder = compiled.cache_folder()
    finally:
        os.umask(before)
    assert folder == cache / "frcnn_jax/compiled"
    for path in (folder, folder.parent, cache):
        assert path.stat().st_mode & 0o777 == 0o700
    (folder / "entry").touch()
    assert compiled.cache_folder() == folder
    assert (folder / "entry").exists()


@pytest.mark.parametrize("configured", ["", "relative/cache"])
def test_without_an_absolute_setting_it_is_in_the_home(cache, tmp_path, monkeypatch, configured):
    monkeypatch.setenv("XDG_CACHE_HOME", configured)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert compiled.cache_folder() == tmp_path / "home/.cache/frcnn_jax/compiled"
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize("part", ["frcnn_jax", "frcnn_jax/compiled"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(cache, part, mode):
    compiled.cache_folder()
    (cache / part).chmod(mode)
    with pytest.raises(PermissionError, match=f"others can write to .*{part} .mode {mode:o}"):
        compiled.cache_folder()


def test_a_folder_in_one_where_all_can_write_is_refused(cache):
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(PermissionError, match=f"all can write to {cache}"):
        compiled.cache_folder()
    cache.chmod(0o1777)  # as /tmp: only the owner may rename
    compiled.cache_folder()


def test_a_folder_of_another_user_is_refused(cache, monkeypatch):
    compiled.cache_folder()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(PermissionError, match="belongs to another user"):
        compiled.cache_folder()


def test_a_link_counts_as_what_it_leads_to(cache, tmp_path):
    elsewhere = tmp_path / "large_disk"
    elsewhere.mkdir(mode=0o700)
    cache.mkdir()
    (cache / "frcnn_jax").symlink_to(elsewhere)
    assert compiled.cache_folder() == elsewhere / "compiled"
    elsewhere.chmod(0o707)
    with pytest.raises(PermissionError, match="others can write to"):
        compiled.cache_folder()


def test_what_jax_is_told_wins(cache, monkeypatch):
    for name, value in (("JAX_COMPILATION_CACHE_DIR", "/mine"), ("JAX_ENABLE_COMPILATION_CACHE", "false")):
        monkeypatch.setenv(name, value)
        environment = dict(os.environ)
        compiled.keep_compiled("script.py")
        assert dict(os.environ) == environment
        monkeypatch.delenv(name)
    assert not cache.exists()
    monkeypatch.setenv(compiled._LEAST_SECONDS, "7")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    compiled.keep_compiled("script.py")
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(cache / "frcnn_jax/compiled")
    assert os.environ[compiled._LEAST_SECONDS] == "7"


def test_without_a_folder_scripts_run_and_say_so(cache, monkeypatch, capsys):
    cache.write_text("a file")
    environment = dict(os.environ)
    compiled.keep_compiled("script.py")
    assert dict(os.environ) == environment
    message = capsys.readouterr().err
    assert message.startswith("script.py: compiled functions are not kept for the next start: ")
    assert message.count("\n") == 1


def test_a_program_keeps_what_it_compiles_and_finds_it_again(cache):
    environment = os.environ | {compiled._LEAST_SECONDS: "0", "JAX_LOGGING_LEVEL": "WARNING"}
    listings = []
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        files = [path for path in (cache / "frcnn_jax/compiled").rglob("*") if path.is_file()]
        listings.append({path.name: path.stat().st_mtime_ns for path in files})
    assert any("lambda" in name for name in listings[0])
    assert listings[0] == listings[1]


def test_importing_the_package_sets_nothing(cache):
    code = "import frcnn_jax.cli.run, frcnn_jax.training.loop, jax, os; print(jax.config.jax_compilation_cache_dir)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "None\n"
    assert not cache.exists()


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("train", "--config", "folder", "--settings")])
def test_an_output_that_nothing_reads_ends_a_command_without_a_message(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "frcnn_jax", *arguments]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert result.stderr == ""
    assert result.returncode in (0, 141)  # 0: all was in the buffer when the command ended


def test_another_broken_pipe_is_an_error(monkeypatch):
    def main():
        raise BrokenPipeError("of a socket")

    monkeypatch.setattr(sys, "argv", ["frcnn train"])
    with pytest.raises(SystemExit, match=r"^frcnn train: of a socket \("):
        run(main)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), " (Out of memory allocating 9 "),
        (MemoryError("Unable to allocate 3 GiB"), " (Unable to allocate 3 GiB): other programs may use"),
        (MemoryError(), ": other programs may use the device; finished work is kept"),
    ],
)
def test_too_little_memory_is_one_line(error, reason, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["frcnn train"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code.startswith(f"frcnn train: out of memory{reason}")
    assert "\n" not in stopped.value.code
    with pytest.raises(SystemExit, match=r": input\.scales can be smaller, and other programs may use the device; "):
        run(main, "input.scales")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(30, "Read-only file system", "runs/a"), "runs/a: Read-only file system"),
        (FileNotFoundError("runs/a has no config.json"), "runs/a has no config.json"),
        (PermissionError(13, "Permission denied", "a", None, "b"), "[Errno 13] Permission denied: 'a' -> 'b'"),
    ],
)
def test_an_error_of_the_system_is_its_file_and_its_reason(error, line, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["frcnn train"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert re.fullmatch(rf"frcnn train: {re.escape(line)} \({re.escape(__file__)}, line \d+\)", stopped.value.code)


def end_of(main, monkeypatch):
    """The line with which a command ends."""
    monkeypatch.setattr(sys, "argv", ["frcnn train"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    return stopped.value.code


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module."""
    (tmp_path / "module_of_a_user.py").write_text(
        "import json\nfrom frcnn_jax.config import load_config\n\ndef unpack():\n    a, b, c = 1, 2, *()\n"
        "def read():\n    json.loads('{')\n"
        "def load():\n    load_config('none.py')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield importlib.import_module("module_of_a_user")
    del sys.modules["module_of_a_user"]


def test_an_error_in_a_users_code_is_told_with_its_place(module, monkeypatch):
    assert end_of(module.unpack, monkeypatch) == (
        f"frcnn train: not enough values to unpack (expected 3, got 2) ({module.__file__}, line 5)"
    )
    assert end_of(module.read, monkeypatch).endswith(f" ({module.__file__}, line 7)")  # of a library that it calls
    assert end_of(module.load, monkeypatch) == "frcnn train: no config file none.py"


def test_a_traceback_is_printed_where_it_is_asked_for(module, monkeypatch, capsys):
    for value, shown in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("FRCNN_TRACEBACK", value)
        assert end_of(module.load, monkeypatch) == "frcnn train: no config file none.py"
        error = capsys.readouterr().err
        assert ("Traceback (most recent call last)" in error) == shown
        assert ("load_config('none.py')" in error) == shown


def test_a_name_that_is_not_utf8_is_printed_escaped(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict"))
    run(lambda: print(os.fsdecode(b"caf\xe9.jpg"), "ä"))
    assert sys.stdout.buffer.getvalue().decode() == "caf\\udce9.jpg ä\n"


def test_other_errors_keep_their_traceback():
    def main():
        raise RuntimeError("INTERNAL: a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        run(main)
