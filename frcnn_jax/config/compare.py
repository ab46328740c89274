"""Settings by dotted name, and the differences between two configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frcnn_jax.config.experiment import Config


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, as in {"train.steps": 40000, ...}; a tuple is one value."""
    return dict(_flatten(config, ""))


def changed_settings(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The changed settings by dotted name: (old value, new value). `distributed` is left out."""
    old, new = flat_settings(before), flat_settings(now)
    names = [name for name in new if not name.startswith("distributed.")]
    return {name: (old[name], new[name]) for name in names if old[name] != new[name]}


def _flatten(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flatten(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value
