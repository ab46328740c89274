"""A small run, and a compressed one made from it."""

import pytest

from frcnn_jax.runs.compress import compress_run, compressed_workdir
from frcnn_jax.training.loop import train
from tests.runs.compress.reading import SMALL
from tests.training.runs import run_config, shrink_tiny, write_data


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="package", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        yield


@pytest.fixture(scope="package")
def workdir(small, data, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(run_config(data, steps=4), folder)
    return folder


@pytest.fixture(scope="package")
def compressed(workdir):
    out = compressed_workdir(workdir, **SMALL)
    assert compress_run(workdir, out, **SMALL)
    return out
