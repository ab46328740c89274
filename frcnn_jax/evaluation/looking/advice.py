"""Settings that a survey advises for the training: for faults, names of classes and a larger test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frcnn_jax.config import Config
from frcnn_jax.data.formats.csv_files.class_names import code_renames
from frcnn_jax.data.prepared.names import slip_renames
from frcnn_jax.evaluation.analysis.remarks import larger_share
from frcnn_jax.evaluation.looking.objects import all_objects
from frcnn_jax.evaluation.looking.survey import Survey

__all__ = ["advised_settings", "larger_test", "tested_objects"]


def tested_objects(survey: Survey) -> tuple[dict[str, int], int]:
    """Number of counted test objects by class, and of test images."""
    tested = [name for name, split in survey.splits.items() if "tested on" in split.used.partition(" but ")[0]]
    pairs = zip(survey.view.annotations, survey.split_of, strict=True)
    truths = [truth for truth, split in pairs if split in tested]
    objects = all_objects(truths)
    counts = np.bincount(objects.labels[objects.counted], minlength=len(survey.view.classes) + 1)[1:].tolist()
    return dict(zip(survey.view.classes, counts, strict=True)), len(truths)


def larger_test(survey: Survey, config: Config) -> float | None:
    """A larger `data.split` for a drawn test of few objects; None if it has enough, or cannot be larger."""
    if not survey.drawn or survey.test_stop:
        return None
    return larger_share(sum(tested_objects(survey)[0].values()), config.data.split)


def advised_settings(survey: Survey, config: Config, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command's settings with those that are advised, and names of the purposes of these.

    Args:
        given: the words of the settings so far; those of a setting with another value now are left out.
    """
    words, purposes, share = list(given), [], larger_test(survey, config)
    earlier = dict(pair.split("=", 1) for pair in config.data.rename or ())
    classes = survey.view.classes if config.data.classes is None else ()  # else the settings name them as they are
    pairs = [*code_renames(survey.folder, classes), *slip_renames(classes)]
    renames = dict(pair.rsplit("=", 1) for pair in pairs)
    if renames.keys() - set(earlier.values()):
        merged = {old: renames.get(new, new) for old, new in earlier.items()}
        # A name that only a rename gives is that of no object, and could not be renamed again.
        merged |= {old: new for old, new in renames.items() if old not in earlier.values()}
        words = [*_without(words, "--data.rename"), "--data.rename", *(f"{old}={new}" for old, new in merged.items())]
        purposes.append("the names of classes")
    if share is not None:
        words = [*_without(words, "--data.split"), "--data.split", f"{share:g}"]
        purposes.append("a larger test")
    if survey.options:
        words += survey.options
        purposes.insert(0, "the faults")
    return words, purposes


def _without(words: Sequence[str], option: str) -> list[str]:
    """The words without an option and its values."""
    kept, inside = [], False
    for word in words:
        inside = word.partition("=")[0] == option or (inside and not word.startswith("--"))
        if not inside:
            kept.append(word)
    return kept
