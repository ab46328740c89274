"""SVMs of all classes with hard negatives, in one pass over the images (R-CNN, section 2.3).

The positives of a class are the rows of its objects, difficult ones too. Its negatives are rows with a low IoU with all
of its objects; rows in between are skipped. For each image, and each class:

    class not trained yet   all negatives of the image join
    otherwise               negatives that score above `join` join
    then                    it is trained if it is not yet, if more than `retrain_at` joined since, or if this is the
                            last image; afterwards its negatives that score below `leave` leave

Features stay on disk: training reads only the rows it needs. Only the SVMs and the numbers of their rows are kept in
memory, and saved for resuming.
"""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from frcnn_jax.atomic import replacing
from frcnn_jax.comparison.feature_store import FeatureStore
from frcnn_jax.comparison.svm import LinearSvms
from frcnn_jax.progress import Progress

__all__ = ["Solver", "feature_scale", "mine_svms"]

_log = logging.getLogger(__name__)


class Solver(Protocol):
    """Trains the classes that have examples; the result for other classes is ignored."""

    def __call__(
        self, features: Float[np.ndarray, "M F"], is_positive: Bool[np.ndarray, "M K"], mask: Bool[np.ndarray, "M K"]
    ) -> LinearSvms: ...


def feature_scale(
    features: FeatureStore, norm: float = 20.0, *, images: int = 200, rows: int = 200, seed: int = 0
) -> float:
    """The factor that scales features to the mean norm `norm`.

    Args:
        images, rows: most images, and most rows of each, drawn at random for the mean.

    Raises:
        ValueError: all features drawn are 0.
    """
    generator = np.random.default_rng(seed)
    norms = [np.zeros(0)]
    for index in generator.permutation(len(features))[:images]:
        drawn = np.sort(generator.permutation(features.counts[index])[:rows])
        norms.append(np.linalg.norm(features[int(index)][drawn].astype(np.float32), axis=1))
    mean = float(np.concatenate(norms).mean()) if sum(map(len, norms)) else 0.0
    if not mean > 0:
        raise ValueError(f"{features.folder}: all features are 0: give the weights of a trained network")
    return norm / mean


def mine_svms(
    features: FeatureStore,
    overlaps: Callable[[int], Float[np.ndarray, "P K"]],
    labels: Callable[[int], Int[np.ndarray, " P"]],
    num_classes: int,
    *,
    solver: Solver,
    scale: float = 1.0,
    negative_iou: float = 0.3,
    join: float = -1.0001,
    leave: float = -1.2,
    retrain_at: int = 2000,
    state: str | Path | None = None,
    made_from: Mapping[str, Any] | None = None,
    seconds_between_saves: float = 30.0,
    tick: Callable[[], None] = lambda: None,
) -> LinearSvms:
    """Trains an SVM for each class with objects.

    Args:
        features: rows of each image, including its objects.
        overlaps: returns, for an image index, the highest IoU of each row with each class (`class_overlaps`).
        labels: returns, for an image index, the class of rows that are objects, 0 for all others.
        scale: factor of the features (`feature_scale`).
        negative_iou: rows with a lower IoU are negatives.
        state: file to resume from after a kill; the result is the same as without.
        made_from: everything besides these arguments that the state depends on, as JSON values.
        tick: called after each image.

    Returns:
        SVMs for the original features, without the factor. A class without objects, or without negatives, has weights 0
        and the bias -1: it never scores above the margin.

    Raises:
        ValueError: the state was made from other data or settings (named), or is damaged.
    """
    settings = {
        **(made_from or {}),
        "scale": scale,
        "negative_iou": negative_iou,
        "join": join,
        "leave": leave,
        "retrain_at": retrain_at,
        "rows": features.shape[0],
    }
    mining = _Mining(features, _positives(features, labels, num_classes), solver, scale, leave)
    start = 0 if state is None else mining.load(Path(state), settings)
    saved = time.monotonic()
    count, indices = len(features), range(start, len(features))
    for index in Progress(indices, "Mining", count, unit="image", initial=start, disable=not indices):
        last = index == len(features) - 1
        joined = mining.join(index, overlaps(index) < negative_iou, join)
        due = ~mining.trained | (mining.joined > retrain_at) | last
        mining.train(due)
        tick()
        if state is not None and (last or (joined and time.monotonic() - saved >= seconds_between_saves)):
            mining.save(Path(state), settings, index + 1)
            saved = time.monotonic()
    without = np.flatnonzero(~mining.trained) + 1
    if len(without):
        _log.warning("no SVM for lack of objects or of negatives: classes %s", ", ".join(map(str, without)))
    return LinearSvms(jnp.asarray(mining.weights * np.float32(scale)), jnp.asarray(mining.biases))


def _positives(
    features: FeatureStore, labels: Callable[[int], Int[np.ndarray, " P"]], num_classes: int
) -> list[Int[np.ndarray, " n"]]:
    """Rows of the store that are objects of each class."""
    rows: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(num_classes)]
    for index, offset in enumerate(features.offsets[:-1]):
        found = labels(index)
        for label in np.unique(found[found > 0]):
            rows[label - 1].append(np.flatnonzero(found == label) + offset)
    return [np.concatenate(parts) for parts in rows]


class _Mining:
    """SVMs so far, and the negatives of each class as ascending rows of the store."""

    def __init__(
        self, features: FeatureStore, positives: list[Int[np.ndarray, " n"]], solver: Solver, scale: float, leave: float
    ):
        self.features, self.positives, self.solver = features, positives, solver
        self.scale, self.leave = np.float32(scale), leave
        self.negatives = [np.zeros(0, np.int64) for _ in positives]
        self.weights = np.zeros((len(positives), features.shape[1]), np.float32)
        self.biases = np.full(len(positives), -1, np.float32)
        self.joined = np.zeros(len(positives), np.int64)  # since the last training of the class
        self.trained = np.zeros(len(positives), bool)

    def join(self, index: int, is_negative: Bool[np.ndarray, "P K"], score: float) -> bool:
        """Adds the hard negatives of an image, after those of the images before it; True if any class has got some."""
        scores = self._scores(self.features[index].astype(np.float32))
        chosen = is_negative & ((scores > score) | ~self.trained)
        classes = [k for k in np.flatnonzero(chosen.any(axis=0)) if len(self.positives[k])]
        for k in classes:
            rows = np.flatnonzero(chosen[:, k]) + self.features.offsets[index]
            self.negatives[k] = np.concatenate([self.negatives[k], rows])
            self.joined[k] += len(rows)
        return bool(classes)

    def train(self, due: Bool[np.ndarray, " K"]) -> None:
        """Trains the classes that are due and have positives and negatives; their easy negatives leave."""
        classes = [k for k in np.flatnonzero(due) if len(self.positives[k]) and len(self.negatives[k])]
        if not classes:
            return
        rows = np.unique(np.concatenate([*(self.positives[k] for k in classes), *(self.negatives[k] for k in classes)]))
        read = self.features.select(rows)[:]
        read *= self.scale
        is_positive = np.zeros((len(rows), len(self.positives)), bool)
        mask = np.zeros_like(is_positive)
        for k in classes:
            is_positive[np.searchsorted(rows, self.positives[k]), k] = True
            mask[:, k] = is_positive[:, k]
            mask[np.searchsorted(rows, self.negatives[k]), k] = True
        counts = [int(part.sum()) for part in (is_positive, mask & ~is_positive)]
        _log.info("SVMs of %d classes are trained on %d objects and %d negatives", len(classes), *counts)
        svms = self.solver(read, is_positive, mask)
        weights, biases = np.asarray(svms.weights), np.asarray(svms.biases)
        self.weights[classes], self.biases[classes] = weights[classes], biases[classes]
        scores = read @ self.weights.T + self.biases
        for k in classes:
            found = scores[np.searchsorted(rows, self.negatives[k]), k]
            self.negatives[k] = self.negatives[k][found >= self.leave]
        self.joined[classes], self.trained[classes] = 0, True

    def _scores(self, features: Float[np.ndarray, "P F"]) -> Float[np.ndarray, "P K"]:
        return features @ (self.weights * self.scale).T + self.biases

    def save(self, path: Path, settings: Mapping[str, Any], following: int) -> None:
        with replacing(path, durable=True) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                settings=json.dumps(settings),
                following=following,
                negatives=np.concatenate(self.negatives),
                counts=[len(rows) for rows in self.negatives],
                weights=self.weights,
                biases=self.biases,
                joined=self.joined,
                trained=self.trained,
            )

    def load(self, path: Path, settings: Mapping[str, Any]) -> int:
        """Loads a state; returns the image to resume with, 0 without a state."""
        if not path.exists():
            return 0
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            before = json.loads(str(arrays["settings"]))
            ends = np.cumsum(arrays["counts"])[:-1]
            self.negatives = np.split(arrays["negatives"], ends)
            self.weights, self.biases = arrays["weights"], arrays["biases"]
            self.joined, self.trained = arrays["joined"], arrays["trained"]
            following = int(arrays["following"])
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: damaged ({error}): delete it, and the SVMs are trained anew") from error
        now = json.loads(json.dumps(settings))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{path}: SVMs of other {name}: {before.get(name)!r} there and {now.get(name)!r} here. Delete it, "
                    "or give another --workdir"
                )
        return following
