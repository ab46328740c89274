"""Fixtures of the tests with several processes."""

import pytest

from tests.training.runs import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a small data set with its proposals."""
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root
