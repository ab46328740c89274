"""Fixtures of the tests that run whole systems."""

import pytest

from tests.comparison.cases import shrink_tiny
from tests.training.conftest import data as data


@pytest.fixture(scope="module")
def small():
    """`tiny` with few channels, as the only architecture."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_tiny(patch.setattr)
        yield
