"""Files are written whole or not at all; the exported function runs without this package and detects the same."""

import dataclasses
import json
import re
import runpy
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from jax import export

from frcnn_jax.commands import export as command
from frcnn_jax.config import InputConfig
from frcnn_jax.detection.inputs import make_batch
from frcnn_jax.models.architectures import create_model
from frcnn_jax.runs import export as weights_export
from frcnn_jax.runs.export import describe, export_arrays, export_stablehlo
from frcnn_jax.types import Detections
from frcnn_jax.weights.folding import fold_statistics
from frcnn_jax.weights.load import load_weights, read_metadata
from frcnn_jax.weights.metadata import to_json
from tests.weights.detectors import (
    CONFIG,
    assert_same_detections,
    image_and_boxes,
    random_params,
    save_run,
    small_detector,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "export.py"


@pytest.fixture(scope="module")
def detector():
    return small_detector()


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "detector.stablehlo"
    export_stablehlo(path, detector, proposals=40)
    return path


def on_host(found) -> Detections:
    kept = np.asarray(found["mask"])
    return Detections(**{name: np.asarray(array)[kept] for name, array in found.items()})


def test_documented_program_runs_with_jax_alone(detector, exported):
    """The program in the docstring, as it stands, in a process that has nothing of ours."""
    folder = exported.parent
    image, boxes = image_and_boxes()
    cv2.imwrite(str(folder / "image.png"), image[..., ::-1])
    boxes = np.resize(boxes, (50, 4))  # more than the function takes
    np.save(folder / "boxes.npy", boxes)
    program = textwrap.dedent(weights_export.__doc__.split("files with):\n\n")[1].split("\n\nDetections are")[0])
    (folder / "program.py").write_text(
        program
        + "\nimport sys\n"
        + "assert not {'frcnn_jax', 'flax', 'optax'} & set(sys.modules)\n"
        + "np.savez('found.npz', boxes=boxes, scores=scores, labels=labels, mask=scores > 0)\n"
    )
    subprocess.run([sys.executable, "program.py"], cwd=folder, check=True, timeout=120)
    assert_same_detections(Detections(**np.load(folder / "found.npz")), detector.detect(image, boxes[:40]))


def test_function_written_on_a_gpu_has_no_kernels(detector):
    """Kernels are for the GPU that the file is written on; the function is for any."""
    gpu = dataclasses.replace(detector, model=detector.model.clone(roi_pooling="pallas"))
    module = export.deserialize(weights_export._serialize(gpu, (64, 64), 5, ("cuda",))).mlir_module()
    assert "triton" not in module


def test_function_detects_the_same_in_a_smaller_bucket(detector, tmp_path):
    """A portrait, with the very arrays that `detect` makes."""
    image, boxes = image_and_boxes((90, 40))
    batch = make_batch(image, boxes, scale=48, max_size=96)
    path = tmp_path / "a.stablehlo"
    export_stablehlo(path, detector, bucket=batch.images.shape[1:3], proposals=batch.proposals.shape[1])
    function = export.deserialize(bytearray(path.read_bytes()))
    assert function.platforms == ("cpu", "cuda", "tpu")
    inputs = ("images", "image_sizes", "original_sizes", "scales", "proposals", "proposal_mask")
    found = jax.jit(function.call)(*(getattr(batch, name)[0] for name in inputs))
    assert_same_detections(on_host(found), detector.detect(image, boxes), 1e-6)
    count = int(found["mask"].sum())
    assert found["mask"][:count].all()


def test_function_without_box_regression(detector, tmp_path):
    """The way of testing is the config's: here proposals themselves are what is detected."""
    plain = dataclasses.replace(CONFIG, evaluate=dataclasses.replace(CONFIG.evaluate, box_regression=False))
    plain = dataclasses.replace(detector, config=plain)
    image, boxes = image_and_boxes()
    batch = make_batch(image, boxes, scale=48, max_size=96)
    path = tmp_path / "a.stablehlo"
    shapes = {"bucket": batch.images.shape[1:3], "proposals": batch.proposals.shape[1]}
    export_stablehlo(path, plain, **shapes, platforms=["cpu"])
    assert not read_metadata(path).config.evaluate.box_regression
    function = export.deserialize(bytearray(path.read_bytes()))
    inputs = ("images", "image_sizes", "original_sizes", "scales", "proposals", "proposal_mask")
    found = on_host(jax.jit(function.call)(*(getattr(batch, name)[0] for name in inputs)))
    assert_same_detections(found, plain.detect(image, boxes), 1e-6)
    assert {tuple(box) for box in found.boxes.tolist()} <= {tuple(box) for box in boxes.tolist()}


def test_function_of_a_detector_tested_on_a_pyramid(detector, tmp_path, caplog):
    pyramid = dataclasses.replace(CONFIG, input=dataclasses.replace(CONFIG.input, test_scales=(32, 48)))
    pyramid = dataclasses.replace(detector, config=pyramid)
    export_stablehlo(tmp_path / "a.stablehlo", pyramid, proposals=8, bucket=(48, 64), platforms=["cpu"])
    assert "a.stablehlo computes one scale, 48, but the run is tested on several" in caplog.text
    assert read_metadata(tmp_path / "a.stablehlo").config.input.test_scales == (32, 48)


@pytest.mark.parametrize(
    ("scales", "scale", "warnings"),
    [((), 600, 0), ((800,), 800, 0), ((800, 800), 800, 0), ((480, 640, 700), 640, 1), ((590, 610), 590, 1)],
)
def test_the_scale_of_a_file_is_one_that_the_run_is_tested_on(
    detector, tmp_path, monkeypatch, caplog, scales, scale, warnings
):
    monkeypatch.setattr(weights_export, "_serialize", lambda *arguments: b"")
    config = dataclasses.replace(CONFIG, input=InputConfig(test_scale=600, test_scales=scales))
    path = tmp_path / "a.stablehlo"
    export_stablehlo(path, dataclasses.replace(detector, config=config))
    assert json.loads(zipfile.ZipFile(path).read("metadata.json"))["test"] == {"scale": scale, "max_size": 1000}
    assert len(caplog.records) == warnings


def test_a_link_is_followed_to_the_file_to_overwrite(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_export, "_serialize", lambda *arguments: b"")
    for name, write in (("a.npz", export_arrays), ("a.stablehlo", export_stablehlo)):
        (tmp_path / f"real-{name}").touch()
        (tmp_path / name).symlink_to(f"real-{name}")
        write(tmp_path / name, detector, overwrite=True)
        assert (tmp_path / name).is_symlink()
        assert read_metadata(tmp_path / f"real-{name}").classes == detector.classes


@pytest.mark.parametrize(("stride", "side"), [(8, 104), (16, 112), (32, 128)])
def test_default_bucket_is_a_multiple_of_the_stride(detector, tmp_path, monkeypatch, stride, side):
    monkeypatch.setattr(weights_export, "_serialize", lambda *arguments: b"")
    config = dataclasses.replace(CONFIG, input=dataclasses.replace(CONFIG.input, test_max_size=100))
    model = detector.model.clone(spatial_scale=1 / stride)
    export_stablehlo(tmp_path / "a.stablehlo", dataclasses.replace(detector, config=config, model=model))
    function = json.loads(zipfile.ZipFile(tmp_path / "a.stablehlo").read("metadata.json"))["function"]
    assert (function["height"], function["width"], function["proposals"]) == (side, side, 2000)


def test_metadata_travels_with_the_function(detector, exported):
    assert to_json(read_metadata(exported)) == to_json(describe(detector))
    text = zipfile.ZipFile(exported).read("metadata.json").decode()
    assert '"proposals": 40' in text
    assert '"height": 96' in text


def test_damaged_function_file(exported, tmp_path):
    (tmp_path / "a.stablehlo").write_bytes(exported.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a\.stablehlo cannot be read"):
        read_metadata(tmp_path / "a.stablehlo")


@pytest.mark.parametrize("arguments", [{"bucket": (0, 96)}, {"proposals": 0}])
def test_no_room(detector, tmp_path, arguments):
    with pytest.raises(ValueError, match="sizes must be positive"):
        export_stablehlo(tmp_path / "a.stablehlo", detector, **arguments)


@pytest.mark.parametrize("write", [export_arrays, export_stablehlo])
def test_existing_file_is_kept(detector, tmp_path, write):
    path = tmp_path / "a.npz"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.npz already exists"):
        write(path, detector)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite(detector, tmp_path):
    path = tmp_path / "a.stablehlo"
    path.write_text("mine")
    export_stablehlo(path, detector, bucket=(48, 64), proposals=8, platforms=["cpu"], overwrite=True)
    assert read_metadata(path).step == 7
    with pytest.raises(FileExistsError, match="is a folder"):
        export_stablehlo(tmp_path, detector, overwrite=True)


def test_failed_export_leaves_what_was_there(detector, tmp_path, monkeypatch):
    path = tmp_path / "a.stablehlo"
    path.write_text("mine")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(weights_export, "_serialize", fail)
    with pytest.raises(OSError, match="disk full"):
        export_stablehlo(path, detector, overwrite=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_suffix_says_the_kind(detector, tmp_path):
    with pytest.raises(ValueError, match=r"a\.bin must end in \.safetensors or \.npz"):
        export_arrays(tmp_path / "a.bin", detector)


def run_script(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_script_refuses_before_it_loads_anything(tmp_path):
    out = tmp_path / "a.npz"
    out.write_text("mine")
    refused = run_script("--workdir", tmp_path / "none", "--format", "npz", "--out", out)
    assert refused.returncode == 1
    assert refused.stderr == f"export.py: {out} already exists: give --overwrite to replace it, or another --out\n"
    misnamed = run_script("--workdir", tmp_path, "--format", "safetensors", "--out", tmp_path / "b.npz")
    assert misnamed.returncode == 2
    assert "must end in .safetensors" in misnamed.stderr


@pytest.mark.parametrize("kind", ["npz", "stablehlo"])
def test_a_folder_is_no_file_to_write(kind, tmp_path, monkeypatch):
    for more in ([], ["--overwrite"]):
        monkeypatch.setattr(
            sys, "argv", ["export", "--workdir", "runs/X", "--format", kind, "--out", str(tmp_path), *more]
        )
        message = f"^{tmp_path} is a folder: give the file to write, as --out {tmp_path}/X.{kind}$"
        with pytest.raises(IsADirectoryError, match=message):
            command.main()


@pytest.mark.parametrize("option", [("--proposals", "1"), ("--platforms", "cpu"), ("--bucket", "8", "8")])
def test_options_of_the_program_are_refused_for_weights(monkeypatch, capsys, option):
    monkeypatch.setattr(sys, "argv", ["export", "--workdir", "W", "--format", "npz", "--out", "a.npz", *option])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "--bucket, --proposals and --platforms are for --format stablehlo" in capsys.readouterr().err


def test_script_writes_what_load_weights_reads(tmp_path, monkeypatch, capsys):
    model = create_model("tiny", 4)
    statistics = small_detector().statistics
    detector = dataclasses.replace(small_detector(), model=model, params=random_params(model))
    save_run(detector, tmp_path / "run")

    def script(kind: str, *more: str) -> Path:
        out = tmp_path / "out" / f"detector.{kind}"
        arguments = ["--workdir", str(tmp_path / "run"), "--format", kind, "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return out

    expected = fold_statistics(detector.params, statistics)
    for kind in ("safetensors", "npz"):
        out = script(kind)
        jax.tree.map(np.testing.assert_array_equal, load_weights(out, model), expected)
        said = capsys.readouterr().out
        count = len(jax.tree.leaves(expected))
        assert re.fullmatch(
            rf"{re.escape(str(out))}: {count} arrays, 2\d\.\d MB, tiny after 7 steps, 3 classes\n", said
        )
    with pytest.raises(SystemExit, match="exists: give --overwrite"):
        script("npz")
    script("npz", "--overwrite")
    capsys.readouterr()
    out = script("stablehlo", "--bucket", "48", "64", "--proposals", "32", "--platforms", "cpu")
    assert "a function for cpu, 2" in capsys.readouterr().out
    function = export.deserialize(bytearray(out.read_bytes()))
    assert [aval.shape for aval in function.in_avals] == [(48, 64, 3), (2,), (2,), (), (32, 4), (32,)]
