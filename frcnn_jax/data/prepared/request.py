"""From the name of a split and the settings to the splits of a folder that are read together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from frcnn_jax.config import DataConfig, expand_user
from frcnn_jax.data.formats.contract import AnnotationReader
from frcnn_jax.data.formats.table import open_reader
from frcnn_jax.data.prepared.names import RenamedReader, standard_classes
from frcnn_jax.data.prepared.splits.pooled import PooledReader
from frcnn_jax.data.prepared.splits.rule import SplitRule, held_splits, resolved_split, split_rule, used_splits
from frcnn_jax.data.records import STANDARD_SPLITS

__all__ = ["Request", "find_splits"]


@dataclasses.dataclass(frozen=True)
class Request:
    """A split of a folder to prepare, and the splits prepared with it."""

    path: Path
    format: str
    reader: AnnotationReader
    split: str
    wanted: tuple[str, ...]  # splits to prepare: all standard ones, or a single other one
    tested: tuple[str, ...]  # splits with images that no other split may have
    config: DataConfig
    pooled: PooledReader | None  # the reader before renames, if it chooses the test
    used: tuple[tuple[str, SplitRule], ...]  # splits named by the settings, for the log
    chosen: str  # how the images of a test were chosen, if the folder has none
    named: bool  # `data.classes` is set
    held: tuple[SplitRule, ...] = ()  # of splits read beside `wanted`, with images that these must not have
    evidence: tuple[str, ...] = ()  # splits beside `wanted` whose images also decide the conventions


def find_splits(split: str, config: DataConfig) -> Request:
    """The folder's format and reader, and the splits to prepare for `split`."""
    if config.root is None:
        raise ValueError(f"data set folder/{split}: data.root is not set; give a folder of annotated images")
    names = config.classes
    if names is not None and not (names and all(names) and len(set(names)) == len(names)):
        raise ValueError(f"data.classes = {names}: no name, an empty one or one twice")
    path = expand_user(config.root).resolve()
    format_name, reader = open_reader(path, config)
    split = resolved_split(split, reader)
    rule = split_rule(split, reader, config)
    used, held = used_splits(split, reader, config), held_splits(split, reader, config)
    split, reader = rule.split, RenamedReader(rule.reader, config.rename) if config.rename else rule.reader
    standard = [name for name in STANDARD_SPLITS if name in reader.splits]
    wanted = standard if split in STANDARD_SPLITS else [split]
    if split not in wanted and not (split == "trainval" and {"train", "validation"} <= set(standard)):
        _say_missing(split, reader, pooled=isinstance(rule.reader, PooledReader))
    if config.classes is None and split not in STANDARD_SPLITS:
        config = dataclasses.replace(config, classes=standard_classes(reader, standard))
    pooled = rule.reader if isinstance(rule.reader, PooledReader) else None
    settled = (split, tuple(wanted), rule.tested, config, pooled, used, rule.why)
    evidence = () if split in STANDARD_SPLITS else tuple(name for name in standard or reader.splits if name != split)
    return Request(path, format_name, reader, *settled, names is not None, held, evidence)


def _say_missing(split: str, reader: AnnotationReader, *, pooled: bool) -> None:
    """Raises the reader's error that a split does not exist, which names the existing ones, with what to type."""
    try:
        reader.read(split)
    except FileNotFoundError as error:
        if split != "validation" or not pooled:
            raise
        way = "leave data.validation out, to measure on the test images, or add a folder or list val"
        raise FileNotFoundError(f"{error}; {way}") from error
