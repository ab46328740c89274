"""Test sets that the run was trained on, which an evaluation says."""

import dataclasses

import pytest

from frcnn_jax.config import Config, DataConfig
from frcnn_jax.runs.evaluate import _trained_on


@pytest.mark.parametrize(
    ("trained", "tested", "same"),
    [
        ("folder/train", "folder/train", True),
        ("folder/trainval", "folder/train", True),
        ("folder/train", "folder/trainval", True),
        ("folder/mine", "folder/mine", True),
        ("folder/trainval", "folder/test", False),
        ("folder/train", "folder/val", False),
        ("voc/2007/train", "folder/train", False),
    ],
)
def test_images_that_were_trained_on_are_known(trained, tested, same):
    before = Config(data=DataConfig(root="/a", train=(trained,)))
    now = dataclasses.replace(before, data=dataclasses.replace(before.data, test=tested))
    assert bool(_trained_on(before, now)) == same
    elsewhere = dataclasses.replace(now, data=dataclasses.replace(now.data, root="/b"))
    assert _trained_on(before, elsewhere) == {}
