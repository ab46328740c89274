"""The contract of weight formats: each one in the table reads what it or its framework writes, and names damage."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from frcnn_jax.models.pixels import CAFFE_PIXELS, EFFICIENTNET_LITE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.runs.export import describe
from frcnn_jax.weights.formats import table
from frcnn_jax.weights.formats.base import FOLDER, read_named
from frcnn_jax.weights.formats.table import FORMATS, read_metadata, read_pixels, read_weights, write_weights
from frcnn_jax.weights.metadata import NetworkMetadata, to_json
from tests.models.efficientnet import NARROW, narrow_state_dict
from tests.models.test_resnet import small_resnet
from tests.weights.caffe_files import encode_model
from tests.weights.detectors import PIXELS, save_run, small_detector
from tests.weights.formats.keras_files import keras_layers, write_groups
from tests.weights.formats.test_torch_resnet import arrays as resnet_arrays
from tests.weights.formats.test_torch_vgg16 import arrays as torchvision_arrays
from tests.weights.formats.test_torch_vgg16 import state_dict
from tests.weights.networks import small_vgg16, vgg16_layers
from tests.weights.torch_files import Tensor, write_legacy, write_zip

DETECTOR = small_detector()
OURS = flatten_dict(DETECTOR.params, sep="/")
WRITABLE = [form for form in FORMATS if form.write is not None]
READABLE = [form for form in FORMATS if form.read is not None and form.suffix != FOLDER]


def name_of(form) -> str:
    return next(name for name in dir(table) if getattr(table, name) is form)


def make(form, folder: Path) -> Path:
    """A file of this format."""
    path = folder / f"a{form.suffix}"
    name = name_of(form)
    if form.write is not None:
        form.write(path, OURS, describe(DETECTOR))
    elif name == "CAFFEMODEL":
        path.write_bytes(encode_model(vgg16_layers(heads=None)))
    elif name == "TORCHVISION_PTH":
        write_zip(path, state_dict())
    elif name == "EFFICIENTNET_LITE_PTH":
        write_legacy(path, narrow_state_dict())
    elif name == "TORCHVISION_SAFETENSORS":
        safetensors.numpy.save_file(torchvision_arrays(), path)
    elif name == "RESNET_PTH":
        write_zip(path, {key: Tensor(array) for key, array in resnet_arrays().items()})
    elif name == "RESNET_SAFETENSORS":
        safetensors.numpy.save_file(resnet_arrays(), path)
    elif name == "KERAS":
        write_groups(path, keras_layers())
    elif name == "STABLEHLO":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", to_json(describe(DETECTOR)))
    elif name == "CHECKPOINTS":
        path = folder / "run"
        save_run(DETECTOR, path)
    else:
        pytest.fail(f"no file to test {name} with: make one here")
    return path


@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_a_file_is_read_by_its_format(form, tmp_path):
    path = make(form, tmp_path)
    is_lite = name_of(form) == "EFFICIENTNET_LITE_PTH"
    foreign = CAFFE_PIXELS if form.suffix in (".caffemodel", ".h5") else TORCHVISION_PIXELS
    foreign = EFFICIENTNET_LITE_PIXELS if is_lite else foreign
    pixels = foreign if form.metadata is None else PIXELS
    assert form.fits(path)
    assert form.pixels(path) == read_pixels(path) == pixels
    if form.metadata is not None:
        assert to_json(form.metadata(path)) == to_json(read_metadata(path)) == to_json(describe(DETECTOR))
    if form.read is None:
        with pytest.raises(ValueError, match="weights are read from"):
            read_weights(path, DETECTOR.model)
        return
    model = DETECTOR.model
    if form.metadata is None:
        is_resnet = name_of(form).startswith("RESNET")
        model = NARROW if is_lite else small_resnet(bottleneck=False) if is_resnet else small_vgg16()
    weights, again = form.read(path, model), read_weights(path, model)
    assert weights.arrays.keys() == again.arrays.keys()
    jax.tree.map(np.testing.assert_array_equal, weights.arrays, again.arrays)
    assert weights.pixels == pixels
    assert weights.has_heads == (form.metadata is not None)
    assert all(isinstance(array, np.ndarray) for array in weights.arrays.values())
    if form.metadata is not None:
        assert weights.arrays.keys() == OURS.keys()
        jax.tree.map(np.testing.assert_array_equal, weights.arrays, OURS)
        jax.tree.map(np.testing.assert_array_equal, weights.statistics, DETECTOR.statistics)


@pytest.mark.parametrize("form", WRITABLE, ids=name_of)
def test_what_is_written_is_read(form, tmp_path):
    """Any floating dtype, empty and scalar arrays, arrays that are not contiguous; a network as well as a detector."""
    arrays = {
        "a/b/kernel": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "a/b/bias": jnp.asarray([1, 0.5, 3e38], jnp.bfloat16),
        "a/empty": np.zeros((0, 3), np.float32),
        "a/half": np.float16([1, 2]),
        "scalar": np.float64(np.pi),
    }
    network = NetworkMetadata("tiny", PIXELS, None, "source.bin", fc7_rank=3)
    path = tmp_path / f"deep/in/a{form.suffix}"
    write_weights(path, arrays, network)
    weights = form.read(path, DETECTOR.model)
    assert not weights.has_heads
    assert form.metadata(path) == network
    assert weights.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        expected = np.asarray(array, np.float32) if array.dtype == jnp.bfloat16 else array
        assert weights.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(weights.arrays[name], expected)


@pytest.mark.parametrize("form", WRITABLE, ids=name_of)
def test_an_existing_file_is_kept(form, tmp_path):
    path = tmp_path / f"a{form.suffix}"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=rf"a\{form.suffix} already exists$"):
        write_weights(path, OURS, describe(DETECTOR))
    with pytest.raises(AttributeError):
        write_weights(path, OURS, None, overwrite=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
    write_weights(path, OURS, describe(DETECTOR), overwrite=True)
    assert read_metadata(path).step == 7
    (tmp_path / f"folder{form.suffix}").mkdir()
    with pytest.raises(FileExistsError, match="exists and is a folder"):
        write_weights(tmp_path / f"folder{form.suffix}", OURS, describe(DETECTOR), overwrite=True)


@pytest.mark.parametrize("damage", ["empty", "text", "half"])
@pytest.mark.parametrize("form", READABLE, ids=name_of)
def test_damage_is_one_line_that_names_the_file(form, tmp_path, damage):
    path = make(form, tmp_path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no weights\n" * 99, "half": content[: len(content) // 2]}[damage])
    for read in (lambda file: read_named(file, lambda file: form.read(file, small_vgg16())),
                 lambda file: read_weights(file, small_vgg16())):  # fmt: skip
        with pytest.raises(ValueError, match=rf"a\{form.suffix} cannot be read as weights: .") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_suffix_that_nothing_is_written_with(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pth must end in \.safetensors or \.npz$"):
        write_weights(tmp_path / "a.pth", OURS, describe(DETECTOR))


def test_a_format_is_one_line_in_the_table(tmp_path, monkeypatch):
    """A further format is known to everything that takes weights; of one suffix, the first that fits counts."""
    first = table.NPZ
    other = table.WeightFormat(
        suffix=".npz",
        pixels=lambda path: CAFFE_PIXELS,
        read=lambda path, model: table.Weights({"other": np.zeros(1)}, CAFFE_PIXELS),
        fits=lambda path: path.read_bytes()[:5] == b"other",
    )
    monkeypatch.setattr(table, "FORMATS", (other, *FORMATS))
    (tmp_path / "a.npz").write_bytes(b"other file")
    assert read_pixels(tmp_path / "a.npz") == CAFFE_PIXELS
    assert list(read_weights(tmp_path / "a.npz", DETECTOR.model).arrays) == ["other"]
    first.write(tmp_path / "b.npz", OURS, describe(DETECTOR))
    assert read_pixels(tmp_path / "b.npz") == PIXELS


@pytest.mark.parametrize("kind", ["EFFICIENTNET_LITE_PTH", "RESNET_PTH"])
def test_a_state_dict_is_known_by_its_names_alone(tmp_path, kind):
    """Reading hundreds of megabytes to choose a format would take as long as loading them."""
    state = {key: Tensor(array) for key, array in resnet_arrays().items()}
    path = write_zip(tmp_path / "a.pth", narrow_state_dict() if kind == "EFFICIENTNET_LITE_PTH" else state)
    with zipfile.ZipFile(path) as archive:
        places = [info.header_offset for info in archive.infolist() if "/data/" in info.filename]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 255  # no longer where the archive says
    path.write_bytes(content)
    form = getattr(table, kind)
    fit = [other for other in FORMATS if other.suffix == ".pth" and other is not table.TORCHVISION_PTH]
    assert [other for other in fit if other.fits(path)] == [form]
    with pytest.raises(ValueError, match="is not where the archive says"):
        form.read(path, NARROW)
