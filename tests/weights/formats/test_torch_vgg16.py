"""torchvision's vgg16 in its three forms; nothing in a pickle runs, and every fault is one line."""

import argparse
import os
import pickle
import pickletools
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from frcnn_jax.models.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from frcnn_jax.weights.formats.torch.state_dict import read_state_dict
from frcnn_jax.weights.load import load_weights, read_pixels
from tests.weights import torch_files
from tests.weights.caffe_files import encode_model
from tests.weights.networks import small_vgg16, vgg16_layers
from tests.weights.torch_files import WRITERS, Tensor, write_legacy, write_zip

MODEL = small_vgg16(pixels=TORCHVISION_PIXELS)
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NAMES = [f"features.{i}" for i in CONVOLUTIONS] + [f"classifier.{i}" for i in (0, 3, 6)]


def arrays() -> dict[str, np.ndarray]:
    """torchvision's state dict for the small VGG16, in its order."""
    pairs = zip(NAMES, vgg16_layers(heads=None).values(), strict=True)
    return {f"{name}.{part}": array for name, blobs in pairs for part, array in zip(("weight", "bias"), blobs)}  # noqa: B905


def state_dict(**options) -> OrderedDict:
    state = OrderedDict((name, Tensor(array, **options)) for name, array in arrays().items())
    # As `Module.state_dict` does.
    state._metadata = OrderedDict({"": {"version": 1}, "features": {"version": 1}})
    return state


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The same numbers by way of a .caffemodel."""
    path = tmp_path_factory.mktemp("caffe") / "vgg16.caffemodel"
    path.write_bytes(encode_model(vgg16_layers(heads=None)))
    return load_weights(path, small_vgg16(pixels=CAFFE_PIXELS))


@pytest.mark.parametrize("form", ["zip", "legacy", "parameters", "old tensors", "safetensors"])
def test_same_as_the_caffe_network(tmp_path, expected, form):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        safetensors.numpy.save_file(arrays(), path, metadata={"format": "pt"})
    elif form == "parameters":
        write_zip(path, state_dict(parameter=True))
    elif form == "old tensors":
        write_legacy(path, state_dict(old=True))
    else:
        WRITERS[form](path, state_dict())
    assert read_pixels(path) == TORCHVISION_PIXELS
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, MODEL), expected)


def test_pixels_must_be_torchvisions(tmp_path):
    write_zip(tmp_path / "a.pth", state_dict())
    with pytest.raises(ValueError, match=r"a\.pth is for other pixels .*order='rgb'"):
        load_weights(tmp_path / "a.pth", small_vgg16())


@pytest.mark.parametrize("form", list(WRITERS))
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model._orig_mod."])
@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
def test_checkpoint_of_a_training_script(tmp_path, expected, form, prefix, name):
    """Files as torchvision's references and the ImageNet example save: with command line, schedule and accuracy."""
    momentum = {i: {"momentum_buffer": Tensor(np.ones(3, np.float32))} for i in range(2)}
    saved = {
        "epoch": 3,
        "arch": "vgg16",
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.1, "params": [0, 1], "nesterov": False}]},
        "lr_scheduler": {"milestones": Counter({3: 1}), "base_lrs": [0.1], "_schedulers": [{"last_epoch": 3}]},
        "args": argparse.Namespace(data="/data", out=Path("/out"), device="cuda", lr=0.1, weights=None),
        "best_acc1": Tensor(np.array(0.7)),
        "mean": np.float64(0.5),
        "losses": [np.float32(1), None, True, (1, "a")],
        name: OrderedDict((prefix + key, Tensor(array)) for key, array in arrays().items()),
        "model_ema": {"n_averaged": Tensor(np.array(7))},
    }
    path = WRITERS[form](tmp_path / "a.pth", saved)
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, MODEL), expected)


@pytest.mark.parametrize("name", ["a.pt", "a.pth.tar", "a.bin", "a.CKPT"])
def test_other_names_of_the_same_files(tmp_path, expected, name):
    path = write_zip(tmp_path / name, {"state_dict": state_dict(), "epoch": 3})
    assert read_pixels(path) == TORCHVISION_PIXELS
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, MODEL), expected)


def test_the_only_state_dict_under_any_name(tmp_path, expected):
    for saved in ({"net": state_dict()}, {"model": {"state_dict": state_dict()}}):
        saved |= {"acc": Tensor(np.array(0.7)), "optimizer": {"state": {}}}
        path = write_zip(tmp_path / "a.pth", saved)
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, MODEL), expected)
    saved = {"student": state_dict(), "teacher": state_dict(), "epoch": 3}
    with pytest.raises(
        ValueError, match=r"2 state dicts, student, teacher: .* torch\.save\(torch\.load\(FILE\)\['student'\]"
    ):
        load_weights(write_zip(tmp_path / "a.pth", saved), MODEL)


def test_prefix_of_a_state_dict_alone(tmp_path, expected):
    write_zip(tmp_path / "a.pth", {f"module.{name}": Tensor(array) for name, array in arrays().items()})
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "a.pth", MODEL), expected)


@pytest.mark.parametrize("beside", [{}, {"args": argparse.Namespace(data="/data")}])
def test_no_command_is_executed_beside_a_state_dict(tmp_path, beside):
    trace = tmp_path / "trace"
    saved = {"model": state_dict(), "optimizer": Command(os.system, f"touch {trace}")} | beside
    with pytest.raises(ValueError, match=r"it asks for \w+\.system, which tensors do not need: it is not loaded"):
        load_weights(write_zip(tmp_path / "a.pth", saved), MODEL)
    assert not trace.exists()


@pytest.mark.parametrize("form", list(WRITERS))
def test_dtypes_strides_and_scalars(tmp_path, form):
    values = {
        "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "double": np.arange(3.0),
        "count": np.array(7),
    }
    WRITERS[form](tmp_path / "a.pth", {name: Tensor(value) for name, value in values.items()})
    read = read_state_dict(tmp_path / "a.pth")
    for name, value in values.items():
        array = read[name].read()
        assert (array.shape, array.dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(array, value)


class Command:
    """Pickled as a call that leaves a file behind when it is made."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("form", list(WRITERS))
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", ["os.system", "eval", "builtins.getattr"])
def test_no_command_is_executed(tmp_path, form, protocol, call):
    trace = tmp_path / "trace"
    command = {
        "os.system": Command(os.system, f"touch {trace}"),
        "eval": Command(eval, f"open({str(trace)!r}, 'w').close()"),
        "builtins.getattr": Command(getattr, {}, "clear"),
    }[call]
    pickled = pickle.dumps({"features.0.weight": command}, protocol)
    path = WRITERS[form](tmp_path / "a.pth", {}, pickled=pickled)
    with pytest.raises(ValueError, match=r"a\.pth .*it asks for \w+\.\w+, which tensors do not need") as caught:
        load_weights(path, MODEL)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.exists() or call == "builtins.getattr"


@pytest.mark.parametrize("place", ["header", "keys"])
def test_no_command_is_executed_elsewhere_in_a_legacy_file(tmp_path, place):
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    bad = pickle.dumps(Command(os.system, f"touch {trace}"), 2)
    whole = write_legacy(path, state_dict()).read_bytes()
    end = next(position for code, _, position in pickletools.genops(whole) if code.name == "STOP") + 1
    content, _ = torch_files.dump(state_dict(), legacy=True)
    before_keys = whole[: whole.index(content) + len(content)]
    path.write_bytes(bad + whole[end:] if place == "header" else before_keys + bad)
    with pytest.raises(ValueError, match=r"it asks for \w+\.system"):
        load_weights(path, MODEL)
    assert not trace.exists()


def test_a_pickle_cannot_change_what_reads_it(tmp_path):
    """BUILD sets attributes of whatever is on the stack, of functions too."""
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00stainK\x01sb."
    with pytest.raises(ValueError, match="changes what is not an object of its own"):
        read_state_dict(write_zip(tmp_path / "a.pth", {}, pickled=pickled))
    write_zip(tmp_path / "b.pth", {"a": Tensor(np.ones(2, np.float32))})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "b.pth")["a"].read(), [1, 1])


def test_truncated_zip(tmp_path):
    path = write_zip(tmp_path / "a.pth", state_dict())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a\.pth cannot be read as weights: "):
        load_weights(path, MODEL)


def test_truncated_legacy_file(tmp_path):
    path = write_legacy(tmp_path / "a.pth", state_dict())
    whole = path.read_bytes()
    for length in (1, 3, 5, 40, 200, 1500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pth cannot be read as weights: .") as caught:
            load_weights(path, MODEL)
        assert "\n" not in str(caught.value)
    assert "it is cut off or damaged in storage 0, at byte" in str(caught.value)


def test_flipped_bit_in_zip(tmp_path):
    path = write_zip(tmp_path / "a.pth", state_dict())
    with zipfile.ZipFile(path) as archive:
        where = archive.getinfo("archive/data/26").header_offset + 200
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"archive/data/26 is damaged: its checksum is wrong"):
        load_weights(path, MODEL)


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


def without(name):
    return {key: Tensor(array) for key, array in arrays().items() if key != name}


FAULTS = {
    "empty": (lambda path: path.write_bytes(b""), "neither of the kinds of file that torch.save writes"),
    "html": (lambda path: path.write_bytes(b"<html>" * 99), "neither of the kinds of file"),
    "tar": (lambda path: path.write_bytes(b"sys_info" + bytes(600)), "neither of the kinds of file"),
    "zip": (foreign_zip, "not of torch.save"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, 2)), "a pickle, but not of torch.save"),
    "big-endian": (lambda path: write_legacy(path, {}, system={"little_endian": False}), "big-endian"),
    "a list": (lambda path: write_zip(path, [1, 2]), "it holds a list, not a state dict"),
    "settings alone": (lambda path: write_zip(path, {"epoch": 3, "arch": "vgg16"}), "epoch is not a tensor"),
    "an empty model": (lambda path: write_zip(path, {"model": {}, "epoch": 3}), "its model holds nothing, not a state"),
    "a dict among tensors": (lambda path: write_zip(path, without("") | {"more": {}}), "more is not a tensor"),
    "a dict inside": (
        lambda path: write_zip(path, {"model": without("") | {"optimizer": {}}}),
        "optimizer is not a tensor",
    ),
    "one name with a prefix": (
        lambda path: write_zip(path, without("") | {"module.a": Tensor(np.zeros(4, np.float32))}),
        "not in the model: module/a",
    ),
    "another network": (
        lambda path: write_zip(path, {"conv1.weight": Tensor(np.zeros((64, 3, 7, 7), np.float32))}),
        r"no network that is read, its first tensor is conv1\.weight: torchvision's vgg16 has features.0.weight, its",
    ),
    "missing": (lambda path: write_zip(path, without("features.10.bias")), r"missing: backbone/conv3_1/bias float"),
    "extra": (
        lambda path: write_zip(path, without("") | {"features.1.running_mean": Tensor(np.zeros(4, np.float32))}),
        "not in the model: features.1/running_mean",
    ),
    "other channels": (
        lambda path: write_zip(path, without("") | {"features.2.weight": Tensor(np.zeros((8, 4, 3, 3), np.float32))}),
        r"backbone/conv1_2/kernel is float32 \[3, 3, 4, 8\] where the model has float32 \[3, 3, 4, 4\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_named_in_one_line(tmp_path, fault):
    write, message = FAULTS[fault]
    write(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(tmp_path / "a.pth", MODEL)
    assert "a.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_beyond_a_storage(tmp_path):
    """A shape that its storage cannot fill is no way to read the rest of the file."""
    path = tmp_path / "a.pth"
    content, _ = torch_files.dump({"a": Tensor(np.zeros(200, np.float32))}, legacy=False)
    # BININT1 200 is the storage's count, then the shape's.
    first, second = (i for i in range(len(content) - 1) if content[i : i + 2] == b"K\xc8")
    more = content[:second] + b"K\xc9" + content[second + 2 :]
    write_zip(path, {"a": Tensor(np.zeros(200, np.float32))}, pickled=more)
    with pytest.raises(ValueError, match=r"buffer|size|shape"):
        read_state_dict(path)["a"].read()
    both = more[:first] + b"K\xc9" + more[first + 2 :]
    write_zip(path, {"a": Tensor(np.zeros(200, np.float32))}, pickled=both)
    with pytest.raises(ValueError, match="the numbers of a are missing, or not as many as it says"):
        read_state_dict(path)
