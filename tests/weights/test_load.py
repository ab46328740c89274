"""Written weights are loaded back exactly; everything else is refused in one line that names the file."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from frcnn_jax.models.architectures import create_model
from frcnn_jax.runs.export import describe, export_arrays
from frcnn_jax.training.statistics import identity_statistics
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights, read_metadata
from frcnn_jax.weights.metadata import to_json
from tests.weights.detectors import PIXELS, save_run, small_detector, small_model

ROOT = Path(__file__).parents[2]
FILES = ["model.safetensors", "model.npz"]


@pytest.fixture(scope="module")
def detector():
    return small_detector()


@pytest.fixture(scope="module")
def run(detector, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    save_run(detector, workdir)
    return workdir


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


@pytest.mark.parametrize("name", FILES)
def test_round_trip_is_exact(detector, tmp_path, name):
    plain = dataclasses.replace(detector, statistics=identity_statistics(4))
    export_arrays(tmp_path / name, plain)
    assert_equal_trees(load_weights(tmp_path / name, detector.model), detector.params)


@pytest.mark.parametrize("name", FILES)
def test_statistics_are_folded_on_loading_and_apart_in_the_file(detector, tmp_path, name):
    export_arrays(tmp_path / name, detector)
    loaded = load_weights(str(tmp_path / name), detector.model)
    assert_equal_trees(loaded, fold_statistics(detector.params, detector.statistics))
    stored = safetensors.numpy.load_file(tmp_path / name) if name.endswith("s") else np.load(tmp_path / name)
    np.testing.assert_array_equal(stored["head/bbox_pred/kernel"], detector.params["head"]["bbox_pred"]["kernel"])


@pytest.mark.parametrize("name", FILES)
def test_bfloat16_parameters(tmp_path, name):
    detector = small_detector(param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
    export_arrays(tmp_path / name, dataclasses.replace(detector, statistics=identity_statistics(4)))
    assert_equal_trees(load_weights(tmp_path / name, detector.model), detector.params)


@pytest.mark.parametrize("inside", [".", "checkpoints"])
def test_run_folder(detector, run, inside, caplog):
    loaded = load_weights(run / inside, detector.model)
    assert not caplog.records
    assert_equal_trees(loaded, fold_statistics(detector.params, detector.statistics))


@pytest.mark.parametrize("name", [*FILES, "run"])
def test_metadata(detector, run, tmp_path, name):
    path = run
    if name != "run":
        path = tmp_path / name
        export_arrays(path, detector)
    metadata = read_metadata(path)
    assert to_json(metadata) == to_json(describe(detector))
    assert metadata.classes == ("one", "two", "three")
    assert metadata.num_classes == 4
    assert metadata.pixels == PIXELS
    np.testing.assert_array_equal(metadata.statistics.std, detector.statistics.std)
    assert (metadata.step, metadata.config) == (7, detector.config)


@pytest.mark.parametrize("change", [{"mean": (100.1, 110.2, 120.4)}, {"std": (1.0, 1.0, 1.0)}, {"order": "rgb"}])
def test_other_pixels(detector, tmp_path, change):
    export_arrays(tmp_path / "a.npz", detector)
    other = dataclasses.replace(PIXELS, **change)
    with pytest.raises(ValueError, match=r"a\.npz is for other pixels .* create the model with pixels=") as caught:
        load_weights(tmp_path / "a.npz", small_model(pixels=other))
    assert repr(PIXELS) in str(caught.value)
    assert repr(other) in str(caught.value)


def test_another_network(detector, tmp_path):
    """Named before the pixels, which are others too."""
    export_arrays(tmp_path / "a.npz", detector)
    other = create_model("resnet18", num_classes=4)
    with pytest.raises(ValueError, match=r"a\.npz holds tiny, the model is resnet18: create the model by that name"):
        load_weights(tmp_path / "a.npz", other)


def test_other_classes(detector, tmp_path):
    path = tmp_path / "a.safetensors"
    export_arrays(path, detector)
    wider, key, new = small_model(num_classes=6), jax.random.key(0), "head/(cls_score|bbox_pred)/.*"
    with pytest.raises(ValueError, match=r"a\.safetensors is for 4 classes, the model for 6, background included"):
        load_weights(path, wider)
    loaded = load_weights(path, wider, allow_missing=[new], allow_extra=[new], key=key)
    assert loaded["head"]["bbox_pred"]["bias"].shape == (24,)
    assert_equal_trees(loaded["backbone"], detector.params["backbone"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut short", "cut by one", "empty", "text", "start"])
def test_damaged_file(detector, tmp_path, name, damage):
    path = tmp_path / name
    export_arrays(path, detector)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut short": content[:1000],
            "cut by one": content[:-1],
            "empty": b"",
            "text": b"no weights at all\n" * 100,
            "start": b"\0" * 64 + content[64:],
        }[damage]
    )
    for read in (lambda p: load_weights(p, detector.model), read_metadata):
        if read is read_metadata and (name, damage) == ("model.npz", "start"):
            continue  # the metadata is elsewhere in the archive
        with pytest.raises(ValueError, match=rf"{name} cannot be read as weights: .") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_foreign_file(detector, tmp_path, name):
    path, arrays = tmp_path / name, {"weight": np.zeros(3, np.float32)}
    if name.endswith("npz"):
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=rf"{name} .*no metadata of frcnn_jax"):
        load_weights(path, detector.model)


def test_pickled_npz_is_not_run(detector, tmp_path):
    np.savez(tmp_path / "a.npz", __metadata__=np.array([{}], object))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        load_weights(tmp_path / "a.npz", detector.model)


@pytest.mark.parametrize("name", ["a.onnx", "a", "a.stablehlo"])
def test_unknown_kind(detector, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=rf"{name}: weights are read from \.caffemodel, \.h5, \.npz, \.pth, \.safetensors and from the folder",
    ):
        load_weights(tmp_path / name, detector.model)


def test_nothing_there(detector, tmp_path):
    for path in (tmp_path / "a.npz", tmp_path / "runs/typo"):
        with pytest.raises(FileNotFoundError, match=f"^there is no {path}$"):
            load_weights(path, detector.model)
        with pytest.raises(FileNotFoundError, match=f"^there is no {path}$"):
            read_metadata(path)


def test_folder_that_is_no_run(detector, tmp_path):
    with pytest.raises(ValueError, match="neither the workdir of a run"):
        load_weights(tmp_path, detector.model)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="no checkpoint yet"):
        load_weights(tmp_path, detector.model)


def test_a_safetensors_file_of_another_program(detector, tmp_path):
    safetensors.numpy.save_file({"conv_stem.weight": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"no metadata of frcnn_jax, and its first array is conv_stem\.weight; torchv"):
        load_weights(tmp_path / "a.safetensors", detector.model)
