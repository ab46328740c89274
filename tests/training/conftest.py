"""Fixtures of the tests of whole runs."""

import pytest

from tests.training.runs import share_steps, shrink_tiny, write_data


@pytest.fixture(scope="module")
def small():
    """`tiny` with few channels, whose step is made once."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        share_steps(patch.setattr)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a small data set with its proposals."""
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root
