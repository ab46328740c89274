"""Whole training runs on a small VOC folder, here and in processes that are killed."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    ParameterRule,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
)
from frcnn_jax.models import architectures
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.models.heads import FastRCNNHead
from frcnn_jax.models.tiny import TinyBackbone
from frcnn_jax.runs.train import train as measured_train
from frcnn_jax.training import initial, loop, validation
from frcnn_jax.training.loop import train
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.statistics import identity_statistics
from tests.data.voc_files import HEIGHT, WIDTH, VocFiles, object_xml

ROOT = Path(__file__).parents[2]
TRAIN, TEST = [f"a{i}" for i in range(8)], [f"t{i}" for i in range(4)]
WITHOUT_OBJECTS, WITHOUT_PROPOSALS = ("a1", "t1"), ("a2", "t2")
SMALL_TINY = dataclasses.replace(
    architectures.ARCHITECTURES["tiny"],
    trunk=lambda **types: TinyBackbone((16, 16, 16), (1, 1, 1), **types),
    channels=16,
    output_size=(3, 3),
    head=partial(FastRCNNHead, widths=(32, 16)),
)


def write_data(root: Path) -> None:
    """8 images to train on and 4 to test, of two classes, with a file of proposals each."""
    random = np.random.default_rng(0)
    files = VocFiles(root)
    for split, names in (("train", TRAIN), ("test", TEST)):
        proposals = {}
        for i, name in enumerate(names):
            box = np.array([3 + i, 2 + i, 20 + i, 18 + i])
            objects = [] if name in WITHOUT_OBJECTS else [object_xml(("cat", "dog")[i % 2], box)]
            files.image(name, *objects)
            near = box + random.integers(-2, 3, (6, 4)) - [1, 1, 0, 0]
            far = np.array([[20, 15, 40, 30], [0, 0, 40, 30], [0, 10, 16, 30]])
            boxes = np.clip(np.concatenate([near, far]), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
            proposals[name] = np.zeros((0, 4)) if name in WITHOUT_PROPOSALS else boxes
        files.split(split, *names)
        np.savez(root / f"{split}.npz", **proposals)


def run_config(root: Path, **train_settings) -> Config:
    """`tiny` at 64 x 96 pixels with everything that is random: flips, RoIs, dropout."""
    return Config(
        data=DataConfig(train=("folder/train",), test="folder/test", root=str(root), tfds_dir=str(root / "prepared")),
        proposals=ProposalConfig(
            method="file", train_files=(str(root / "train.npz"),), test_file=str(root / "test.npz"), min_side=1
        ),
        input=InputConfig(batch_size=2, scales=(64,), max_size=96, test_scale=64, test_max_size=96),
        model=ModelConfig("tiny"),
        sampling=SamplingConfig(rois_per_image=8, background_iou=(0.0, 0.5)),
        optimizer=OptimizerConfig(
            learning_rate=0.01,
            drops=(6,),
            rules=(ParameterRule("^backbone/stem", None), ParameterRule("/(bias|scale)$", 2, 0), ParameterRule(".")),
        ),
        train=TrainConfig(**({"steps": 12, "log_every": 2, "checkpoint_every": 4} | train_settings)),
        evaluate=EvalConfig(score_threshold=1e-5, pictures=2),
    )


def with_learning_rate(config: Config, rate: float) -> Config:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate))


def shrink_tiny(setattr=setattr) -> None:
    """Makes `tiny` small enough to be compiled in a moment."""
    setattr(architectures, "ARCHITECTURES", {"tiny": SMALL_TINY})


def share_steps(setattr=setattr) -> None:
    """Has runs of this process with equal models, optimizers and losses share one step, so that it is traced once."""
    made = {}

    def share(name, key):
        function = getattr(loop, name)

        def call(*arguments, **settings):
            place = name, key(*arguments, **settings)
            if place not in made:
                made[place] = function(*arguments, **settings)
            return made[place]

        setattr(loop, name, call)

    # The length of a training is none of its step's: the loop gives it the rate.
    share("create_optimizer", lambda config, params, steps: (config, jax.tree.structure(params)))
    share("make_train_step", lambda model, optimizer, **settings: (model, id(optimizer), *sorted(settings.items())))
    share("map_train_step", lambda step, mesh: (step, mesh))


def step_in_a_moment(setattr=setattr) -> None:
    """Replaces the training step by one that is not compiled: parameters move by 1, and by the batch's first image.

    They begin with zeros.
    """

    def map_train_step(step, mesh):
        def run(state, batch, key, rate):
            shift = 1 + np.float32(0.001) * np.asarray(batch.image_index)[0]
            trainable = jax.tree.map(lambda x: x + shift, state.trainable)
            names = ("loss", "classification", "localization", "foreground", "background", "accuracy", "gradient_norm")
            metrics = dict.fromkeys(names, shift)
            return dataclasses.replace(state, step=state.step + 1, trainable=trainable), metrics

        return run

    def zeros(config, model, statistics, key):
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    setattr(loop, "map_train_step", map_train_step)
    setattr(initial, "initial_params", zeros)
    setattr(
        initial, "box_statistics", lambda proposals, annotations, num_classes, **_: identity_statistics(num_classes)
    )


def train_until_waiting(root: str, workdir: str, last: int) -> None:
    """Trains, and after step `last` waits to be killed."""
    shrink_tiny()
    add = MetricsLog.add

    def add_or_wait(self, step, *arguments):
        add(self, step, *arguments)
        if step == last:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":  # which is written beside the steps
                    thread.join()
            print("waiting", flush=True)
            time.sleep(600)

    MetricsLog.add = add_or_wait
    train(run_config(Path(root)), workdir)


def kill_after(root: Path, workdir: Path, last: int) -> int:
    """Trains in a process that is killed with signal 9 once it has made step `last`; returns its exit status."""
    return _kill_when_waiting(f"train_until_waiting({str(root)!r}, {str(workdir)!r}, {last})")


def measure_until_waiting(root: str, workdir: str, last: int) -> None:
    """Trains, measured at every third step, and waits to be killed once step `last` is measured and not recorded."""
    shrink_tiny()
    record = validation.write_evaluations

    def record_or_wait(folder, evaluations):
        if evaluations.steps[-1] == last:
            print("waiting", flush=True)
            time.sleep(600)
        record(folder, evaluations)

    validation.write_evaluations = record_or_wait
    measured_train(run_config(Path(root), evaluate_every=3, keep_checkpoints=1), workdir)


def kill_in_measurement(root: Path, workdir: Path, last: int) -> int:
    """`measure_until_waiting` in a process that is killed with signal 9; returns its exit status."""
    return _kill_when_waiting(f"measure_until_waiting({str(root)!r}, {str(workdir)!r}, {last})")


def _kill_when_waiting(call: str) -> int:
    code = f"from tests.training.runs import *; {call}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if line.strip() == "waiting":
                break
        process.kill()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert line.strip() == "waiting", errors[-3000:]
    return process.returncode


def train_until_stopped(root: str, workdir: str, last: int) -> None:
    """Trains where Ctrl-C is ignored, sends itself SIGINT, which has no effect, and SIGTERM in step `last`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shrink_tiny()
    step_in_a_moment()
    add = MetricsLog.add

    def add_and_stop(self, step, *arguments):
        add(self, step, *arguments)
        if step == last - 1:
            os.kill(os.getpid(), signal.SIGINT)
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    MetricsLog.add = add_and_stop
    train(run_config(Path(root)), workdir)


def stop_by_sigterm(root: Path, workdir: Path, last: int) -> subprocess.CompletedProcess:
    """The result of `train_until_stopped` in a process of its own."""
    code = f"from tests.training.runs import *; train_until_stopped({str(root)!r}, {str(workdir)!r}, {last})"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
