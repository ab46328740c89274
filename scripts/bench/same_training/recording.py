"""Inputs of a training run, in files that can be read without this package.

    settings.json: model, steps, grid (side of an RoI's), stride, localization_weight, optimizer; device and cores.

    start.npz: parameters before the first step as written by `scripts/export.py`, with box statistics and pixel
    normalization in "__metadata__".

    step_000000.npz: images uint8 [N, H, W, 3] (RGB, padded), image_sizes [N, 2], scales [N], rois and gt_boxes
    [N, R, 4] (half-open, in pixels before scaling), labels and mask [N, R].

Batches and RoIs are functions of the seed and the step, so they can be reproduced after the training.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from frcnn_jax.atomic import write_text
from frcnn_jax.config import Config, in_steps
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.pipeline import training_source
from frcnn_jax.machine import cores
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.training.initial import build_model, first_state
from frcnn_jax.training.loop import open_data
from frcnn_jax.training.step import sample_step
from frcnn_jax.weights.formats.table import write_weights
from frcnn_jax.weights.metadata import WeightsMetadata

# The peer's networks (`bench.pytorch.networks`) and losses.
MODELS = ("vgg16", "vgg_cnn_m_1024", "caffenet", "tiny",
          *(f"efficientnet_lite{i}{kind}" for i in range(3) for kind in ("", "_fc")))  # fmt: skip
_LOSSES = {"classification": "cross_entropy", "localization": "smooth_l1"}


def check_config(config: Config) -> None:
    """Raises ValueError if the peer lacks the network, loss or type."""
    model = config.model
    if model.name not in MODELS:
        raise ValueError(f"model.name = {model.name}: the PyTorch side has {', '.join(MODELS)}")
    if model.dtype != "float32" or model.fc6_rank is not None or model.fc7_rank is not None:
        raise ValueError("the PyTorch side has model.dtype float32, and neither model.fc6_rank nor model.fc7_rank")
    for part, name in _LOSSES.items():
        given = getattr(config.loss, part)
        if given != name:
            raise ValueError(f"loss.{part} = {given}: the PyTorch side has {name}, give --loss.{part} {name}")


def record(config: Config, folder: Path, device: str) -> list[tuple[int, int]]:
    """Writes the files above into `folder`.

    Args:
        config: config with `train.steps` and rules.
        device: device of the peer, cpu or cuda.

    Returns:
        The number of foreground and of background RoIs of each step.
    """
    dataset, proposals, _ = open_data(config, [open_dataset(name, config.data) for name in config.data.train])
    model = build_model(config, len(dataset.classes) + 1)
    state, key = first_state(config, model, dataset, proposals)
    statistics = jax.tree.map(np.asarray, state.statistics)
    about = WeightsMetadata(tuple(dataset.classes), model.pixels, statistics, 0, config)
    write_weights(folder / "start.npz", flatten_dict(state.params, sep="/"), about, overwrite=True)
    write_text(folder / "settings.json", json.dumps(_settings(config, model, device), indent=1) + "\n")

    source = training_source(dataset, proposals, config.input, config.train.steps, config.train.seed, model.stride)
    draw = jax.jit(partial(sample_step, config=config.sampling))
    counts = []
    for step in range(config.train.steps):
        batch = source[step]
        # Sampling needs no pixels, and without them it is compiled once for all sizes.
        sample = jax.device_get(draw(batch.replace(images=np.zeros((len(batch.images), 1, 1, 3), np.uint8)), key, step))
        np.savez(
            folder / f"step_{step:06d}.npz",
            images=batch.images,
            image_sizes=batch.image_sizes,
            scales=batch.scales,
            **{field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)},
        )
        foreground = int((sample.labels > 0).sum())
        counts.append((foreground, int(sample.mask.sum()) - foreground))
    return counts


def _settings(config: Config, model: FastRCNN, device: str) -> dict[str, Any]:
    steps, optimizer = config.train.steps, dataclasses.asdict(config.optimizer)
    optimizer["warmup"] = in_steps(config.optimizer.warmup, steps)
    optimizer["drops"] = [in_steps(drop, steps) for drop in config.optimizer.drops]
    return {
        "model": config.model.name,
        "steps": steps,
        "grid": model.output_size[0],
        "stride": model.stride,
        "localization_weight": config.loss.localization_weight,
        "optimizer": optimizer,
        "device": device,
        "cores": cores(),
    }
