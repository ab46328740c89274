"""Training images as the network sees them, with the RoIs of a step, and the recall of proposals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.config import Config
from frcnn_jax.data.pipeline import BatchSource, training_plan
from frcnn_jax.data.proposals.selective_search import search_settings
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.data.proposals.store import ProposalStore
from frcnn_jax.evaluation.analysis.measures import SIZES, object_overlaps, size_names
from frcnn_jax.evaluation.drawing import draw_objects, draw_rois
from frcnn_jax.evaluation.looking.objects import all_objects, objects_in_batch
from frcnn_jax.evaluation.looking.samples import Picture, embedded
from frcnn_jax.evaluation.looking.view import FolderView
from frcnn_jax.evaluation.pages.gallery import thumbnail
from frcnn_jax.types import Batch

__all__ = ["Covered", "Recall", "network_pictures", "sampled_recall", "stored_proposals"]

_WIDE = 400  # pixels of the longer side
_ROIS = 12  # of objects, and as many of background, that are drawn in an image


@dataclasses.dataclass(frozen=True)
class Covered:
    """Number of some objects, without difficult ones and crowds, and by IoU the share that proposals cover."""

    objects: int
    shares: dict[float, float | None]  # None without objects


@dataclasses.dataclass(frozen=True)
class Recall:
    """The objects that proposals cover, of all images that were searched."""

    images: int
    proposals: float  # mean number per image
    overall: Covered
    classes: dict[str, Covered]
    sizes: dict[str, Covered]


def sampled_recall(view: FolderView, config: Config, count: int, thresholds: Sequence[float] = (0.5, 0.7)) -> Recall:
    """Recall of the proposals of `count` images spread over the folder; proposals that are not stored are computed.

    Undecodable images are skipped.

    Raises:
        ValueError: the config's proposals come from a file.
    """
    search_settings(config.proposals)
    chosen = np.unique(np.linspace(0, len(view) - 1, min(count, len(view))).astype(int)).tolist()
    part = view.part([index for index in chosen if _is_decodable(view, index)])
    proposals = open_proposals(part, config.proposals)
    overlaps = object_overlaps(proposals, part.annotations)
    objects = all_objects(part.annotations)
    sizes = size_names(objects.boxes)

    def covered(chosen: Bool[np.ndarray, " G"]) -> Covered:
        best = overlaps[chosen & objects.counted]
        return Covered(len(best), {t: float((best >= t).mean()) if len(best) else None for t in thresholds})

    return Recall(
        images=len(part),
        proposals=sum(map(len, proposals)) / max(len(part), 1),
        overall=covered(objects.counted),
        classes={name: covered(objects.labels == label) for label, name in enumerate(part.classes, start=1)},
        sizes={name: covered(sizes == name) for name in SIZES},
    )


def stored_proposals(view: FolderView, config: Config) -> list[Float[np.ndarray, "P 4"]] | None:
    """Proposals of all images of the view if all are stored, else None. Computes no proposals."""
    if config.proposals.method == "file" or not len(view):
        return None
    arguments = search_settings(config.proposals)
    names = [view.image_fingerprint(index) for index in range(len(view))]
    try:
        store = ProposalStore(view.shared_directory, {"method": config.proposals.method, **arguments})
    except (ValueError, OSError):
        return None
    places = store.find(names)
    if not set(names) <= set(places):
        return None
    return [places[name][0].boxes[places[name][1] : places[name][2]] for name in names]


def network_pictures(view: FolderView, config: Config, stride: int, *, search: bool, count: int = 6) -> list[Picture]:
    """The first images of a training on `view`: resized, augmented, flipped and padded to their bucket.

    Undecodable ones are skipped.

    Where proposals are at hand, some of the RoIs of a step are drawn too: foreground in the colour of its class,
    background in gray. Objects are drawn in their colours, without proposals, or dashed in white.

    Args:
        stride: stride of the architecture, for the buckets.
        search: compute proposals that are not stored.
    """
    settings = config.input
    steps = max(-(-count // settings.batch_size), 1)
    keep = min(settings.batch_size, count)  # only the shown images of a large batch
    while len(view):
        plan = training_plan(view, settings, steps, config.train.seed, stride)
        names = ("images", "scales", "flipped", "flipped_vertical")
        plan = dataclasses.replace(plan, **{name: getattr(plan, name)[:, :keep] for name in names})
        used = np.unique(plan.images).tolist()
        damaged = {index for index in used if not _is_decodable(view, index)}
        if not damaged:
            break
        view = view.part([index for index in range(len(view)) if index not in damaged])
    else:
        return []
    part = view.part(used)
    found = open_proposals(part, config.proposals) if search else stored_proposals(part, config)
    boxes = [np.zeros((0, 4), np.float32)] * len(used) if found is None else list(found)
    plan = dataclasses.replace(plan, images=np.searchsorted(used, plan.images))
    most = max(len(truth.labels) for truth in part.annotations)
    source = BatchSource(part, boxes, plan, max_objects=max(most, 1), augment=settings.augment, seed=config.train.seed)
    pictures: list[Picture] = []
    sampler = None if found is None else _sampler(config)
    for step in range(len(plan)):
        batch = source[step]
        sample = None if sampler is None else sampler(batch, step)
        for n in range(len(batch.images)):
            pictures.append(_picture(part, batch, n, None if sample is None else _at(sample, n)))
    return pictures[:count]


def _is_decodable(view: FolderView, index: int) -> bool:
    try:
        view.read_image(index)
    except (ValueError, OSError):
        return False
    return True


def _sampler(config: Config) -> Callable[[Batch, int], Any]:
    """A function of a batch and its step with the RoIs of the step, on the host; compiled once per shape of a batch."""
    import jax

    from frcnn_jax.training.step import sample_step

    run = jax.jit(partial(sample_step, config=config.sampling))
    return lambda batch, step: jax.device_get(run(batch, jax.random.key(config.train.seed), step))


def _at(sample: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    real = sample.mask[n]
    return sample.rois[n][real], sample.labels[n][real]


def _picture(view: FolderView, batch: Batch, n: int, rois: tuple[np.ndarray, np.ndarray] | None) -> Picture:
    image, text = thumbnail(batch.images[n], _WIDE), ""
    scale = batch.scales[n] * np.float32(image.shape[1] / batch.images.shape[2])
    truth = objects_in_batch(batch, n, scale)
    if rois is not None:
        text = f"; {(rois[1] > 0).sum()} RoIs of objects, {(rois[1] == 0).sum()} of background"
        truth = dataclasses.replace(truth, crowd=np.ones(len(truth.labels), bool))  # crowds are drawn dashed
    height, width = batch.image_sizes[n]
    padded = batch.images.shape[1:3]
    caption = f"{view.image_ids[batch.image_index[n]]}: {width} x {height} in {padded[1]} x {padded[0]}{text}"
    plain = draw_objects(image, truth)
    if rois is None:
        return embedded(plain, caption)
    drawn = _some(rois[1])
    with_rois = draw_rois(image, rois[0][drawn] * scale, rois[1][drawn])
    return embedded(draw_objects(with_rois, truth), caption, plain)


def _some(labels: Int[np.ndarray, " R"]) -> Int[np.ndarray, " S"]:
    """Positions of some RoIs of objects and some of background: of all, boxes would hide the image."""
    random = np.random.default_rng(0)
    kinds = (np.flatnonzero(labels > 0), np.flatnonzero(labels == 0))
    return np.concatenate([random.permutation(places)[:_ROIS] for places in kinds])
