"""Stored features: reading back, restart after a kill, refusal of stale or too large stores."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import frcnn_jax
from frcnn_jax.comparison.feature_store import FeatureStore, fingerprint, store_bytes, write_features
from frcnn_jax.locks import FolderInUseError

COUNTS, MADE_FROM = [3, 0, 2], {"weights": "abc", "size": 227}


def rows(index, features=4):
    return (np.arange(COUNTS[index] * features, dtype=np.float32).reshape(-1, features) + 100 * index) / 8


def write(folder, images=(0, 1, 2), **options):
    with write_features(folder, COUNTS, 4, **{"made_from": MADE_FROM, **options}) as store:
        for index in images:
            store.write(index, rows(index))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    store = FeatureStore.open(tmp_path, MADE_FROM)
    assert (len(store), store.shape, store.offsets.tolist()) == (3, (5, 4), [0, 3, 3, 5])
    for index in range(3):
        assert store[index].dtype == dtype
        np.testing.assert_array_equal(store[index], rows(index))
    with pytest.raises(ValueError, match="read-only"):
        store[0][0] = 1
    chosen = store.select(np.array([1, 4]))
    assert (chosen.shape, len(chosen), chosen[:1].dtype) == ((2, 4), 2, np.float32)
    np.testing.assert_array_equal(chosen[np.array([1, 0])], [rows(2)[1], rows(0)[1]])
    assert (tmp_path / "features.bin").stat().st_size == store_bytes(COUNTS, 4, dtype) == store.nbytes
    assert store.damaged() == []


def test_a_store_goes_on_with_what_is_missing(tmp_path):
    write(tmp_path, images=(1, 2))
    with pytest.raises(ValueError, match="features of 2 of 3 images: run the same command again"):
        FeatureStore.open(tmp_path, MADE_FROM)
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM) as store:
        assert store.missing() == [0]
        store.write(0, rows(0))
        assert store.missing() == []
    np.testing.assert_array_equal(FeatureStore.open(tmp_path, MADE_FROM)[2], rows(2))


def test_what_is_damaged_is_made_again(tmp_path):
    write(tmp_path)
    with open(tmp_path / "features.bin", "r+b") as file:
        file.seek(3 * 16)
        file.write(b"\x01")
    assert FeatureStore.open(tmp_path, MADE_FROM).damaged() == [2]
    # A whole store is not read again, one that goes on is.
    with open(tmp_path / "written.bin", "r+b") as file:
        file.write(bytes(8))
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM) as store:
        assert store.missing() == [0, 2]


def test_marks_without_settings_do_not_count(tmp_path):
    """Left by a process that was killed at the start, with a folder that was used before."""
    write(tmp_path)
    (tmp_path / "settings.json").unlink()
    with write_features(tmp_path, COUNTS, 4, made_from={"weights": "xyz"}) as store:
        assert store.missing() == [0, 1, 2]


def test_a_truncated_file_is_completed_with_computed_rows(tmp_path):
    """Rows of images 0 and 1 are left."""
    write(tmp_path)
    os.truncate(tmp_path / "features.bin", 3 * 16 + 5)
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM) as store:
        assert store.missing() == [2]


@pytest.mark.parametrize("last", ["features", "written"])
def test_a_killed_writer_leaves_whole_images(tmp_path, last):
    """Killed between the rows of an image and its mark, and between two images."""
    code = f"""
        import os, signal
        import numpy as np
        from frcnn_jax.comparison.feature_store import write_features
        with write_features({str(tmp_path)!r}, {COUNTS}, 4, made_from={MADE_FROM}) as store:
            store.write(2, np.ones((2, 4), np.float32))
            mark = store._mark
            def die(index, value):
                if value and {last!r} == "written":
                    mark(index, value)
                if value:
                    os.kill(os.getpid(), signal.SIGKILL)
                mark(index, value)
            store._mark = die
            store.write(0, np.ones((3, 4), np.float32))
    """
    root = Path(frcnn_jax.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, timeout=200)
    assert result.returncode == -signal.SIGKILL
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM) as store:
        assert store.missing() == ([0, 1] if last == "features" else [1])


def test_stale_features_are_refused(tmp_path):
    write(tmp_path)
    other = {**MADE_FROM, "weights": "xyz"}
    message = "features made from other weights: 'abc' there and 'xyz' here. Delete the folder"
    with pytest.raises(ValueError, match=message):
        FeatureStore.open(tmp_path, other)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, made_from=other)
    with pytest.raises(ValueError, match="other padding: None there and 16 here"):
        FeatureStore.open(tmp_path, {**MADE_FROM, "padding": 16})
    with pytest.raises(ValueError, match="stored with other dtype"):
        write(tmp_path, dtype="float16")
    np.testing.assert_array_equal(FeatureStore.open(tmp_path, MADE_FROM)[0], rows(0))


def test_features_that_the_disk_cannot_hold_are_refused_before_any_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=79))
    with pytest.raises(OSError, match=r"features take 8e-08 GB, and 7.9e-08 GB are free: free some space, store them"):
        write(tmp_path)
    assert not (tmp_path / "settings.json").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=80))
    write(tmp_path, images=[0])
    # What it has taken already is not needed once more.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    write(tmp_path)


def test_the_whole_space_is_taken_from_the_start(tmp_path):
    with write_features(tmp_path, [1000], 1000, made_from={}):
        assert os.stat(tmp_path / "features.bin").st_blocks * 512 >= 4_000_000


def test_one_writer_at_a_time(tmp_path):
    with (
        write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM),
        pytest.raises(FolderInUseError, match="writing features"),
    ):
        write(tmp_path)


def test_wrong_features_are_refused(tmp_path):
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM, dtype="float16") as store:
        with pytest.raises(ValueError, match=r"image 0 has features \[3, 4\], not \[2, 4\]"):
            store.write(0, rows(0)[:2])
        with pytest.raises(ValueError, match="image 2 are not finite in float16: store them as float32"):
            store.write(2, np.full((2, 4), 1e6, np.float32))
        assert store.missing() == [0, 1, 2]
    with pytest.raises(ValueError, match="float32 or float16, not int8"):
        write(tmp_path / "other", dtype="int8")


def test_other_faults_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no features are stored there"):
        FeatureStore.open(tmp_path, MADE_FROM)
    write(tmp_path)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "version": 9}))
    with pytest.raises(ValueError, match="format version 9; this program reads version 1"):
        FeatureStore.open(tmp_path, MADE_FROM)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings.json: damaged \(.*\): delete the folder"):
        FeatureStore.open(tmp_path, MADE_FROM)
    path.write_text(json.dumps(settings))
    os.truncate(tmp_path / "features.bin", 4)
    with pytest.raises(ValueError, match=r"features.bin has 4 bytes, not 80"):
        FeatureStore.open(tmp_path, MADE_FROM)


def test_nothing_at_all(tmp_path):
    with write_features(tmp_path, [], 4, made_from={}) as store:
        assert store.missing() == []
    assert FeatureStore.open(tmp_path, {}).shape == (0, 4)


def test_fingerprints_tell_names_shapes_and_values_apart():
    tree = {"a": jnp.arange(4.0), "b": jnp.zeros(2)}
    assert fingerprint(tree) == fingerprint({"b": np.zeros(2, np.float32), "a": np.arange(4, dtype=np.float32)})
    others = [{**tree, "b": jnp.ones(2)}, {"a": tree["a"], "c": tree["b"]}, {**tree, "a": tree["a"].reshape(2, 2)}]
    assert len({fingerprint(other) for other in [tree, *others]}) == 4


def test_an_image_whose_rows_cannot_be_written_is_missing(tmp_path, monkeypatch):
    with write_features(tmp_path, COUNTS, 4, made_from=MADE_FROM) as store:
        store.write(0, rows(0))
        monkeypatch.setattr(os, "pwrite", fail_on_rows(os.pwrite))
        with pytest.raises(
            OSError, match=r"No space left on device: free some space, and give the same .*features.bin"
        ):
            store.write(0, rows(0))
        assert store.missing() == [0, 1, 2]


def fail_on_rows(pwrite):
    """`os.pwrite` on a disk that has space for marks alone."""

    def write(descriptor, content, offset):
        if len(content) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, content, offset)

    return write
