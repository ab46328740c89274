"""A checkpoint that is damaged is one line that says what to do, wherever it is read."""

import dataclasses
import errno
import os
import re
import shutil

import jax.numpy as jnp
import pytest

from frcnn_jax.checkpoint import open_checkpoint
from frcnn_jax.config import to_json
from frcnn_jax.models import architectures
from frcnn_jax.runs.compress import compress_run
from frcnn_jax.runs.detector import load_detector
from frcnn_jax.training.loop import train
from frcnn_jax.weights.formats.checkpoints import read_checkpoint
from tests.test_checkpoint import save, state_of
from tests.training.runs import run_config, write_data
from tests.weights.detectors import SMALL_TINY, save_run, small_detector

pytestmark = pytest.mark.usefixtures("unfinished_reads")


def remove(name):
    return lambda folder: shutil.rmtree(folder / name)


def overwrite(pattern, text):
    def damage(folder):
        for path in folder.glob(pattern):
            path.write_text(text)

    return damage


def largest(folder):
    return max(
        (path for path in (folder / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def cut(folder):
    os.truncate(largest(folder), 1000)


def remove_largest(folder):
    largest(folder).unlink()


DAMAGES = {
    "no metadata": (remove("metadata"), "it has no metadata"),
    "no arrays": (remove("arrays"), "it has no arrays"),
    "metadata that is no JSON": (overwrite("metadata/*", "{"), "Expecting property name"),
    "metadata of another form": (overwrite("metadata/metadata", "[]"), "list indices"),
    "empty metadata": (overwrite("metadata/metadata", "{}"), "its metadata has no '(format|position)'"),
    "a list of arrays that is no JSON": (overwrite("arrays/_METADATA", "{"), "Expecting property name"),
    "an array cut off": (cut, "OUT_OF_RANGE|Truncated|DATA_LOSS"),
    "an array missing": (remove_largest, "NOT_FOUND|No such file|FAILED_PRECONDITION"),
}
BY_SIZE = r"(metadata|arrays)/\S+ (has \d+ of \d+ bytes|is missing)|it has no "
READERS = {
    "metadata": lambda checkpoints, folder: checkpoints.metadata(),
    "restore": lambda checkpoints, folder: checkpoints.restore(state_of(0)),
    "read": lambda checkpoints, folder: read_checkpoint(folder),
}


@pytest.mark.parametrize("noted", [True, False], ids=["sizes noted", "of an earlier version"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(two, tmp_path, damage, noted):
    run = shutil.copytree(two, tmp_path / "run")
    newest = run / "checkpoints/2"
    hurt, reason = DAMAGES[damage]
    if not noted:
        for note in run.rglob("checksums.json"):
            note.unlink()
    hurt(newest)
    refused = 0
    for name, read in READERS.items():
        # Arrays are not looked into for the metadata alone.
        if name == "metadata" and not noted and "array" in damage and damage != "no arrays":
            continue
        with (
            open_checkpoint(run) as checkpoints,
            pytest.raises(ValueError, match=BY_SIZE if noted else reason) as error,
        ):
            read(checkpoints, run)
        line = str(error.value)
        assert line.startswith(f"{newest} is damaged (")
        delete = f"rm -r {newest}"
        assert line.endswith(f"): delete it to go on from step 1: {delete}; or, to use that one, give --checkpoint 1")
        assert "\n" not in line
        assert len(line) < 2 * len(str(newest)) + 320
        refused += 1
    assert refused >= 2
    shutil.rmtree(newest)
    with open_checkpoint(run) as checkpoints:
        assert checkpoints.restore(state_of(0))[2] == {"step": 1}


def test_the_only_checkpoint(tmp_path):
    save(tmp_path, 1)
    shutil.rmtree(tmp_path / "checkpoints/1/metadata")
    message = "is damaged (it has no metadata): delete it to begin anew, as there is no earlier one"
    with open_checkpoint(tmp_path) as checkpoints, pytest.raises(ValueError, match=re.escape(message)):
        checkpoints.metadata()


@pytest.mark.parametrize(
    ("params", "arrays"), [({"kernel": jnp.zeros(3)}, 1), ({"kernel": jnp.zeros(300_000), "more": jnp.zeros(1)}, 1)]
)
def test_another_model_is_no_damage(two, params, arrays):
    state = dataclasses.replace(state_of(0), trainable=params)
    with open_checkpoint(two) as checkpoints, pytest.raises(ValueError, match=r"does not fit the model") as error:
        checkpoints.restore(state)
    assert f"in {arrays} arrays: state/trainable/" in str(error.value)
    assert "damaged" not in str(error.value)


def test_what_the_system_does_not_let_be_read_is_no_damage(two, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    with open_checkpoint(two) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", refuse)
        with pytest.raises(OSError, match=rf"^{two}/checkpoints/2 cannot be read: Permission denied$"):
            checkpoints.metadata()


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/arrays"),
        FileNotFoundError("Metadata file (named _METADATA) does not exist at /elsewhere/arrays."),  # Orbax's
    ],
)
def test_a_missing_path_elsewhere_is_no_damage(two, error):
    with open_checkpoint(two) as checkpoints:
        with pytest.raises(FileNotFoundError, match="/elsewhere/arrays"), checkpoints.damage_named():
            raise error
        inside = str(error).replace("/elsewhere", str(checkpoints.folder))
        with pytest.raises(ValueError, match=r"checkpoints/2 is damaged \("), checkpoints.damage_named():
            raise FileNotFoundError(inside)


def test_a_setting_of_another_version_is_no_damage(two, tmp_path):
    run = shutil.copytree(two, tmp_path / "run")
    path = run / "checkpoints/2/metadata/metadata"
    path.write_text(path.read_text().replace('"momentum"', '"momentun"'))
    (run / "checkpoints/2/checksums.json").unlink()
    with open_checkpoint(run) as checkpoints, pytest.raises(ValueError, match=r"unknown settings momentun") as error:
        checkpoints.metadata()
    assert "damaged" not in str(error.value)


def test_training_detecting_and_compressing(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "ARCHITECTURES", {"tiny": SMALL_TINY})
    run = tmp_path / "run"
    save_run(small_detector(), run)
    write_data(tmp_path / "data")
    trained = tmp_path / "trained"
    save(trained, 3)
    (trained / "config.json").write_text(to_json(run_config(tmp_path / "data")))
    for folder, step in ((run, 7), (trained, 3)):
        shutil.rmtree(folder / f"checkpoints/{step}/metadata")
    for use, folder, step in (
        (lambda: load_detector(run), run, 7),  # as evaluate, detect and export do
        (lambda: compress_run(run, tmp_path / "out", fc6_rank=2), run, 7),
        (lambda: train(run_config(tmp_path / "data"), trained), trained, 3),
    ):
        with pytest.raises(
            ValueError, match=rf"^{folder}/checkpoints/{step} is damaged \(it has no metadata\): delete"
        ):
            use()
