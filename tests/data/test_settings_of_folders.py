"""Settings of folders, which change nothing in VOC itself."""

import pytest

from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset


@pytest.mark.parametrize(
    "setting", [{"classes": ("cat",)}, {"rename": ("cat=dog",)}, {"corners": "zero_based"}, {"format": "coco"}]
)
def test_settings_of_folders_are_refused_where_none_is_named(setting, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("frcnn_jax.data.prepared.prepare.prepare_voc", lambda *given: opened.append(given) or tmp_path)
    monkeypatch.setattr("frcnn_jax.data.dataset.PreparedDataset", lambda *given: given[0])
    (name,) = setting
    with pytest.raises(ValueError, match=rf"data\.{name} = .* changes nothing in voc/2007/test: leave it out, or name"):
        open_dataset("voc/2007/test", DataConfig(**setting))
    for sets in ({"train": ("folder/train",)}, {"test": "folder/test"}, {"validation": "folder/val"}):
        assert open_dataset("voc/2007/test", DataConfig(**setting, **sets)) == "voc/2007/test"
    assert open_dataset("voc/2007/valid", DataConfig()) == "voc/2007/validation"
    assert len(opened) == 4
