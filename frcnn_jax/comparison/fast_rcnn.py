"""Fast R-CNN in the comparison: trained and evaluated as usual, with times by stage in a record, then again with
truncated fully connected layers (section 3.1).
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from frcnn_jax.checkpoint import open_checkpoint
from frcnn_jax.comparison.feature_store import fingerprint
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.comparison.stages.features import Watch
from frcnn_jax.comparison.stages.run import check_classes
from frcnn_jax.comparison.stages.share import part_of, spread
from frcnn_jax.config import Config, expand_user, replace, with_steps
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.detection.inputs import single_pyramid
from frcnn_jax.detection.pyramid import ROIS_AT_A_TIME
from frcnn_jax.detection.settings import detection_settings
from frcnn_jax.detection.stages import detect_pyramid
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.plugins import load_plugins
from frcnn_jax.runs.compress import compress_run, compressed_workdir
from frcnn_jax.runs.detector import Detector, load_detector
from frcnn_jax.runs.evaluate import evaluate_run
from frcnn_jax.runs.train import train as train_run
from frcnn_jax.types import Detections
from frcnn_jax.weights.svd import LAYERS

_PAPER_ROIS = 40_000 * 128
_LARGEST_RANKS = {"fc6": 1024, "fc7": 256}


def train(config: Config, comparison: ComparisonConfig, folder: str | Path) -> None:
    """Trains in `folder/run`, or resumes there, and records the time of its steps.

    With a share below 1 only that share of the steps is made, at least two if there are as many; the first is not
    timed, as it compiles, unless it is the only one.

    Raises:
        ValueError, OSError and others: as `frcnn_jax.train`; the test set does not exist, or has other
            classes.
    """
    folder = expand_user(folder)
    load_plugins(config.plugins, folder)
    config = resolve_rules(config)
    record = Record(folder / "record.json", system="fast_rcnn", model=config.model.name)
    datasets = [open_dataset(name, config.data) for name in config.data.train]
    check_classes(open_dataset(config.data.test, config.data), datasets[0].classes)
    images = sum(map(len, datasets))
    config = with_steps(config, images)
    total, skipped = config.train.steps, 0
    if comparison.share < 1:
        steps = min(max(part_of(total, comparison.share), 2), total)
        skipped = int(steps > 1)
        lengths = {"steps": steps, "log_every": 1, "checkpoint_every": steps, "evaluate_every": None, "patience": None}
        config = replace(config, train=lengths)
    train_run(config, folder / "run")
    seconds, timed = _training_time(folder / "run", config.input.batch_size, skipped)
    with open_checkpoint(folder / "run", "latest") as checkpoints:
        done = checkpoints.latest
    record.set_train("fine_tuning", seconds, share=timed / total if comparison.share < 1 else 1.0)
    windows = done * config.input.batch_size * config.sampling.rois_per_image
    record.set(steps=done, windows=windows, paper_share=windows / _PAPER_ROIS)
    record.set_train_images(images)


def test(config: Config, comparison: ComparisonConfig, folder: str | Path) -> None:
    """Times the stages of detection, one image at a time, and evaluates: without SVD, and with it if the head allows.

    With a share below 1 only that share of the test images is timed, and no mAP is measured.
    """
    folder = expand_user(folder)
    record = Record(folder / "record.json", system="fast_rcnn", model=config.model.name)
    run = folder / "run"
    detector = load_detector(run)
    _test(detector, run, comparison, record, "")
    ranks = _ranks(detector)
    if ranks is not None:
        compressed = folder / compressed_workdir(run, **ranks).name  # here, even if `run` is a link to another folder
        try:
            compress_run(run, compressed, **ranks)
        except FileExistsError:  # made before the run went on, or was evaluated with other settings
            shutil.rmtree(compressed)
            compress_run(run, compressed, **ranks)
        _test(load_detector(compressed), compressed, comparison, record, "svd")


def _test(detector: Detector, run: Path, comparison: ComparisonConfig, record: Record, variant: str) -> None:
    suffix = "_svd" * (variant == "svd")
    config = detector.config
    dataset = open_dataset(config.data.test, config.data)
    proposals = open_proposals(dataset, config.proposals, config.proposals.test_file)
    tested_with = {name: value for name, value in vars(config.input).items() if name.startswith("test_")}
    done = {
        "step": detector.step,
        "share": comparison.share,
        "data": dataset.fingerprint,
        "settings": repr((config.evaluate, tested_with)),
        "weights": fingerprint((detector.params, detector.statistics)),
        "proposals": fingerprint([np.asarray(proposals[index]) for index in range(len(dataset))]),
    }
    if record.content.get(f"tested{suffix}") == done:
        return
    chosen = spread(len(dataset), comparison.share)
    time_image, watch = _timed(detector), Watch()
    for index in chosen:
        time_image(watch, dataset.read_image(int(index)), proposals[int(index)])
    for stage, seconds in watch.seconds.items():
        record.add_test(stage, seconds, images=len(chosen), share=comparison.share, variant=variant)
    if comparison.share == 1:
        metrics = evaluate_run(run)
        record.set(**{f"map{suffix}": metrics["map"], f"ap{suffix}": metrics["ap"]})
    record.set_test_images(len(dataset))
    record.set(
        proposals=float(np.mean([len(proposals[int(index)]) for index in chosen] or [0])),
        device=jax.devices()[0].device_kind,
        **{f"tested{suffix}": done},
    )


def _training_time(run: Path, batch_size: int, skipped: int) -> tuple[float, int]:
    """Seconds of the steps of a run without evaluations, and the number of steps.

    Args:
        skipped: number of lines of the metrics to skip.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "images_per_second" in line]
    steps = np.diff([0, *(line["step"] for line in lines)])
    seconds = steps * batch_size / np.array([line["images_per_second"] for line in lines])
    return float(seconds[skipped:].sum()), int(steps[skipped:].sum())


def _ranks(detector: Detector) -> dict[str, int] | None:
    """Ranks of fc6 and fc7, a quarter of their widths and at most the paper's; None for a head without them."""
    head = detector.params["head"]
    if not set(LAYERS) <= head.keys():
        return None
    shapes = {layer: head[layer]["kernel"].shape for layer in LAYERS}
    return {
        f"{layer}_rank": max(min(_LARGEST_RANKS[layer], width // 4, inputs), 1)
        for layer, (inputs, width) in shapes.items()
    }


def _timed(detector: Detector) -> Callable[[Watch, UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "P 4"]], Detections]:
    """`frcnn_jax.detect` of one image with its proposals, timed by stage."""
    model, config = detector.model, detector.config
    settings = detection_settings(config.evaluate)
    prepare = partial(
        single_pyramid,
        scales=config.input.test_scales or (config.input.test_scale,),
        max_size=config.input.test_max_size,
        spatial_scale=model.spatial_scale,
        flip=settings.flip,
        shared=model.shares_rois,
    )

    def run(watch: Watch, image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "P 4"]) -> Detections:
        pyramid = watch("resize", prepare, image, boxes)
        stages = {"settings": settings, "rois_at_a_time": ROIS_AT_A_TIME, "watch": watch}
        found = detect_pyramid(detector.params, detector.statistics, pyramid, model=model, **stages)
        return jax.tree.map(lambda x: x[0], found)

    return run
