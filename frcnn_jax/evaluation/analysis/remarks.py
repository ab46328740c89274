"""Remarks on an evaluation: a short training, a test on training images, too few objects for reliable figures, objects
that it does not count.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from frcnn_jax.types import GroundTruth
from frcnn_jax.words import counted, joined, listed

__all__ = [
    "SHORT",
    "few_objects",
    "larger_share",
    "rare_classes",
    "remarks",
    "short_run",
    "uncounted",
    "uncounted_text",
]

SHORT = 0.75  # of the steps of a whole training

_FEW, _FEW_OF_CLASS, _RARE = 50, 10, 5  # objects
_NAMED = 8  # classes
_SLIP = 0.85  # least likeness of a misspelt name, by difflib
_STEP, _MOST_SHARE = 0.05, 0.3  # of shares to test on


def remarks(metrics: Mapping[str, Any]) -> list[str]:
    """Remarks on an evaluation's `metrics` that a reader should know; [] if there are none."""
    found = []
    if "recipe_steps" in metrics:
        found += short_run(metrics["run_steps"], metrics["recipe_steps"], metrics.get("step"))
    if metrics.get("trained_on"):
        of = f"{metrics['trained_on']} of {counted(metrics['images'], 'test image')}"
        found.append(f"the run was trained on {of}, which makes its mAP optimistic")
    found += few_objects(metrics["objects"], metrics["images"], drawn="data.split" in metrics.get("chosen", ""))
    found += uncounted_text(metrics.get("uncounted", {}))
    return found


def short_run(steps: int, recipe: int, step: int | None = None) -> list[str]:
    """A sentence about a checkpoint of fewer steps than the config that its run came from.

    Args:
        steps: steps that the run is to make.
        recipe: those of the config for the run's images.
        step: step of the checkpoint; the last one if None.
    """
    made = (
        f"this run made {steps} steps" if step in (None, steps) else f"this is step {step} of the {steps} of this run"
    )
    wanted = "" if steps == recipe else f", and its config has {recipe} for these images"
    if steps < SHORT * recipe:
        way = (
            "For a whole training leave out the option that shortens it, --train.steps or --train.epochs, and give "
            "another --workdir"
        )
    else:
        way = "For a whole training go on with the same frcnn train, or give a later --checkpoint if there is one"
    return [f"{made}{wanted}: the mAP is that of a first try. {way}"]


def few_objects(
    objects: Mapping[str, int], images: int, *, drawn: bool = False, share: float | None = None
) -> list[str]:
    """Sentences about a test set with few objects in all, or few or none of some classes.

    Args:
        objects: number of counted objects by class.
        drawn: the test is a share of a folder, `data.split`.
        share: a larger share to advise, before any run.
    """
    total, found = sum(objects.values()), []
    none = [name for name, count in objects.items() if count == 0]
    if 0 < total < _FEW:
        larger = f" {share:g}" if share else ", in a new run"
        way = f", or draw a larger part by --data.split{larger}" if drawn or share else ""
        change = max(0.1, 1 / total)
        chance = (
            f"the mAP of so few may be {change:.1g} higher or lower by chance alone"
            if total > 1
            else "the mAP says little more than whether this one is found"
        )
        found.append(
            f"the test has {counted(total, 'object')} in {counted(images, 'image')}: {chance}. More test images make "
            f"it certain: annotate more{way}"
        )
    few = {name: count for name, count in objects.items() if 0 < count < _FEW_OF_CLASS}
    if few and total >= _FEW:
        named = listed([f"{name} {count}" for name, count in few.items()], _NAMED)
        found.append(f"the AP of classes with fewer than {_FEW_OF_CLASS} test objects says little: {named}")
    if total and none:
        found.append(f"no test object is of {listed(none, _NAMED)}, so that the mAP says nothing about them")
    return found


def larger_share(objects: int, share: float) -> float | None:
    """A larger share of a folder to test on, so that the test has enough objects for a reliable mAP or nearly a third
    of the images; None if `share` is large enough.

    Args:
        objects: number of test objects with this share.
    """
    if not 0 < objects < _FEW:
        return None
    wanted = min(math.ceil(share * _FEW / objects / _STEP) * _STEP, _MOST_SHARE)
    return round(wanted, 2) if wanted > share else None


def rare_classes(objects: Mapping[str, int]) -> list[str]:
    """A sentence about classes with few objects in a whole folder, and the setting to leave them out; [] if none."""
    rare = {name: count for name, count in objects.items() if count < _RARE}
    others = [name for name in objects if name not in rare]
    if not rare:
        return []
    named = listed([f"{name} {count}" for name, count in rare.items()], _NAMED)
    way = f": leave them out by --data.classes {shlex.join(others)}" if others and len(others) <= _NAMED else ""
    way = way or (": --data.classes with the names of the others leaves them out" if others else "")
    found = [f"classes with fewer than {_RARE} objects are hardly learned ({named}){way}"]
    slips = {name: meant for name in rare if (meant := _meant(name, others))}
    if slips:
        named = listed([f"{name} for {meant}" for name, meant in slips.items()], _NAMED)
        renames = shlex.join(f"{name}={meant}" for name, meant in slips.items())
        found.append(f"some of these may be misspelt ({named}): then give --data.rename {renames}")
    return found


def _meant(name: str, others: Sequence[str]) -> str | None:
    """The class that a rare one may be a slip of: its letters in another order, or one more, less or other of many."""
    letters = sorted(name.casefold())
    for other in others:
        ratio = difflib.SequenceMatcher(None, name.casefold(), other.casefold(), autojunk=False).ratio()
        if letters == sorted(other.casefold()) or ratio > _SLIP:
            return other
    return None


def uncounted(annotations: Sequence[GroundTruth]) -> dict[str, int]:
    """Numbers of objects that an evaluation does not count: `difficult` ones, and `crowds`."""
    crowds = sum(int(truth.crowd.sum()) for truth in annotations)
    difficult = sum(int((truth.difficult & ~truth.crowd).sum()) for truth in annotations)
    return {"difficult": difficult, "crowds": crowds}


def uncounted_text(numbers: Mapping[str, int]) -> list[str]:
    """A sentence about the numbers of `uncounted`; [] if all are 0."""
    parts = [
        counted(numbers.get(kind, 0), *words)
        for kind, words in (
            ("difficult", ("object marked difficult", "objects marked difficult")),
            ("crowds", ("crowd", "crowds")),
        )
        if numbers.get(kind)
    ]
    if not parts:
        return []
    return [f"{joined(parts)} beside the objects counted here: to find them is neither right nor wrong"]
