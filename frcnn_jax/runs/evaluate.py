"""The evaluation of a run on its test set."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from frcnn_jax.checkpoint import read_evaluations
from frcnn_jax.config import Config, changed_settings, expand_user, from_json, to_json
from frcnn_jax.data.dataset import Dataset, open_dataset
from frcnn_jax.data.prepared.prepare import data_dir
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.distributed.arrays import from_first_process
from frcnn_jax.distributed.disk import first_on_disk
from frcnn_jax.distributed.start import start
from frcnn_jax.distributed.talk import from_first, is_first, process_count, same
from frcnn_jax.evaluation.coco import check_pycocotools
from frcnn_jax.evaluation.evaluate import evaluate_dataset
from frcnn_jax.evaluation.outputs.coco_json import file_ids
from frcnn_jax.evaluation.outputs.files import ResultFiles, check_report_folder
from frcnn_jax.models.fast_rcnn import init_params
from frcnn_jax.models.pixels import PixelNormalization
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.detector import Detector, load_detector
from frcnn_jax.runs.recipe import shortened
from frcnn_jax.training.data_record import count_trained
from frcnn_jax.training.initial import build_model
from frcnn_jax.training.statistics import identity_statistics

_OF_TEST = ("data.", "proposals.", "evaluate.", "input.test_", "input.buckets", "input.workers", "input.read_timeout")
_OF_TRAINING = ("data.train", "data.validation", "proposals.train_files", "proposals.validation_file")


def evaluate_run(
    workdir: str | Path,
    config: Config | None = None,
    *,
    directory: str | Path | None = None,
    voc_results: str | Path | None = None,
    coco_results: str | Path | None = None,
    voc_xml: str | Path | None = None,
    overwrite: bool = False,
    checkpoint: str | int | None = None,
    recipe: Config | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of `workdir` on its config's test set and writes metrics, page and pictures.

    Args:
        config: the run's config if None; another one to change the test set, its proposals or test settings.
        directory: folder for the results; `workdir/eval` if None.
        voc_results: folder for results files of the VOC server, also of a test set whose annotations are not public.
        coco_results: JSON file for COCO results. Ids of images and classes are those of the data set's COCO file, or of
            annotations that are written beside it as FILE.annotations.json.
        voc_xml: folder for VOC XML of the detections with a score of at least `config.evaluate.picture_score`.
        overwrite: replace existing results files.
        checkpoint: "best", "latest" or a step; if None, the best one if the run was measured while it trained
            (`train.evaluate_every`), else the newest. Where the best one is missing, the newest is taken and a warning
            logged.
        recipe: the config that the run's was made from, such as one that comes with the package; a remark says so if
            the run is much shorter. It also says so if the checkpoint is of far fewer steps than the run is to make.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: `config` changes a setting that does not affect evaluation, the test set has other classes, or
            results files cannot hold its ids or class names.
        FileNotFoundError: the checkpoint does not exist; names the existing ones.
        PermissionError, ImportError: as `load_detector`, because of a plug-in.
        ImportError: `evaluate.coco` is set and pycocotools is not installed.
        FileExistsError: a results file already exists, or `directory` has files of others where its own would be.
        OSError: a folder to write to is a file, or not writable. Raised, like the others, before proposals are computed
            and images are processed.
    """
    workdir = expand_user(workdir)
    if config is not None:
        start(config.distributed)
    detector = _load_in_all(workdir, checkpoint)
    config = detector.config if config is None else config
    check_changes(detector.config, config)
    with first_on_disk(data_dir(config.data)):
        dataset = open_dataset(config.data.test, config.data)
    if dataset.classes != detector.classes:
        raise ValueError(
            f"{dataset.name} has the classes {dataset.classes}, the detector {detector.classes}: "
            "give data.test a set of the detector's classes, their order by data.classes, or train on the new ones"
        )
    directory = workdir / "eval" if directory is None else expand_user(directory)
    files = None
    if is_first():  # only process 0 writes them
        check_report_folder(directory)
        if config.evaluate.coco:
            check_pycocotools()
        files = ResultFiles(
            voc_results=None if voc_results is None else expand_user(voc_results),
            coco_results=None if coco_results is None else expand_user(coco_results),
            voc_xml=None if voc_xml is None else expand_user(voc_xml),
            overwrite=overwrite,
            coco_ids=None if coco_results is None else file_ids(dataset, config.data),
        )
        files.check(dataset)
    same("another test set", dataset.fingerprint, "give each the same data, by data.root and data.tfds_dir")
    with first_on_disk(data_dir(config.data)):
        proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
    scales = list(config.input.test_scales or (config.input.test_scale,))
    return evaluate_dataset(
        detector.model,
        detector.params,
        detector.statistics,
        dataset,
        proposals,
        input_config=config.input,
        config=config.evaluate,
        directory=directory,
        title=_title(dataset, config),
        extra={
            "step": detector.step,
            **from_first(lambda: _chosen_by(workdir, detector.step, dataset)),
            **from_first(lambda: shortened(workdir, detector.config, recipe, detector.step)),
            **({"chosen": dataset.chosen} if getattr(dataset, "chosen", "") else {}),
            **from_first(lambda: _trained_on(workdir, dataset)),
            "settings": {
                **dataclasses.asdict(config.evaluate),
                "scales": scales,
                "max_size": config.input.test_max_size,
            },
        },
        files=files,
    )


def _load_in_all(workdir: Path, checkpoint: str | int | None) -> Detector:
    """`load_detector`; with several processes, process 0 reads it and sends it to the others."""
    detector = load_detector(workdir, checkpoint) if is_first() else None
    if process_count() == 1:
        return detector

    def describe() -> dict[str, Any]:
        pixels = dataclasses.asdict(detector.model.pixels)
        return {
            "config": to_json(detector.config),
            "classes": detector.classes,
            "pixels": pixels,
            "step": detector.step,
            "orientation": detector.orientation,
        }

    about = from_first(describe)
    config, classes, pixels = from_json(about["config"]), tuple(about["classes"]), about["pixels"]
    if not is_first():  # process 0 has checked and imported them
        load_plugins(config.plugins, workdir, remember=False)
    pixels = PixelNormalization(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["order"])
    model = build_model(config, len(classes) + 1, pixels)
    shapes = jax.eval_shape(lambda: (init_params(model, jax.random.key(0)), identity_statistics(len(classes) + 1)))
    found = (detector.params, detector.statistics) if is_first() else shapes
    params, statistics = jax.tree.map(jnp.asarray, from_first_process(found))
    return Detector(model, params, statistics, classes, config, about["step"], about["orientation"])


def _chosen_by(workdir: Path, step: int, dataset: Dataset) -> dict[str, str]:
    """The entry "checkpoint" of a run that was measured while it trained: best or not, and measured on what."""
    evaluations = read_evaluations(workdir)
    if evaluations.best is None:
        return {}
    if evaluations.best[0] != step:
        return {"checkpoint": f"not the best one, which is that of step {evaluations.best[0]}"}
    same = evaluations.measured.get("fingerprint") == dataset.fingerprint
    by = "these images, which makes its mAP optimistic" if same else evaluations.measured.get("data")
    return {"checkpoint": f"the best of {len(evaluations.values)}, chosen on {by}"}


def _trained_on(workdir: Path, dataset: Dataset) -> dict[str, int]:
    """The entry "trained_on" of a test set with images that the run was trained on: their number."""
    count = count_trained(workdir, dataset)
    return {"trained_on": count} if count else {}


def _title(dataset: Dataset, config: Config) -> str:
    """Title of the report: the folder by its name, and the split."""
    if not dataset.name.startswith("folder/"):
        return f"Fast R-CNN on {dataset.name}"
    return f"Fast R-CNN on {expand_user(config.data.root).resolve().name}, {dataset.name.removeprefix('folder/')}"


def check_changes(before: Config, now: Config) -> None:
    """Raises ValueError if a changed setting would silently have no effect on the evaluation."""
    idle = [name for name in changed_settings(before, now) if not name.startswith(_OF_TEST) or name in _OF_TRAINING]
    if idle:
        raise ValueError(
            f"{', '.join(idle)}: not a setting of an evaluation, but of the run; changeable are the sections data, "
            "proposals and evaluate, but for sets and files to train and validate with, and input.test_*, "
            "input.buckets, input.workers and input.read_timeout"
        )
