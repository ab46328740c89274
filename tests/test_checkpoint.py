"""Checkpoints that cannot be written, and what is left of them."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, open_checkpoint, read_chosen, store
from frcnn_jax.checkpoint.background import Background
from frcnn_jax.checkpoint.metadata import decode_metadata, encode_metadata
from frcnn_jax.cli.run import run
from frcnn_jax.config import Config, DataConfig
from frcnn_jax.models.pixels import CENTERED_PIXELS
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.statistics import identity_statistics

ROOT = Path(__file__).parents[1]
METADATA = CheckpointMetadata(("cat", "dog"), CENTERED_PIXELS, Config(), "abc", ("def",), "ignore")


def state_of(step: int) -> TrainState:
    """300,000 numbers that cannot be compressed."""
    params = {"kernel": jax.random.normal(jax.random.key(step), (300_000,))}
    return TrainState(jnp.int32(step), params, {}, {}, identity_statistics(3))


def save(workdir: Path, step: int, metadata: CheckpointMetadata = METADATA) -> None:
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.save(state_of(step), jax.random.key(0), {"step": step}, metadata)
    finally:
        checkpoints.close()


def save_with_little_space(workdir: str) -> None:
    """Saves step 2 as a script does, where no file may be longer than 200 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    run(lambda: save(Path(workdir), 2))


def assert_whole(workdir: Path) -> None:
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["1"]
    with open_checkpoint(workdir) as checkpoints:
        state, _, position = checkpoints.restore(state_of(0))
        assert checkpoints.metadata() == METADATA
    assert position == {"step": 1}
    assert jnp.array_equal(state.trainable["kernel"], state_of(1).trainable["kernel"])


def test_a_full_disk_is_one_line_and_earlier_checkpoints_are_whole(tmp_path):
    save(tmp_path, 1)
    code = f"from tests.test_checkpoint import *; save_with_little_space({str(tmp_path)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"-c: cannot write the checkpoint of step 2 to {tmp_path}/checkpoints: File too large. "
        "Checkpoints of earlier steps are whole\n"
    )
    assert_whole(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_folder_that_is_read_only(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    folder.chmod(0o555)
    try:
        with pytest.raises(OSError, match=rf"cannot write the checkpoint of step 2 to {folder}: Permission denied\. "):
            save(tmp_path, 2)
    finally:
        folder.chmod(0o755)
    assert_whole(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="checkpoints") as error:
        save(tmp_path, 1)
    assert "\n" not in str(error.value)


def test_a_format_of_a_later_version(tmp_path):
    save(tmp_path, 1, dataclasses.replace(METADATA, format=99))
    with (
        open_checkpoint(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="checkpoint format 99, not 1 or 2"),
    ):
        checkpoints.metadata()


def test_reading_creates_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"), open_checkpoint(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_is_removed_in_silence(tmp_path, caplog):
    save(tmp_path, 1)
    left = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "half").write_text("half")
    caplog.clear()
    save(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
    assert "temporary directory" not in caplog.text


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Checkpoints of which the second is written only when the event is set."""
    checkpoints, event = Checkpoints(tmp_path), threading.Event()
    save = checkpoints._manager.save

    def save_later(step, **arguments):
        assert step != 2 or event.wait(timeout=60)
        return save(step, **arguments)

    monkeypatch.setattr(checkpoints._manager, "save", save_later)
    yield checkpoints, event
    event.set()
    checkpoints.close()


def begin(checkpoints: Checkpoints, step: int, **options) -> None:
    checkpoints.save(state_of(step), jax.random.key(0), {"step": step}, METADATA, wait=False, **options)


def test_a_checkpoint_is_written_beside_the_steps(tmp_path, held):
    checkpoints, event = held
    state, written = state_of(2), []
    checkpoints.save(state, jax.random.key(0), {"step": 2}, METADATA, wait=False, then=lambda: written.append(2))
    assert checkpoints.latest is None
    assert written == []
    for buffer in jax.tree.leaves(state):
        buffer.delete()  # as the next step does, to which the state is given away
    event.set()
    checkpoints.wait()
    assert (checkpoints.latest, written) == (2, [2])
    restored, _, position = checkpoints.restore(state_of(0))
    assert jnp.array_equal(restored.trainable["kernel"], state_of(2).trainable["kernel"])
    assert position == {"step": 2}


def test_a_checkpoint_waits_for_the_one_before(tmp_path, held):
    checkpoints, event = held
    begin(checkpoints, 2)
    threading.Timer(0.2, event.set).start()
    begin(checkpoints, 3)
    assert checkpoints.steps[0] == 2
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


@pytest.mark.parametrize("call", ["wait", "check", "close", "save"])
def test_an_error_beside_the_steps_is_raised_by_the_next_call(tmp_path, monkeypatch, call):
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    begin(checkpoints, 2)
    assert checkpoints._background._ended.wait(60)
    calls = {name: getattr(checkpoints, name) for name in ("wait", "check", "close")}
    with pytest.raises(OSError, match=r"cannot write the checkpoint of step 2 to .*: No space left on device"):
        calls.get(call, lambda: begin(checkpoints, 3))()
    checkpoints.close()
    assert_whole(tmp_path)


def test_nothing_waits_for_a_checkpoint_that_is_abandoned(tmp_path, held):
    checkpoints, event = held
    begin(checkpoints, 2)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "checkpoint")
    checkpoints.abandon()
    checkpoints.close()
    assert thread.is_alive()
    assert thread.daemon
    event.set()
    thread.join()


@pytest.mark.parametrize(("setting", "orientation"), [("auto", "apply"), ("apply", "apply"), ("ignore", "ignore")])
def test_orientation_of_earlier_checkpoints_is_that_of_the_setting(setting, orientation):
    config = Config(data=DataConfig(orientation=setting))
    described = encode_metadata(dataclasses.replace(METADATA, config=config))
    del described["orientation"]
    assert decode_metadata(described, config).orientation == orientation


def test_a_task_for_which_no_thread_can_be_started_is_done_in_this_one(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    background, done = Background(), []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        background.start(lambda: done.append(threading.current_thread()))
    assert background._ended.is_set()
    background.wait()
    assert done == [threading.current_thread()]


def test_a_step_before_the_newest_is_refused(tmp_path):
    """Orbax declines it in silence."""
    save(tmp_path, 3)
    message = rf"step 2 cannot be written to {tmp_path}/checkpoints, which has one of step 3: give another workdir"
    with pytest.raises(ValueError, match=message):
        save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_what_orbax_declines_is_no_success(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "save", lambda *_, **__: False)
    begin(checkpoints, 1)
    with pytest.raises(OSError, match=r"cannot write the checkpoint of step 1 to .*: Orbax declined to save it\. "):
        checkpoints.close()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_without_its_checksums_is_said_to_be_whole_and_gets_them(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    save(tmp_path, 1)
    written = []
    with closing(Checkpoints(tmp_path)) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(store, "write_sums", full)
        begin(checkpoints, 2, then=lambda: written.append(2))
        message = (
            rf"^the checkpoint of step 2 in {tmp_path}/checkpoints is whole, but its checksums cannot be written: No"
        )
        with pytest.raises(OSError, match=message):
            checkpoints.wait()
    assert written == []
    sums = tmp_path / "checkpoints/2/checksums.json"
    with open_checkpoint(tmp_path) as checkpoints:
        assert checkpoints.restore(state_of(0))[2] == {"step": 2}
        assert not sums.exists()  # who only reads writes nothing
        checkpoints.add_sums()
    before = sums.stat()
    with open_checkpoint(tmp_path) as checkpoints:
        checkpoints.add_sums()
    assert sums.stat() == before


@pytest.mark.parametrize("checkpoint", [None, "latest", 1])
def test_a_checkpoint_that_is_removed_while_it_is_read_is_not_called_damaged(tmp_path, checkpoint):
    save(tmp_path, 1)
    read = []

    def metadata_after_removal(checkpoints):
        if not read:
            save(tmp_path, 2)
            shutil.rmtree(checkpoints.folder)
        read.append(checkpoints.step)
        return checkpoints.metadata()

    if checkpoint == 1:
        with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 1: its checkpoints are of step 2$"):
            read_chosen(tmp_path, checkpoint, metadata_after_removal)
    else:
        assert read_chosen(tmp_path, checkpoint, metadata_after_removal) == METADATA
        assert read == [1, 2]
    message = rf"^{tmp_path}/checkpoints/2 was removed while it was read, as by a training .*: start again$"
    for use in (lambda opened: opened.metadata(), lambda opened: opened.restore(state_of(0))):
        save(tmp_path, 2)
        with open_checkpoint(tmp_path) as opened:
            shutil.rmtree(opened.folder)
            with pytest.raises(FileNotFoundError, match=message):
                use(opened)


def test_a_removal_that_has_only_begun_is_not_called_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    with open_checkpoint(tmp_path) as checkpoints:
        shutil.rmtree(checkpoints.folder / "metadata")
        advice = checkpoints._advice
        monkeypatch.setattr(checkpoints, "_advice", lambda: shutil.rmtree(checkpoints.folder) or advice())
        with pytest.raises(FileNotFoundError, match="was removed while it was read"):
            checkpoints.metadata()
