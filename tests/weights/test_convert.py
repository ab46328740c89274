"""Converted weights load as their source does; nothing is overwritten."""

import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.runs.export import export_arrays
from frcnn_jax.types import BoxStatistics
from frcnn_jax.weights import convert
from frcnn_jax.weights.convert import convert_weights
from frcnn_jax.weights.load import load_start, load_weights, read_metadata, read_pixels
from tests.weights.caffe_files import encode_model
from tests.weights.detectors import save_run, small_detector
from tests.weights.formats.test_torch_vgg16 import state_dict
from tests.weights.networks import compressed_m_layers, m_layers, small_m, small_vgg16
from tests.weights.torch_files import write_zip

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_weights.py"


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """The published names for networks of few channels."""
    small = {"vgg_cnn_m_1024": small_m, "vgg16": small_vgg16}

    def create(name, num_classes, pixels=CAFFE_PIXELS, fc6_rank=None, fc7_rank=None):
        model = small[name](num_classes)
        return model.clone(pixels=pixels, head=model.head.clone(ranks=(fc6_rank, fc7_rank)))

    monkeypatch.setattr("frcnn_jax.weights.convert.create_model", create)


@pytest.fixture
def imagenet(tmp_path):
    (tmp_path / "imagenet.caffemodel").write_bytes(encode_model(m_layers(heads=None)))
    return tmp_path / "imagenet.caffemodel"


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "finished.caffemodel").write_bytes(encode_model(m_layers(heads=4)))
    return tmp_path / "finished.caffemodel"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_network_of_a_plug_in(tmp_path, imagenet, monkeypatch):
    """The module is imported before the network is looked for."""
    (tmp_path / "my_networks_of_convert.py").write_text("import frcnn_jax.weights.convert as c; c.loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("frcnn_jax.weights.convert.loaded", False, raising=False)
    known = convert.create_model

    def create(name, *arguments, **settings):
        assert convert.loaded
        return known("vgg_cnn_m_1024", *arguments, **settings) if name == "mine" else known(name, *arguments)

    monkeypatch.setattr(convert, "create_model", create)
    run(monkeypatch, imagenet, "--model", "mine", "--out", tmp_path / "out", "--plugins", "my_networks_of_convert")
    assert (tmp_path / "out/weights.safetensors").is_file()


def test_imagenet_network(tmp_path, imagenet, monkeypatch, capsys):
    out = tmp_path / "out"
    run(monkeypatch, imagenet, "--model", "vgg_cnn_m_1024", "--out", out)
    printed = capsys.readouterr().out
    assert "Written: conv1, conv2, conv3, conv4, conv5, fc6, fc7\n" in printed
    assert "Skipped: fc8\n" in printed
    assert "drawn at random when training starts" in printed
    assert "Pixels: bgr, less [102.9801, 115.9465, 122.7717]" in printed
    assert sorted(path.name for path in out.iterdir()) == ["weights.safetensors"]

    with safetensors.safe_open(out / "weights.safetensors", framework="numpy") as file:
        assert not [name for name in file.keys() if "cls_score" in name or "bbox_pred" in name]  # noqa: SIM118
        described = json.loads(file.metadata()["frcnn_jax"])["network"]
    assert (described["model"], described["num_classes"]) == ("vgg_cnn_m_1024", None)
    assert described["source"] == "imagenet.caffemodel"

    expected = load_weights(imagenet, small_m())
    for path in (out, out / "weights.safetensors", str(out)):
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, small_m()), expected)
        assert read_pixels(path) == CAFFE_PIXELS
    with pytest.raises(ValueError, match=r"holds weights of imagenet\.caffemodel without classes and settings"):
        read_metadata(out)


@pytest.mark.parametrize("mark", ["config.json", "checkpoints/100/x"])
def test_the_folder_of_a_run_takes_no_converted_weights(tmp_path, imagenet, mark):
    run = tmp_path / "run"
    (run / mark).parent.mkdir(parents=True)
    (run / mark).touch()
    for out in (run, run / "checkpoints"):
        with pytest.raises(FileExistsError, match=f"^{run} is the folder of a run, whose checkpoints are read: give"):
            convert_weights(imagenet, "vgg_cnn_m_1024", out)
    assert not list(run.rglob("*.safetensors"))


def test_start_of_training_is_the_same(tmp_path, imagenet, finished):
    statistics = BoxStatistics(mean=np.full((4, 4), 0.1, np.float32), std=np.full((4, 4), 0.2, np.float32))
    for source in (imagenet, finished):
        convert_weights(source, "vgg_cnn_m_1024", tmp_path / source.stem)
        starts = [
            load_start(path, small_m(), statistics, jax.random.key(1)) for path in (source, tmp_path / source.stem)
        ]
        jax.tree.map(np.testing.assert_array_equal, *starts)


def test_finished_detector(tmp_path, finished, monkeypatch, capsys):
    run(monkeypatch, finished, "--model", "vgg_cnn_m_1024", "--out", tmp_path / "out", "--num-classes", "4")
    printed = capsys.readouterr().out
    assert "fc7, cls_score, bbox_pred\nSkipped: nothing\nA detector of 4 classes" in printed
    loaded = load_weights(tmp_path / "out", small_m())
    jax.tree.map(np.testing.assert_array_equal, loaded, load_weights(finished, small_m()))
    with pytest.raises(ValueError, match=r"out is for 4 classes, the model for 3, background included"):
        load_weights(tmp_path / "out", small_m(num_classes=3))
    assert convert_weights(finished, "vgg_cnn_m_1024", tmp_path / "again").metadata.num_classes == 4


@pytest.mark.parametrize(
    ("ranks", "printed"),
    [((5, 3), "fc6_rank=5, fc7_rank=3"), ((5, None), "fc6_rank=5"), ((None, 3), "fc7_rank=3")],
)
def test_compressed_detector(tmp_path, ranks, printed, monkeypatch, capsys):
    """The ranks are found in the file, and told to whoever makes the model."""
    source = tmp_path / "svd.caffemodel"
    source.write_bytes(encode_model(compressed_m_layers(*ranks)))
    run(monkeypatch, source, "--model", "vgg_cnn_m_1024", "--out", tmp_path / "out")
    assert f"Compressed: create_model('vgg_cnn_m_1024', 4, {printed})\n" in capsys.readouterr().out
    expected = load_weights(source, small_m(ranks=ranks))
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "out", small_m(ranks=ranks)), expected)
    with safetensors.safe_open(tmp_path / "out/weights.safetensors", framework="numpy") as file:
        described = json.loads(file.metadata()["frcnn_jax"])["network"]
    assert (described["fc6_rank"], described["fc7_rank"]) == ranks
    with pytest.raises(ValueError, match=r"out has fc. of rank .*, the model fc. whole.*create the model with fc"):
        load_weights(tmp_path / "out", small_m())


def test_torchvision(tmp_path, monkeypatch, capsys):
    write_zip(tmp_path / "a.pth", state_dict())
    run(monkeypatch, tmp_path / "a.pth", "--model", "vgg16", "--out", tmp_path / "out")
    assert "Skipped: classifier.6\n" in capsys.readouterr().out
    model = small_vgg16(pixels=TORCHVISION_PIXELS)
    expected = load_weights(tmp_path / "a.pth", model)
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "out", model), expected)
    with pytest.raises(ValueError, match="is for other pixels than the model"):
        load_weights(tmp_path / "out", small_vgg16())


def test_faults_in_one_line_and_nothing_written(tmp_path, finished, imagenet, monkeypatch, capsys):
    out = tmp_path / "out"
    cut = tmp_path / "cut.caffemodel"
    cut.write_bytes(finished.read_bytes()[:-3])
    (tmp_path / "a.npz").write_bytes(b"")
    other, own = tmp_path / "other.safetensors", tmp_path / "own.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, other)
    export_arrays(own, small_detector())
    faults = [
        ((finished, "--num-classes", "5"), r"finished\.caffemodel is for 4 classes, the model for 5"),
        ((cut,), r"cut\.caffemodel cannot be read as weights: cut off or damaged after layer cls_score"),
        ((tmp_path / "none.caffemodel",), r"there is no .*none\.caffemodel"),
        ((tmp_path / "a.npz",), r"a\.npz: weights are converted from \.caffemodel, \.h5, \.pth, \.safetensors"),
        ((other,), r"other\.safetensors cannot be read as weights: it holds no network that is read"),
        ((own,), r"own\.safetensors is this package's own: load_weights and --model\.weights take it as it is"),
    ]
    for arguments, message in faults:
        with pytest.raises(SystemExit, match=rf"convert_weights\.py: .*{message}") as caught:
            run(monkeypatch, *arguments, "--model", "vgg_cnn_m_1024", "--out", out)
        assert "\n" not in str(caught.value.code)
        assert not out.exists()


def test_nothing_is_overwritten(tmp_path, imagenet, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.safetensors").write_text("mine")
    imagenet.write_bytes(b"not even read")
    with pytest.raises(SystemExit, match=r"weights\.safetensors already exists"):
        run(monkeypatch, imagenet, "--model", "vgg_cnn_m_1024", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "weights.safetensors").read_text() == "mine"


def test_a_run_is_a_run_whatever_lies_in_it(tmp_path):
    detector = small_detector()
    save_run(detector, tmp_path)
    (tmp_path / "weights.safetensors").write_text("something else")
    assert read_metadata(tmp_path).classes == detector.classes
