"""A training run from a config and a workdir, resumed at its newest checkpoint: data, model, state, step, loop."""

import dataclasses
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.checkpoint import CheckpointMetadata
from frcnn_jax.config import Config, absolute_paths, expand_user, to_json
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.joined import join_datasets
from frcnn_jax.data.patience import PatientIterator
from frcnn_jax.data.pipeline import check_object_counts, iterate, training_source, without_background
from frcnn_jax.data.prepared.prepare import data_dir
from frcnn_jax.data.proposals.source import open_joined_proposals, proposal_files
from frcnn_jax.distributed.arrays import (
    compiled_together,
    data_mesh,
    digest,
    local_places,
    meet,
    on_every_device,
)
from frcnn_jax.distributed.disk import first_on_disk
from frcnn_jax.distributed.start import start
from frcnn_jax.distributed.talk import is_first, process_count, same
from frcnn_jax.distributed.watch import stops_together
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.data_record import DataRecord, check_labels, record_data
from frcnn_jax.training.initial import abstract_state, build_model, first_state
from frcnn_jax.training.interruption import deferred_signals, report_ignored_ctrl_c, say_stopped
from frcnn_jax.training.losses import MultiTaskLoss, check_loss, create_loss, name_loss
from frcnn_jax.training.metrics import MetricsLog
from frcnn_jax.training.optimizer import create_optimizer, learning_rates
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.step import make_train_step, map_train_step
from frcnn_jax.training.steps import MakePictures, Run, run_steps
from frcnn_jax.training.validation import Evaluation, Validation
from frcnn_jax.training.workdir import RunFolder, run_folder

_log = logging.getLogger(__name__)

OpenEvaluation = Callable[[Config, Dataset, Callable[[Mapping[str, Any]], None]], Evaluation]


def train(
    config: Config,
    workdir: str | Path,
    loss: MultiTaskLoss | None = None,
    *,
    accept_changed_data: bool = False,
    before_data: Callable[[Config], Any] | None = None,
    open_evaluation: OpenEvaluation | None = None,
    open_pictures: Callable[..., MakePictures] | None = None,
) -> TrainState:
    """Trains as `runs.train.train` does, which describes the other arguments; measurement and pictures are passed in.

    Args:
        before_data: called before data are opened, when settings, workdir and initial weights have been found usable.
        open_evaluation: builds the measurement for `train.evaluate_every` before the first step, from the config, the
            training set and a check, which it calls with `Evaluation.measured` before anything that takes long; the
            check raises ValueError if the values so far would not compare.
        open_pictures: builds the pictures for `train.pictures_every` from the config, the model, the training set, its
            proposals and the measurement; no pictures without it.

    Raises:
        ValueError: `train.evaluate_every` is set without `open_evaluation`.
    """
    if config.train.evaluate_every is not None and open_evaluation is None:
        raise ValueError("train.evaluate_every is set, but open_evaluation is not given: call frcnn_jax.train")
    check_loss(loss)
    workdir = expand_user(workdir)
    start(config.distributed)
    load_plugins(config.plugins, workdir)
    config = resolve_rules(absolute_paths(config))
    if loss is not None:
        config = dataclasses.replace(config, loss=name_loss(loss))
    mesh = data_mesh()
    places = local_places(mesh, config.input.batch_size)
    meet(mesh)
    same("other settings", to_json(config), "start all with the same command")
    if mesh.size > 1:
        print(
            f"{mesh.size} devices share batches of {config.input.batch_size} images, which changes neither rate nor "
            "steps; a batch k times as large wants k times the rate, 1/k of the steps and drops, and some warm-up"
        )
    if loss is None:
        loss = create_loss(config.loss, workdir)
    report_ignored_ctrl_c()
    with ExitStack() as resources:
        folder = resources.enter_context(run_folder(workdir, config, accept_changed_data))
        pixels = folder.pixels(config)  # first, as weights that are missing should not be found after the proposals
        config, dataset, proposals, record = _open_training_set(config, folder, before_data)
        evaluation = None
        if config.train.evaluate_every is not None:
            with first_on_disk(data_dir(config.data)):
                evaluation = open_evaluation(config, dataset, folder.check_measured)
        folder.claim(config)

        model = build_model(config, len(dataset.classes) + 1, pixels)
        source = training_source(
            *(dataset, proposals, config.input, config.train.steps, config.train.seed, model.stride), places=places
        )
        iterator = iterate(source, config.input.workers)
        iterator = PatientIterator(iterator, config.input.read_timeout, source.being_read)
        resources.callback(iterator.close)
        state, key, position = folder.state(
            abstract_state(config, len(dataset.classes) + 1),
            lambda: first_state(config, model, dataset, proposals),
        )
        if position is not None:
            iterator.set_state(position)
        state, key = on_every_device((state, key), mesh)

        optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
        step = make_train_step(
            model, optimizer, loss=loss, sampling=config.sampling, fixed_order=config.distributed.fixed_order
        )
        rates = learning_rates(config.optimizer, config.train.steps)
        values = folder.evaluations(int(state.step))
        if position is None and is_first() and (workdir / "metrics.jsonl").is_file():
            every = config.train.checkpoint_every
            print(f"{workdir} has no checkpoint yet (train.checkpoint_every = {every}): it begins with step 0 again")
        log = resources.enter_context(
            closing(MetricsLog(workdir if is_first() else None, int(state.step), rates.__getitem__, values.steps))
        )
        validation = Validation(workdir, config, evaluation, model, values, log)
        if position is not None and not validation.ends_early(int(state.step)):
            print(describe_resumed(workdir, config, int(state.step)))
        pictures = None
        if open_pictures is not None and config.train.pictures_every and is_first():
            pictures = open_pictures(config, model, dataset, proposals, evaluation)
        metadata = CheckpointMetadata(
            classes=dataset.classes,
            pixels=model.pixels,
            config=config,
            data=record.fingerprint,
            proposal_files=record.proposal_files,
            orientation=getattr(dataset, "orientation", None) or config.data.default_orientation,
        )

        def save(state: TrainState, wait: bool) -> None:
            folder.save(state, key, iterator.get_state(), metadata, record, best=validation.best, wait=wait)

        run = Run(
            settings=config.train,
            step=compiled_together(map_train_step(step, mesh)),
            rates=rates,
            key=key,
            mesh=mesh,
            source=source,
            batches=iterator,
            log=log,
            save=save,
            check_saved=folder.check_saved,
            validation=validation,
            pictures=pictures,
        )
        # Close the resources and release the lock before a held signal takes effect: it may end the process.
        with deferred_signals() as received, resources, stops_together(int(state.step), received) as stops:
            state = run_steps(run, state, stops)
            if stops.stopped:
                say_stopped(int(state.step), config.train.steps)
                if not received():  # but another process has
                    raise KeyboardInterrupt
            return state


def _open_training_set(
    config: Config, folder: RunFolder, before_data: Callable[[Config], Any] | None
) -> tuple[Config, Dataset, Sequence, DataRecord]:
    """The config with its number of steps, and the results of `open_data`, which are the same in all processes."""
    with first_on_disk(data_dir(config.data)):
        if before_data is not None:
            before_data(config)
        datasets = [open_dataset(name, config.data) for name in config.data.train]
    config = folder.with_length(config, sum(map(len, datasets)))
    with first_on_disk(data_dir(config.data)):
        dataset, proposals, record = open_data(config, datasets, partial(folder.check_data, config))
    compare_data(record, proposals)
    empty = sum(not len(annotation.boxes) for annotation in dataset.annotations)
    if unused := without_background(empty, config.sampling.background_iou):
        _log.warning("%s: %s", dataset.name, unused)
    return config, dataset, proposals, record


def compare_data(record: DataRecord, proposals: Sequence) -> None:
    """Raises ValueError if images, objects or proposals of a process differ from those of process 0."""
    same("other training data", record.fingerprint, "give each the same data, by data.root and data.tfds_dir")
    if process_count() > 1:
        same("other proposals", digest([np.asarray(boxes) for boxes in proposals]), "give each the same files")


def open_data(
    config: Config, datasets: Sequence[Dataset], check: Callable[[DataRecord, Dataset], Any] = lambda *_: None
) -> tuple[Dataset, Sequence, DataRecord]:
    """The training sets as one `Dataset`, its proposals, and the record of both.

    Args:
        check: raises an error for data that cannot be used; called before proposals, which may take hours, are opened.

    Raises:
        ValueError: the sets have different classes, a label is not one of them, or an image has too many objects.
    """
    files, _ = proposal_files(config.proposals, config.data.train)
    dataset = join_datasets(datasets)
    check_labels(dataset)
    check_object_counts(dataset, config.input.max_objects)
    record = record_data(dataset, files)
    check(record, dataset)
    return dataset, open_joined_proposals(datasets, config.proposals, files), record


def describe_resumed(workdir: Path, config: Config, step: int) -> str:
    """Message about a run that starts at a step: it goes on, or is finished and how to train further."""
    if step < config.train.steps:
        return f"Going on from step {step} of {workdir}"
    further = f"give more {config.train.length_option}"
    if config.optimizer.follows_length:
        further = f"start from it in another --workdir, with --model.weights {shlex.quote(str(workdir))}"
    return f"The training of {workdir} is finished, at step {step}; to train further, {further}"
