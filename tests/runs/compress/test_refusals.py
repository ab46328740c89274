"""Refusals of compression, which overwrites and leaves nothing."""

import dataclasses
import shutil

import jax
import pytest

from frcnn_jax.checkpoint import Checkpoints
from frcnn_jax.runs.compress import compress_run
from frcnn_jax.training.loop import train
from frcnn_jax.training.workdir import claim_workdir, read_config
from tests.runs.compress.reading import SMALL, contents, stored_state, with_ranks
from tests.training.runs import run_config


def other_step(folder, data):
    train(with_ranks(run_config(data, steps=5), **SMALL), folder)


def other_parameters(folder, data):
    """The same settings and step, from other weights."""
    state, key, position = stored_state(folder)
    checkpoints = Checkpoints(folder)
    metadata = checkpoints.metadata()
    checkpoints.close()
    shutil.rmtree(folder / "checkpoints")
    changed = dataclasses.replace(state, trainable=jax.tree.map(lambda x: x + 1, state.trainable))
    checkpoints = Checkpoints(folder)
    checkpoints.save(changed, key, position, metadata)
    checkpoints.close()


def no_run(folder, data):
    shutil.rmtree(folder / "checkpoints")


def half_a_run(folder, data):
    (folder / "config.json").write_text("{")


CHANGES = {
    other_step: r"holds another run, its settings are not those of .*whole with fc6_rank=6, fc7_rank=3: give another",
    other_parameters: "holds another run, its parameters are not those of",
    no_run: "already exists and is not a compressed run: give another --out",
    half_a_run: "already exists and is not a compressed run",
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_nothing_is_overwritten(workdir, compressed, data, tmp_path, change):
    folder = tmp_path / "out"
    shutil.copytree(compressed, folder)
    change(folder, data)
    before = contents(folder)
    with pytest.raises(FileExistsError, match=CHANGES[change]) as caught:
        compress_run(workdir, folder, **SMALL)
    assert str(caught.value).startswith(str(folder))
    assert contents(folder) == before


def test_a_run_that_went_on_is_another(workdir, compressed, data, tmp_path):
    shutil.copytree(workdir, tmp_path / "whole")
    train(run_config(data, steps=5), tmp_path / "whole")
    config = read_config(workdir)
    (tmp_path / "whole/config.json").unlink()
    claim_workdir(tmp_path / "whole", config)
    with pytest.raises(FileExistsError, match=r"holds another run, it is at step 4, .*whole at 5: give another --out"):
        compress_run(tmp_path / "whole", compressed, **SMALL)


def test_faults(workdir, compressed, data, tmp_path):
    out = tmp_path / "out"
    cases = [
        ((workdir, out), {}, ValueError, "no rank is given for fc6 or fc7"),
        ((workdir, out), {"fc6_rank": 33}, ValueError, r"^fc6: rank 33 is not in 1 \.\.\. 32: the layer is 144 x 32$"),
        ((workdir, out), {"fc7_rank": 0}, ValueError, r"^model\.fc7_rank must be at least 1, not 0$"),
        (
            (compressed, out),
            {"fc6_rank": 3},
            ValueError,
            r"is compressed already: its model has fc6_rank=6, fc7_rank=3",
        ),
        ((workdir, workdir), SMALL, ValueError, "which is only read"),
        ((workdir, workdir / "a/b"), SMALL, ValueError, "which is only read"),
        ((tmp_path / "none", out), SMALL, FileNotFoundError, "none holds no run"),
    ]
    before = contents(workdir)
    for arguments, ranks, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            compress_run(*arguments, **ranks)
        assert "\n" not in str(caught.value)
    claim_workdir(tmp_path / "empty", run_config(data))
    with pytest.raises(FileNotFoundError, match="empty holds no checkpoint yet"):
        compress_run(tmp_path / "empty", out, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["config.json"]
    assert contents(workdir) == before


def test_stopped_half_way_it_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(Checkpoints, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        compress_run(workdir, tmp_path / "a/out", **SMALL)
    assert list((tmp_path / "a").iterdir()) == []
