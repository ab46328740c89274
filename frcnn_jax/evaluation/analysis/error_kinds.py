"""The mean average precision lost to each kind of error.

Repairing a kind of error means

    class          to give the detection the class of its object
    localization   to give the detection the box of its object
    both, duplicate, background    to drop the detection
    missed         to stop counting the object

A repaired detection is dropped if its object is found already or not counted; of several detections repaired to one
object, the best by score stays. With all kinds repaired, every detection is right and every object is found: the mAP is
1. A kind's gain depends on the kinds repaired before it, so the `lost` of a kind is its mean over all orders (its
Shapley value). These add up to 1 - mAP exactly. `alone` is the gain of the mAP if nothing else is repaired, as in TIDE;
these gains do not add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from frcnn_jax.evaluation.analysis.matches import HIT, KINDS, Matches
from frcnn_jax.evaluation.voc_map import average_of_hits

__all__ = ["error_kinds"]

_CLASS, _LOCALIZATION, _MISSED = (KINDS.index(name) for name in ("class", "localization", "missed"))
_DETECTED = len(KINDS) - 1  # number of kinds that are detections
Repaired = frozenset[int]
_SUBSETS = [frozenset(s) for n in range(len(KINDS) + 1) for s in itertools.combinations(range(len(KINDS)), n)]


def error_kinds(matches: Matches, class_names: Sequence[str], *, use_07_metric: bool = True) -> dict[str, Any]:
    """The errors of a test set by kind.

    Args:
        class_names: of labels 1 ... K.
        use_07_metric: see `evaluate_voc`.

    Returns:
        `kinds`: for each of `KINDS` its `count` of detections or objects, the mAP `lost` to it and its gain `alone`,
        None without any object. `classes`: for each class with objects the AP lost to each kind. All in plain Python
        types.
    """
    counts = [int(np.count_nonzero(matches.kinds == kind)) for kind in range(_DETECTED)]
    counts.append(int(np.count_nonzero(matches.missed)))
    order = np.argsort(-matches.scores, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    winners = {repaired: _winners(matches, repaired) for repaired in map(frozenset, ((), (0,), (1,), (0, 1)))}
    classes = {}
    for label, name in enumerate(class_names, start=1):
        values = _values(matches, label, place, winners, use_07_metric)
        if values is not None:
            classes[name] = _shares(values)
    lost, alone = ({}, {}) if not classes else (_mean(classes, part) for part in range(2))
    kinds = {
        kind: {"count": count, "lost": lost.get(kind), "alone": alone.get(kind)}
        for kind, count in zip(KINDS, counts, strict=True)
    }
    return {"kinds": kinds, "classes": {name: parts[0] for name, parts in classes.items()}}


def _mean(classes: dict[str, tuple[dict[str, float], dict[str, float]]], part: int) -> dict[str, float]:
    return {kind: float(np.mean([parts[part][kind] for parts in classes.values()])) for kind in KINDS}


def _shares(values: dict[Repaired, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean gain of each kind over all orders of repair, and its gain alone."""
    count = len(KINDS)
    lost = dict.fromkeys(range(count), 0.0)
    for before in values:
        weight = math.factorial(len(before)) * math.factorial(count - len(before) - 1) if len(before) < count else 0
        for kind in set(range(count)) - before:
            lost[kind] += weight / math.factorial(count) * (values[before | {kind}] - values[before])
    unrepaired = values[frozenset()]
    alone = {name: values[frozenset((kind,))] - unrepaired for kind, name in enumerate(KINDS)}
    return {name: lost[kind] for kind, name in enumerate(KINDS)}, alone


def _winners(matches: Matches, repaired: Repaired) -> Int[np.ndarray, " H"]:
    """The detections that find an object once these kinds are repaired, hits included."""
    candidates = np.flatnonzero(np.isin(matches.kinds, list(repaired)))
    aims = matches.aims[candidates]
    candidates = candidates[matches.counted[aims] & (matches.found_by[aims] < 0)]
    candidates = candidates[np.argsort(-matches.scores[candidates], kind="stable")]
    _, first = np.unique(matches.aims[candidates], return_index=True)
    return np.concatenate([np.flatnonzero(matches.kinds == HIT), candidates[first]])


def _values(
    matches: Matches,
    label: int,
    place: Int[np.ndarray, " D"],
    winners: dict[Repaired, Int[np.ndarray, " H"]],
    use_07_metric: bool,
) -> dict[Repaired, float] | None:
    """The AP of a class after each choice of repairs; None for a class without objects.

    Args:
        place: rank of each detection by falling score.
    """
    of_class = matches.object_labels == label
    objects = int(np.count_nonzero(of_class & matches.counted))
    if objects == 0:
        return None
    missed = int(np.count_nonzero(of_class & matches.missed))
    detected = np.flatnonzero(matches.labels == label)
    errors = [np.sort(place[detected[matches.kinds[detected] == kind]]) for kind in range(_DETECTED)]
    before = {}
    for repaired, detections in winners.items():
        detections = detections[matches.object_labels[matches.aims[detections]] == label]
        hits = np.sort(place[detections])
        before[repaired] = [np.searchsorted(ranks, hits) for ranks in errors], len(hits)
    values = {}
    for repaired in _SUBSETS:
        false, hits = before[repaired & {_CLASS, _LOCALIZATION}]
        true = np.arange(1, hits + 1)
        precision = true / (true + sum(false[kind] for kind in range(_DETECTED) if kind not in repaired))
        remaining = objects - (missed if _MISSED in repaired else 0)
        ap = average_of_hits(precision, remaining, use_07_metric=use_07_metric)
        values[repaired] = 1.0 if ap is None else ap  # None: no objects remain to be found
    return values
