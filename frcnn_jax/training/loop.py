"""A training run from a config and a workdir, resumed where it was: data, model, state, step, loop."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints
from frcnn_jax.config import Config, absolute_paths, expand_user
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.pipeline import concatenate, iterate, training_source
from frcnn_jax.data.proposals.source import open_proposals, proposal_files
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.interruption import deferred_signals
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.optimizer import create_optimizer, learning_rate_schedule
from frcnn_jax.training.state import TrainState, abstract_state, build_model, create_state, initial_params
from frcnn_jax.training.statistics import box_statistics
from frcnn_jax.training.step import AXIS, create_loss, make_train_step, map_train_step
from frcnn_jax.training.workdir import claim_workdir

_log = logging.getLogger(__name__)


def train(config: Config, workdir: str | Path) -> TrainState:
    """Trains until `config.train.steps`, going on from the newest checkpoint in `workdir` if there is one.

    Interrupted by Ctrl-C or SIGTERM, it ends the step and writes a checkpoint first.

    Raises:
        ValueError: the workdir holds a run with other settings, or a setting does not fit the data or the devices.
        ImportError: a module of `config.plugins` cannot be imported, or lies in the workdir.
        FloatingPointError: the loss is not finite; names the step and the images. Checkpoints are left as they were.
        KeyboardInterrupt: interrupted; the state is in the newest checkpoint.
    """
    workdir = expand_user(workdir)
    load_plugins(config.plugins, workdir)
    config = resolve_rules(absolute_paths(config))
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    if config.input.batch_size % mesh.size:
        raise ValueError(f"input.batch_size {config.input.batch_size} cannot be shared by {mesh.size} devices")
    claim_workdir(workdir, config)

    datasets = [open_dataset(name, config.data) for name in config.data.train]
    files, _ = proposal_files(config.proposals, config.data.train)
    parts = [open_proposals(d, config.proposals, file) for d, file in zip(datasets, files, strict=True)]
    dataset, proposals = concatenate(datasets, parts)

    num_classes = len(dataset.classes) + 1
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    before = None if checkpoints.latest is None else checkpoints.metadata()
    if before and (before.classes, before.data) != (dataset.classes, dataset.fingerprint):
        raise ValueError(f"{dataset.name} has changed since {workdir} was trained on it: give another --workdir")
    model = build_model(config, num_classes, before.pixels if before else None)
    metadata = CheckpointMetadata(dataset.classes, model.pixels, config, dataset.fingerprint)
    everywhere = NamedSharding(mesh, PartitionSpec())
    source = training_source(dataset, proposals, config.input, config.train.steps, config.train.seed, model.stride)
    iterator = iterate(source, config.input.workers)
    if before is None:
        init_key, key = jax.random.split(jax.random.key(config.train.seed))
        statistics = box_statistics(
            proposals,
            dataset.annotations,
            num_classes,
            foreground_iou=config.sampling.foreground_iou,
            use_difficult=config.sampling.use_difficult,
            flip=config.input.flip,
            flip_vertical=config.input.flip_vertical,
        )
        state = create_state(config, initial_params(config, model, statistics, init_key), statistics)
    else:
        state, key, position = checkpoints.restore(abstract_state(config, num_classes))
        iterator.set_state(position)
        print(f"Going on from step {int(state.step)} of {workdir}")
    state, key = jax.device_put((state, key), everywhere)

    optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
    step = map_train_step(
        make_train_step(model, optimizer, loss=create_loss(config.loss), sampling=config.sampling), mesh
    )

    def save(state: TrainState) -> None:
        checkpoints.save(state, key, iterator.get_state(), metadata)

    log = MetricsLog(workdir, int(state.step), learning_rate_schedule(config.optimizer, config.train.steps))
    with deferred_signals() as interrupted:
        try:
            return _loop(config, step, state, key, iterator, mesh, log, save, dataset.image_ids, interrupted)
        finally:
            log.close()
            checkpoints.close()


def _loop(
    config: Config,
    step: Callable,
    state: TrainState,
    key: jax.Array,
    iterator: Any,
    mesh: Mesh,
    log: MetricsLog,
    save: Callable[[TrainState], None],
    image_ids: tuple[str, ...],
    interrupted: Callable[[], bool],
) -> TrainState:
    by_image = NamedSharding(mesh, PartitionSpec(AXIS))
    first, steps = int(state.step), config.train.steps
    progress = tqdm(total=steps, initial=first, desc="Training", unit="step", smoothing=0.05)
    for number in range(first + 1, steps + 1):
        started = time.perf_counter()
        batch = next(iterator)
        waited = time.perf_counter() - started
        state, metrics = step(state, jax.device_put(batch, by_image), key)
        log.add(number, metrics, [image_ids[i] for i in batch.image_index], waited)
        last = number == steps or interrupted()
        checkpoint_due = last or number % config.train.checkpoint_every == 0
        if number % config.train.log_every == 0 or checkpoint_due:
            # Raises where a loss is not finite, so that no checkpoint is written after it.
            progress.set_postfix_str(log.flush())
        if checkpoint_due:
            save(state)
        progress.update()
        if last:
            break
    progress.close()
    return state
