"""Files of ours that went bad: cut off, changed in one bit or missing, each is named, with what to type."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import sums
from frcnn_jax.checkpoint import open_checkpoint
from frcnn_jax.config import DataConfig, ProposalConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.image_cache import DecodedImages
from frcnn_jax.data.prepared.dataset import PreparedDataset
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.sums import check_contents, check_sizes, write_sums
from frcnn_jax.weights.formats.checkpoints import read_checkpoint
from tests.data.voc_files import VocFiles, object_xml
from tests.test_checkpoint import state_of

pytestmark = pytest.mark.usefixtures("unfinished_reads")


def flip(path: Path, bit: int = 3) -> None:
    """Changes one bit, in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_bit_in_any_file_of_a_checkpoint_is_noticed(two):
    newest = two / "checkpoints/2"
    names = files_of(newest)
    assert "checksums.json" in names
    assert len(names) > 5
    for name in names:
        content = (newest / name).read_bytes()
        if not content:
            continue
        flip(newest / name)
        for read in (lambda checkpoints: checkpoints.restore(state_of(0)), lambda _: read_checkpoint(two)):
            with open_checkpoint(two) as checkpoints, pytest.raises(ValueError, match=r" is damaged \(") as error:
                read(checkpoints)
            line = str(error.value)
            assert name == "checksums.json" or f"the content of {name} has changed" in line
            assert f": delete it to go on from step 1: rm -r {newest}; or, to use that one, give --checkpoint 1" in line
        (newest / name).write_bytes(content)
    with open_checkpoint(two) as checkpoints:
        assert checkpoints.restore(state_of(0))[2] == {"step": 2}


def test_a_checkpoint_that_is_damaged_too_is_not_offered(two, tmp_path):
    run = shutil.copytree(two, tmp_path / "run")
    for step in (1, 2):
        flip(run / f"checkpoints/{step}/metadata/metadata")
    message = "delete it to begin anew, as there is no earlier one that is whole$"
    with open_checkpoint(run) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(state_of(0))
    shutil.copytree(two / "checkpoints/2", run / "checkpoints/2", dirs_exist_ok=True)
    with open_checkpoint(run, 1) as checkpoints, pytest.raises(ValueError, match=r": give --checkpoint 2$"):
        checkpoints.restore(state_of(0))


def test_files_are_compared_with_their_sums_once(two, monkeypatch):
    read, folders = sums._read, []
    monkeypatch.setattr(sums, "_read", lambda folder: folders.append(folder) or read(folder))
    with open_checkpoint(two) as checkpoints:
        for use in (lambda: checkpoints.restore(state_of(0)), checkpoints.metadata):
            use()
            assert folders == [two / "checkpoints/2"]
            folders.clear()


def test_a_checkpoint_without_sums_is_read_as_before(two, tmp_path):
    run = shutil.copytree(two, tmp_path / "run")
    (run / "checkpoints/2/checksums.json").unlink()
    with open_checkpoint(run) as checkpoints:
        assert checkpoints.restore(state_of(0))[2] == {"step": 2}


def test_sums(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"content")
    (tmp_path / "c").write_bytes(b"")
    write_sums(tmp_path)
    check_contents(tmp_path)
    (tmp_path / "later").touch()
    check_contents(tmp_path)
    (tmp_path / "a/b").write_bytes(b"Content")
    check_sizes(tmp_path)
    with pytest.raises(ValueError, match=r"^the content of a/b has changed$"):
        check_contents(tmp_path)
    (tmp_path / "a/b").write_bytes(b"conten")
    with pytest.raises(ValueError, match=r"^a/b has 6 of 7 bytes$"):
        check_sizes(tmp_path)
    (tmp_path / "a/b").unlink()
    with pytest.raises(ValueError, match=r"^a/b is missing$"):
        check_sizes(tmp_path)
    for text in ("{", "[]", '{"a": 1}', '{"../a": [1, 2]}'):
        (tmp_path / "checksums.json").write_text(text)
        with pytest.raises(ValueError, match=r"^checksums\.json (is damaged|names files outside)"):
            check_sizes(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a prepared data set of three images, and its settings."""
    root = tmp_path_factory.mktemp("prepared")
    files = VocFiles(root / "data")
    for name in ("a", "b", "c"):
        files.image(name, object_xml())
    files.split("train", "a", "b")
    files.split("test", "c")
    config = DataConfig(root=str(root / "data"), tfds_dir=str(root / "tfds"))
    return open_dataset("folder/train", config).directory, config


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of it, to be damaged: BUILDER/CONFIGURATION/VERSION."""
    folder, _ = prepared
    return shutil.copytree(folder, tmp_path.joinpath("tfds", *folder.parts[-3:]))


def opened(folder: Path) -> PreparedDataset:
    return PreparedDataset("folder/train", folder, "train")


@pytest.mark.parametrize("whole_way", [False, True])
def test_a_prepared_file_that_is_cut_or_missing_is_named_at_the_start(prepared, copied, whole_way):
    """At its opening, and at the search for the folder of its images."""
    config = dataclasses.replace(prepared[1], tfds_dir=str(copied.parents[2]))
    opened = (lambda _: open_dataset("folder/train", config)) if whole_way else globals()["opened"]
    noted = [name for name in files_of(copied) if name != "checksums.json" and not name.startswith("frcnn_index")]
    assert any(name.endswith("of-00001") for name in noted)
    for name in noted:
        content = (copied / name).read_bytes()
        for damage, reason in ((lambda p: os.truncate(p, 1), r"has 1 of \d+ bytes"), (os.unlink, "is missing")):
            damage(copied / name)
            with pytest.raises(ValueError, match=rf"^{copied} is damaged \({name} {reason}\): remove") as error:
                opened(copied)
            assert str(error.value).endswith(f"and it is prepared again: rm -r {copied}")
            (copied / name).write_bytes(content)
    assert len(opened(copied)) == 2


def test_a_bit_of_a_prepared_file_is_noticed_by_verify(copied):
    opened(copied).check_images()
    for name in files_of(copied):
        if name != "checksums.json" and not name.startswith("frcnn_index"):
            content = (copied / name).read_bytes()
            flip(copied / name)
            with pytest.raises(ValueError, match=rf"rm -r {copied}$"):
                opened(copied).check_images()
            (copied / name).write_bytes(content)


def test_an_image_that_cannot_be_read_is_named(copied):
    (records,) = copied.glob("*train.array_record*")
    content = bytearray(records.read_bytes())
    for at in range(0, len(content), 7):
        content[at] ^= 0x55
    records.write_bytes(content)
    images = DecodedImages(opened(copied))
    search = ProposalConfig(method="selective_search_fast", workers=1)
    for read in (lambda: images[0], lambda: open_proposals(opened(copied), search, progress=False)):
        with pytest.raises(
            ValueError, match=rf"^folder/train: image [ab]: {copied} is damaged \(.+\): remove"
        ) as error:
            read()
        assert str(error.value).endswith(f"and it is prepared again: rm -r {copied}")
        assert "\n" not in str(error.value)
    assert images.being_read() == []


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, 100), lambda path: path.write_bytes(b"")])
def test_a_damaged_index_is_named_and_made_anew(copied, caplog, damage):
    (index,) = copied.glob("frcnn_index_train.npz")
    whole = opened(copied)
    damage(index)
    again = opened(copied)
    assert f"{index} is damaged (" in caplog.text
    assert again.fingerprint == whole.fingerprint
    caplog.clear()
    assert opened(copied).fingerprint == whole.fingerprint
    assert caplog.text == ""


COMPILE = """
import os, sys, warnings
from pathlib import Path
import jax, jax.numpy as jnp

def value():
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3)))[0, 0])

folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
first = value()
entries = [path for path in folder.iterdir() if path.name.endswith("-cache")]
assert entries
contents = [path.read_bytes() for path in entries]
for damage in (lambda c: c[:len(c) // 2], lambda c: c[:99] + bytes([c[99] ^ 8]) + c[100:], lambda c: b"", None):
    for path, content in zip(entries, contents):
        path.unlink() if damage is None else path.write_bytes(damage(content))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert value() == first
    if damage is not None:
        assert any("persistent compilation cache" in str(warning.message) for warning in seen), seen
    else:
        assert all(path.exists() for path in entries)
"""


def test_a_damaged_compile_cache_is_named_and_not_used(tmp_path):
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", COMPILE], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
