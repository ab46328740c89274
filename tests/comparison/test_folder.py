"""The folder of a system: which settings its files belong to, also those of earlier versions."""

import json

import pytest

from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.comparison.stages.folder import check_folder, claim_folder, describe_features, describe_settings
from frcnn_jax.config import Config, replace

DEFAULTS = ComparisonConfig()


def describe(comparison=DEFAULTS, system="rcnn"):
    return describe_settings(Config(), comparison, system, getattr(comparison, system))


def claim(folder, description, without=()):
    """Claims a folder, and takes settings away that its version did not have."""
    folder.mkdir(exist_ok=True)
    claim_folder(folder, description)
    stored = json.loads((folder / "settings.json").read_text())
    for section, name in without:
        del stored[section][name]
    (folder / "settings.json").write_text(json.dumps(stored))


def test_regressors_of_features_that_were_not_scaled(tmp_path):
    """Those of an earlier version are refused until they are deleted, or used with the setting that describes them."""
    claim(tmp_path, describe(), without=[("regression", "feature_norm")])
    check_folder(tmp_path, describe())
    (tmp_path / "regressors.npz").write_bytes(b"")
    with pytest.raises(
        ValueError,
        match=r"regressors.npz was fitted with another regression.feature_norm, None and not 20.0: delete it and "
        r".*/tested to fit and test anew, or give --comparison.regression.feature-norm None$",
    ):
        check_folder(tmp_path, describe())
    unscaled = describe(replace(DEFAULTS, regression={"feature_norm": None}))
    claim_folder(tmp_path, unscaled)
    with pytest.raises(ValueError, match=r"None and not 20\.0"):
        check_folder(tmp_path, describe())
    (tmp_path / "regressors.npz").unlink()
    check_folder(tmp_path, describe())


def test_a_share_of_an_earlier_version_is_of_other_images(tmp_path):
    share = describe(replace(DEFAULTS, share=0.5))
    claim(tmp_path / "now", share)
    check_folder(tmp_path / "now", share)
    del share["images"]
    claim(tmp_path / "earlier", share)
    with pytest.raises(ValueError, match=r"earlier version from a share of other images, the first ones: delete it"):
        check_folder(tmp_path / "earlier", describe(replace(DEFAULTS, share=0.5)))
    assert "images" not in describe()


def test_windows_at_once_are_fixed_while_the_network_is_fine_tuned(tmp_path):
    """Each part of a batch has dropout of its own, but a part that does not fit into memory makes no checkpoint."""
    more = describe(replace(DEFAULTS, rcnn={"windows_at_once": 16}))
    claim(tmp_path, describe())
    check_folder(tmp_path, more)
    (tmp_path / "checkpoints/500").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"made with another settings.windows_at_once, 32 and not 16"):
        check_folder(tmp_path, more)
    (tmp_path / "network.npz").write_bytes(b"")
    check_folder(tmp_path, more)
    assert describe_features(more) == describe_features(describe())


def test_features_do_not_depend_on_their_scale():
    scaled, unscaled = describe(), describe(replace(DEFAULTS, regression={"feature_norm": None}))
    assert scaled != unscaled
    assert describe_features(scaled) == describe_features(unscaled)
    assert describe_features(scaled)["regression"]["ridge"] == 1000
