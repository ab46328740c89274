"""The same training in PyTorch: the recording matches the training, and the table gives the differences."""

import contextlib
import csv
import dataclasses
import io
import json
import shlex
import sys
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frcnn_jax.config import from_json, load_config, override, replace, to_json
from frcnn_jax.models import architectures
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.heads import FastRCNNHead, StagesHead
from frcnn_jax.ops.losses import multi_task_loss
from frcnn_jax.training.optimizer import create_optimizer, merge, split_frozen
from frcnn_jax.types import BoxStatistics
from tests.benchmark.conftest import ROOT
from tests.benchmark.fake_peer import write_training_peer
from tests.models.efficientnet import LAST_STAGES, STAGES, TRUNK
from tests.training.runs import SMALL_TINY, run_config, write_data

STEPS = 5


class TwoLayers(nn.Module):
    """A trunk that compiles in a moment."""

    dtype: type = jnp.float32
    param_dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, sizes):
        x = nn.Conv(3, (1, 1), name="stem", dtype=self.dtype, param_dtype=self.param_dtype)(x)
        x = nn.Conv(8, (16, 16), (16, 16), name="conv", dtype=self.dtype, param_dtype=self.param_dtype)(x)
        return x, None if sizes is None else -(-sizes // 16)


def two_layers(patch):
    """`TwoLayers` in the place of `tiny`."""
    architecture = dataclasses.replace(
        SMALL_TINY, trunk=TwoLayers, channels=8, output_size=(2, 2), head=partial(FastRCNNHead, widths=(8, 8))
    )
    patch.setattr(architectures, "ARCHITECTURES", {"tiny": architecture})


def write_config(folder, **sections):
    """A config file of the small data set in `folder`."""
    write_data(folder)
    (folder / "settings.json").write_text(to_json(replace(run_config(folder), **sections)))
    path = folder / "config.py"
    path.write_text(
        "from pathlib import Path\nfrom frcnn_jax.config import from_json\n\n\n"
        f"def get_config():\n    return from_json(Path({str(folder / 'settings.json')!r}).read_text())\n"
    )
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of a few steps with a peer of made-up losses: folder of the run, and what was printed."""
    folder = tmp_path_factory.mktemp("same")
    peer = write_training_peer(folder)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        two_layers(patch)
        patch.syspath_prepend(str(ROOT / "scripts"))
        import same_training

        arguments = ["--config", str(write_config(folder)), "--workdir", str(folder / "run"), "--peer-python", peer]
        more = ["--steps", str(STEPS), "--rounding", "--keep", "--optimizer.clip-norm", "5"]
        same_training.main([*arguments, *more])
    workdir = folder / "run"
    return SimpleNamespace(workdir=workdir, folder=workdir / "same_training", printed=printed.getvalue())


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_training_again_on_what_was_recorded_gives_the_same_losses(compared, monkeypatch):
    """By our own network and optimizer, but with the parameters, pixels and RoIs of the files alone."""
    two_layers(monkeypatch)
    folder = compared.folder / "recording"
    with np.load(folder / "start.npz") as file:
        about = json.loads(str(file["__metadata__"]))
        arrays = {name: jnp.asarray(file[name]) for name in file.files if name != "__metadata__"}
    settings = json.loads((folder / "settings.json").read_text())
    config = from_json((compared.workdir / "config.json").read_text())
    assert (settings["steps"], settings["grid"], settings["stride"]) == (STEPS, 2, 16)
    assert settings["optimizer"]["drops"] == [6]
    assert config.model.dropout == 0
    statistics = BoxStatistics(**{name: jnp.asarray(about["box_statistics"][name]) for name in ("mean", "std")})
    params = {}
    for name, array in arrays.items():
        *layers, last = name.split("/")
        place = params
        for layer in layers:
            place = place.setdefault(layer, {})
        place[last] = array
    model = create_model("tiny", len(about["classes"]) + 1)
    trainable, frozen = split_frozen(params, config.optimizer.rules)
    optimizer = create_optimizer(config.optimizer, params, STEPS)

    @jax.jit
    def update(trainable, state, inputs):
        def loss(trainable):
            rois = inputs["rois"]
            logits, deltas = model.apply(
                {"params": merge(trainable, frozen)},
                inputs["images"],
                rois,
                scales=inputs["scales"],
                image_sizes=inputs["image_sizes"],
            )
            flat = [x.reshape(-1, *x.shape[2:]) for x in (logits, deltas, rois, inputs["labels"], inputs["gt_boxes"])]
            mask = inputs["mask"].reshape(-1)
            return multi_task_loss(*flat, mask, statistics.mean, statistics.std)

        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, state = optimizer.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), state, {"loss": value, **parts}

    state = optimizer.init(trainable)
    for step, line in enumerate(read_metrics(compared.workdir)):
        with np.load(folder / f"step_{step:06d}.npz") as file:
            inputs = {name: file[name] for name in file.files}
        trainable, state, found = update(trainable, state, inputs)
        for name, value in found.items():
            np.testing.assert_allclose(value, line[name], rtol=1e-5, err_msg=f"{name} of step {step}")
    assert step == STEPS - 1


def test_table_and_files_say_how_far_apart_the_curves_are(compared):
    ours = read_metrics(compared.workdir)
    with (compared.folder / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5"]
    for line, row in zip(ours, rows, strict=True):
        for part in ("loss", "classification", "localization"):
            assert float(row[f"{part}_ours"]) == line[part]
        assert float(row["loss_pytorch"]) == 2 + int(row["step"])
        assert float(row["seconds_pytorch"]) == 0.5
        step_seconds = 2 / line["images_per_second"] * (1 - line["waiting_share"])
        assert float(row["seconds_ours"]) == pytest.approx(step_seconds)
    assert (compared.folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    lines = compared.printed.splitlines()
    assert any(line.split()[:3] == ["2", f"{ours[1]['loss']:.5f}", "4.00000"] for line in lines)
    assert "    total  1.0e-01 (step 1), 1.0e-01" in lines  # 3.3 for 3
    assert lines[-3].startswith("A step, images read before, median: ours ")
    assert lines[-3].endswith(" ms, PyTorch 500 ms")


def test_differences_and_running_means():
    from bench.same_training.curves import WINDOW, difference, running_mean

    np.testing.assert_allclose(difference(np.array([1.1, 0.0, 3.0]), np.array([1.0, 0.0, 4.0])), [0.1, 0, 0.25])
    values = np.arange(1.0, 2 * WINDOW + 1)
    expected = [values[max(end - WINDOW, 0) : end].mean() for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(running_mean(values), expected)


def test_a_run_of_other_rois_or_without_a_line_for_each_step_is_refused(tmp_path):
    from bench.same_training.curves import read_run

    line = {"loss": 1, "classification": 1, "localization": 0, "foreground": 3, "background": 5,
            "images_per_second": 4, "waiting_share": 0.25}  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line | {"step": step}) + "\n" for step in (1, 2)) + '{"step": 2, "map": 0.5}\n')
    curves = read_run(tmp_path, 2, 2, [(3, 5), (3, 5)])
    assert curves.losses["classification"].tolist() == [1, 1]
    assert curves.seconds.tolist() == [0.375, 0.375]
    with pytest.raises(ValueError, match=r"step 2 was made with 3 RoIs of foreground and 5 of background, where .* 4"):
        read_run(tmp_path, 2, 2, [(3, 5), (4, 4)])
    with pytest.raises(ValueError, match="has not one line for each of 3 steps: give another --workdir"):
        read_run(tmp_path, 3, 2, [(3, 5)] * 3)


@pytest.mark.parametrize(
    ("made", "end", "message"),
    [
        (
            "1",
            "sys.exit('no such operator')",
            "the peer failed in .*, exit status 1: no such operator",
        ),
        ("1", "", "the peer made 1 of 2 steps"),
    ],
)
def test_a_peer_that_stops_early_is_told(tmp_path, monkeypatch, made, end, message):
    import same_training
    from bench.peer import Peer, PeerError

    (tmp_path / "settings.json").write_text('{"steps": 2}')
    (tmp_path / "step_000000.npz").touch()
    peer = Peer(write_training_peer(tmp_path, made, end), {}, "cpu", None)
    with pytest.raises(PeerError, match=message):
        same_training._train_peer(peer, tmp_path, 2, "NCHW")


def test_what_pytorch_does_not_have_is_told_before_training(tmp_path, capsys):
    import same_training

    arguments = ["--config", str(write_config(tmp_path)), "--workdir", str(tmp_path / "run")]
    cases = {
        ("--model.name", "resnet18"): "model.name = resnet18: the PyTorch side has vgg16, ",
        ("--model.dtype", "bfloat16"): "the PyTorch side has model.dtype float32",
        ("--model.fc6-rank", "8"): "neither model.fc6_rank nor model.fc7_rank",
        ("--loss.localization", "giou"): "loss.localization = giou: the PyTorch side has smooth_l1",
        ("--peer-python", str(tmp_path / "nowhere")): "nowhere: No such file",
    }
    for more, message in cases.items():
        with pytest.raises(ValueError, match=message):
            same_training.main([*arguments, *more])
    with pytest.raises(SystemExit):
        same_training.main([*arguments, "--train.steps", "5"])
    assert "--train.steps: the length is given by --steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def narrow_efficientnet(trunk, head):
    """`efficientnet_lite0` of few channels."""
    return dataclasses.replace(
        architectures.ARCHITECTURES["efficientnet_lite0"],
        trunk=lambda **types: trunk.clone(**types),
        channels=trunk.expansion * trunk.stages[-1].channels,
        head=head,
    )


NETWORKS = {
    "tiny": lambda: SMALL_TINY,
    "efficientnet_lite0": lambda: narrow_efficientnet(
        TRUNK.clone(expansion=STAGES[5].expansion), partial(StagesHead, stages=partial(LAST_STAGES, expanded=True))
    ),
    "caffenet": lambda: dataclasses.replace(
        architectures.ARCHITECTURES["caffenet"], head=partial(FastRCNNHead, widths=(32, 16))
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_trains_as_we_do(tmp_path, monkeypatch, capsys, name):
    """On images of several sizes in a batch, with a rate that grows and falls, and gradients above the bound."""
    pytest.importorskip("torchvision")
    import same_training

    # Beside other tests, threads that wait for each other at full speed take minutes.
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    optimizer = {
        "learning_rate": 0.003 if name == "caffenet" else 0.03,
        "weight_decay": 0.02,  # so much that it shows
        "warmup": 0.2,
        "schedule": "cosine" if name.startswith("efficientnet") else "step",
        "drops": (14, 17),
        "clip_norm": 0.7,
        "rules": run_config(tmp_path).optimizer.rules if name == "tiny" else (),
    }
    monkeypatch.setattr(architectures, "ARCHITECTURES", {name: NETWORKS[name]()})
    sections = {"input": {"scales": (48, 64), "buckets": ((64, 96),)}, "loss": {"localization_weight": 2.0}}
    config = write_config(tmp_path, model={"name": name}, optimizer=optimizer, **sections)
    arguments = ["--config", str(config), "--workdir", str(tmp_path / "run"), "--steps", "20", "--keep"]
    same_training.main([*arguments, "--peer-python", sys.executable])
    printed = capsys.readouterr().out
    with (tmp_path / "run/same_training/losses.csv").open() as file:
        rows = [{column: float(value) for column, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 20
    for part in ("loss", "classification", "localization"):
        for row in rows:
            assert row[f"{part}_ours"] == pytest.approx(row[f"{part}_pytorch"], rel=1e-3, abs=1e-5), printed
    classification = [row["classification_ours"] for row in rows]
    assert min(classification) < 0.8 * classification[0], printed
    assert max(line["gradient_norm"] for line in read_metrics(tmp_path / "run")) > optimizer["clip_norm"]
    sizes = [np.load(path)["image_sizes"] for path in (tmp_path / "run/same_training/recording").glob("step_*.npz")]
    assert any((size != size[0]).any() for size in sizes)


def test_the_commands_of_the_guide_are_understood():
    import same_training

    text = (ROOT / "docs/training.md").read_text("utf-8").replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("python scripts/same_training.py")]
    assert len(commands) == 2
    for command in commands:
        options, settings = same_training._parse(shlex.split(command)[2:])
        assert options.steps == 200
        override(load_config(options.config), settings)
