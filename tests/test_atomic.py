"""Files and folders appear whole or not at all, and errors name the path that was meant."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

from frcnn_jax.atomic import new_folder, remove_unfinished, replacing, write_bytes, write_text
from frcnn_jax.locks import FolderInUseError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "made/also/a.txt"
    write_text(path, "first")
    write_bytes(path, "zwölf".encode(), durable=True)
    assert path.read_text("utf-8") == "zwölf"
    assert names(path.parent) == ["a.txt"]


def test_until_the_block_is_left_the_old_file_stands(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_with_all_its_files(tmp_path):
    path = tmp_path / "deep/run"
    with new_folder(path) as temporary:
        (temporary / "a").write_text("a")
        assert not path.exists()
    assert names(path) == ["a"]
    assert names(path.parent) == ["run"]


def test_a_folder_that_could_not_be_filled_does_not_appear(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "run") as temporary:
        (temporary / "a").write_text(f"half {1 / 0}")
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    with new_folder(tmp_path / "run"):
        pass
    (tmp_path / "run/a").write_text("a")
    with pytest.raises(FileExistsError, match="run already exists"), new_folder(tmp_path / "run"):
        pytest.fail("the block must not run")
    assert (tmp_path / "run/a").read_text() == "a"


@pytest.mark.parametrize("make", [replacing, new_folder])
def test_a_full_disk_is_told_of_the_path_that_was_meant(tmp_path, make):
    with pytest.raises(OSError, match="No space left on device") as error, make(tmp_path / "a") as temporary:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
    assert error.value.filename == str(tmp_path / "a")
    assert error.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a"):
        (tmp_path / "source").read_text()
    assert error.value.filename == str(tmp_path / "source")


@pytest.mark.parametrize("make", [replacing, new_folder])
@pytest.mark.parametrize(
    "error",
    [
        FolderInUseError("runs/x is in use by process 5"),
        TimeoutError("no batch came within 600 s"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
        OSError("out/a.mp4: OpenCV cannot write a video of 9 x 9 pixels there"),
        OSError("a message that mentions 5 bytes written"),
    ],
)
def test_an_error_that_is_not_of_writing_passes_unchanged(tmp_path, make, error):
    with pytest.raises(type(error), match=re.escape(str(error))) as raised, make(tmp_path / "a"):
        raise error
    assert raised.value is error
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [replacing, new_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_an_error_of_an_open_file_is_told_of_the_path(tmp_path, make, number):
    with pytest.raises(OSError, match=r"/a'$") as error, make(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "a"))


def test_numpys_error_is_told_of_the_path(tmp_path):
    message = f"^{tmp_path}/a cannot be written: 9 requested and 3 written$"
    with pytest.raises(OSError, match=message), replacing(tmp_path / "a"):
        raise OSError("9 requested and 3 written")


def test_a_disk_that_cannot_flush_is_told_of_the_path(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("frcnn_jax.atomic.os.fsync", fail)
    with pytest.raises(OSError, match=f"Invalid argument: '{tmp_path}/a'$"):
        write_text(tmp_path / "a", "text", durable=True)


def test_a_folder_where_a_file_is_wanted(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory") as error:
        write_text(tmp_path / "a", "text")
    assert error.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file/a", tmp_path / "file/deep/a"):
        with pytest.raises(OSError, match=f"^{path} cannot be written: {tmp_path}/file is a file, not a folder$"):
            write_text(path, "new")
        with pytest.raises(OSError, match=f"{tmp_path}/file is a file, not a folder$"), new_folder(path):
            pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_to_an_empty_folder_stays_and_its_folder_is_filled(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as temporary:
        (temporary / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert (names(tmp_path), names(tmp_path / "real")) == (["link", "real"], ["a"])


def test_a_folder_that_cannot_be_replaced_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "../here", tmp_path / "here"):
        message = f"^{re.escape(str(path))} is the current folder, which cannot be replaced: give a new folder$"
        with pytest.raises(FileExistsError, match=message), new_folder(path):
            pytest.fail("the block must not run")
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("frcnn_jax.atomic.Path.is_mount", lambda path: path.name == "disk")
    with pytest.raises(FileExistsError, match="disk is the root of a disk"), new_folder(tmp_path / "disk"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["disk", "here"]


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_is_replaced_or_followed(tmp_path, follow):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link", follow=follow) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").read_text() == "new"
    assert (tmp_path / "link").is_symlink() == follow
    assert (tmp_path / "real").read_text() == ("new" if follow else "old")


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path, name):
    write_text(tmp_path / name, "text")
    with new_folder(tmp_path / "b" / name):
        pass
    assert (tmp_path / name).read_text() == "text"
    assert (tmp_path / "b" / name).is_dir()


KILLED = """
import os, sys
from pathlib import Path
from frcnn_jax.atomic import new_folder, replacing
folder = Path(sys.argv[1])
with replacing(folder / "file") as file, new_folder(folder / "folder") as made:
    file.touch()
    (made / "a").touch()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = {"a.tmp", ".0123456789abcdef.tmp.npz", ".lock", "run"}
    for name in kept:
        (tmp_path / name).touch()
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert len(names(tmp_path)) == len(kept) + 2
    remove_unfinished(tmp_path)
    assert set(names(tmp_path)) == kept


def test_of_a_link_only_itself_is_removed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").touch()
    (tmp_path / ".0123456789abcdef.tmp").symlink_to(tmp_path / "elsewhere")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["elsewhere"]
    assert names(tmp_path / "elsewhere") == ["a"]


def test_files_from_the_future_are_removed(tmp_path):
    """The clock of a file server may be ahead."""
    path = tmp_path / ".0123456789abcdef.tmp"
    path.touch()
    os.utime(path, times=(time.time() + 100,) * 2)
    remove_unfinished(tmp_path, min_age=1)
    assert names(tmp_path) == [path.name]
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []


def test_names_that_are_not_utf_8_can_be_written(tmp_path):
    write_text(tmp_path / "a.html", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a.html").read_text("utf-8") == r"caf\udce9"
