"""A training run from a config and a workdir, resumed where it was: data, model, state, step, loop."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints, read_evaluations
from frcnn_jax.config import Config, absolute_paths, expand_user
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.pipeline import concatenate, iterate, training_source
from frcnn_jax.data.proposals.source import open_proposals, proposal_files
from frcnn_jax.locks import folder_lock
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.patience import PatientIterator
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.data_record import check_data, check_labels, record_data, write_record
from frcnn_jax.training.interruption import deferred_signals, report_ignored_ctrl_c
from frcnn_jax.training.losses import create_loss, name_loss
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.optimizer import create_optimizer, learning_rate_schedule
from frcnn_jax.training.state import TrainState, abstract_state, build_model, create_state, initial_params
from frcnn_jax.training.statistics import box_statistics
from frcnn_jax.training.step import AXIS, MultiTaskLoss, check_loss, make_train_step, map_train_step
from frcnn_jax.training.validation import Evaluation, Validation, check_measured
from frcnn_jax.training.workdir import check_settings, claim_workdir, with_length

# RGB pictures by name, of the state after a step, its batch on the host, the key of the run and the step.
MakePictures = Callable[[TrainState, Any, jax.Array, int], Mapping[str, np.ndarray]]


def train(
    config: Config,
    workdir: str | Path,
    loss: MultiTaskLoss | None = None,
    *,
    accept_changed_data: bool = False,
    open_evaluation: Callable[[Config, Dataset], Evaluation] | None = None,
    open_pictures: Callable[..., MakePictures] | None = None,
) -> TrainState:
    """`runs.train.train`, which says all but the last argument, with any measurement of a run while it trains.

    Args:
        open_evaluation: makes the measurement that `train.evaluate_every` asks for, of the config and the training
            set, before the first step.
        open_pictures: makes what `train.pictures_every` shows, of the config, the model, the training set, its
            proposals and the measurement; without it there are no pictures.

    Raises:
        ValueError: `train.evaluate_every` is set and there is no `open_evaluation`.
    """
    if config.train.evaluate_every is not None and open_evaluation is None:
        raise ValueError("train.evaluate_every is set, but nothing to measure with is given: call frcnn_jax.train")
    check_loss(loss)
    workdir = expand_user(workdir)
    load_plugins(config.plugins, workdir)
    config = resolve_rules(absolute_paths(config))
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    if config.input.batch_size % mesh.size:
        raise ValueError(f"input.batch_size {config.input.batch_size} cannot be shared by {mesh.size} devices")
    if loss is None:
        loss = create_loss(config.loss, workdir)
    else:
        config = dataclasses.replace(config, loss=name_loss(loss))
    report_ignored_ctrl_c()
    with ExitStack() as resources:
        resources.enter_context(folder_lock(workdir, purpose="training"))
        check_settings(workdir, config)
        checkpoints = resources.enter_context(closing(Checkpoints(workdir, config.train.keep_checkpoints)))
        before = None if checkpoints.latest is None else checkpoints.metadata()
        datasets = [open_dataset(name, config.data) for name in config.data.train]
        config = with_length(config, workdir, sum(map(len, datasets)))
        check_settings(workdir, config)
        if before is not None and checkpoints.latest > config.train.steps:
            raise ValueError(
                f"{workdir} has reached step {checkpoints.latest}, beyond train.steps = {config.train.steps}: "
                f"give more {_length_option(config)}, or another --workdir"
            )
        dataset, proposals, files = open_data(config, datasets)
        record = record_data(dataset, files)
        if before is not None:
            changed = check_data(workdir, before, record, dataset, accept_changed_data)
            if changed and checkpoints.latest >= config.train.steps:
                raise ValueError(
                    f"{workdir} is at its last step, {checkpoints.latest}, so that nothing is learned from the changed "
                    "data and its checkpoint stays that of the data before: give more "
                    f"{_length_option(config)} to go on with them, or the data as they were"
                )
        evaluation = None
        if config.train.evaluate_every is not None:
            evaluation = open_evaluation(config, dataset)
            check_measured(workdir, evaluation, accept_changed_data)
        claim_workdir(workdir, config)

        model = build_model(config, len(dataset.classes) + 1, None if before is None else before.pixels)
        source = training_source(dataset, proposals, config.input, config.train.steps, config.train.seed, model.stride)
        iterator = iterate(source, config.input.workers)
        iterator = PatientIterator(iterator, config.input.read_timeout, source.being_read)
        resources.callback(iterator.close)
        if before is None:
            state, key = first_state(config, model, dataset, proposals)
        else:
            state, key, position = checkpoints.restore(abstract_state(config, len(dataset.classes) + 1))
            iterator.set_state(position)
            print(f"Going on from step {int(state.step)} of {workdir}")
        state, key = jax.device_put((state, key), NamedSharding(mesh, PartitionSpec()))

        optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
        step = map_train_step(make_train_step(model, optimizer, loss=loss, sampling=config.sampling), mesh)
        schedule = learning_rate_schedule(config.optimizer, config.train.steps)
        values = read_evaluations(workdir).up_to(int(state.step))
        log = resources.enter_context(closing(MetricsLog(workdir, int(state.step), schedule, values.steps)))
        validation = Validation(workdir, config, evaluation, model, values, log)
        pictures = None
        if open_pictures is not None and config.train.pictures_every:
            pictures = open_pictures(config, model, dataset, proposals, evaluation)
        metadata = CheckpointMetadata(dataset.classes, model.pixels, config, record.fingerprint, record.proposal_files)

        def save(state: TrainState) -> None:
            checkpoints.save(state, key, iterator.get_state(), metadata, best=validation.best)
            write_record(workdir, record)

        # The resources are closed, and the lock is released, before a signal that came has its effect: it may end
        # the process.
        with deferred_signals() as interrupted, resources:
            return _loop(
                *(config, step, state, key, iterator, mesh, log, save, validation, pictures),
                *(dataset.image_ids, interrupted),
            )


def _loop(
    config: Config,
    step: Callable,
    state: TrainState,
    key: jax.Array,
    iterator: Any,
    mesh: Mesh,
    log: MetricsLog,
    save: Callable[[TrainState], None],
    validation: Validation,
    pictures: MakePictures | None,
    image_ids: tuple[str, ...],
    interrupted: Callable[[], bool],
) -> TrainState:
    by_image = NamedSharding(mesh, PartitionSpec(AXIS))
    first, steps = int(state.step), config.train.steps
    # Without a bar it fits into 80 columns.
    form = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"
    progress = tqdm(total=steps, initial=first, desc="Training", smoothing=0.05, bar_format=form)

    number = first
    # True where the run was stopped between a checkpoint and its measurement.
    due = validation.due(number)
    stopped = due and not validation.measure(state, interrupted, progress.write)
    while number < steps and not stopped and not validation.exhausted:
        number += 1
        started = time.perf_counter()
        batch = next(iterator)
        waited = time.perf_counter() - started
        state, metrics = step(state, jax.device_put(batch, by_image), key)
        log.add(number, metrics, [image_ids[i] for i in batch.image_index], waited)
        if pictures is not None and number % config.train.pictures_every == 0:
            log.add_pictures(number, partial(pictures, state, batch, key, number))
        last = number == steps or interrupted()
        due = validation.due(number)
        # It comes before the measurement, so that no kill or interruption of that loses the step.
        checkpoint_due = last or due or number % config.train.checkpoint_every == 0
        if number % config.train.log_every == 0 or checkpoint_due:
            # Raises where a loss is not finite, so that no checkpoint is written after it.
            progress.set_postfix_str(log.flush())
        if checkpoint_due:
            save(state)
        progress.update()
        stopped = last
        if due:
            stopped = interrupted() or not validation.measure(state, interrupted, progress.write) or last
    progress.close()
    if validation.exhausted:
        print(validation.ending(number))
    return state


def _length_option(config: Config) -> str:
    """The option of the scripts that makes the training longer."""
    return "--train.steps" if config.train.epochs is None else "--train.epochs"


def open_data(config: Config, datasets: list[Any]) -> tuple[Any, Sequence, tuple[str | None, ...]]:
    """The training sets as one `Dataset`, its proposals, and the files that these were read from.

    Raises:
        ValueError: the sets have different classes, or a label is not one of them.
    """
    files, _ = proposal_files(config.proposals, config.data.train)
    parts = [open_proposals(d, config.proposals, file) for d, file in zip(datasets, files, strict=True)]
    dataset, proposals = concatenate(datasets, parts)
    check_labels(dataset)
    return dataset, proposals, files


def first_state(config: Config, model: FastRCNN, dataset: Any, proposals: Any) -> tuple[TrainState, jax.Array]:
    """The state before the first step, and the key of the run."""
    statistics = box_statistics(
        proposals,
        dataset.annotations,
        len(dataset.classes) + 1,
        foreground_iou=config.sampling.foreground_iou,
        use_difficult=config.sampling.use_difficult,
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
    )
    init_key, key = jax.random.split(jax.random.key(config.train.seed))
    return create_state(config, initial_params(config, model, statistics, init_key), statistics), key
