"""A folder in VOC format and the settings that name it."""

import pytest

from frcnn_jax.config import DataConfig
from tests.data.voc_files import standard_folder


@pytest.fixture
def files(tmp_path):
    return standard_folder(tmp_path / "set")


@pytest.fixture
def config(tmp_path, files):
    return DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"))
