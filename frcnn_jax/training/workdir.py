"""The workdir of a run: its settings, and which of them may change when it goes on."""

import dataclasses
from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.config import (
    Config,
    absolute_paths,
    changed_settings,
    expand_user,
    from_json,
    to_json,
    with_steps,
)

# Settings that may change between one start of a run and the next: they do not touch what was learned so far. Data
# and files of proposals are compared by content instead (`data_record`), wherever they lie and however they are named.
_FREE = ("train.steps", "train.epochs", "train.min_steps", "train.evaluate_every", "train.patience", "train.log_every",
         "train.pictures_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluate.", "input.workers",
         "input.cache_decoded", "input.read_timeout", "input.test_", "data.", "proposals.train_files",
         "proposals.test_file",
         "proposals.validation_file", "proposals.workers", "plugins")  # fmt: skip


def claim_workdir(workdir: Path, config: Config) -> None:
    """Makes `workdir` the place of this run and writes `config.json`, with paths made absolute.

    Raises:
        ValueError: as `check_settings`.
    """
    check_settings(workdir, config)
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", to_json(absolute_paths(config)))


def check_settings(workdir: Path, config: Config) -> None:
    """Compares the settings with those of the run in `workdir`, if there is one.

    Without a checkpoint there is nothing to lose, so that a slip in a setting can be put right in the same workdir.

    Raises:
        ValueError: it holds checkpoints of a run with other settings, which are named, or another program's config.
    """
    before, now = _recorded(workdir), absolute_paths(config)
    if before is None:
        return
    changed = changed_settings(before, now)
    # Until the images are counted the number of steps is not known.
    steps_matter = config.optimizer.follows_length and config.train.steps not in (None, before.train.steps)
    lengths = ("train.steps", "train.epochs", "train.min_steps") if steps_matter else ()
    changed = {name: pair for name, pair in changed.items() if name in lengths or not name.startswith(_FREE)}
    if changed:
        listed = "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in changed.items())
        advice = "Give another --workdir"
        if "train.steps" in changed:
            advice += f" and --model.weights {workdir}, as the schedule of the rate is laid out over all steps"
        if any(name in ("loss.classification", "loss.localization") for name in changed):
            advice += ', or the same loss again: by name, or as train(..., loss=...) where it is not "module:function"'
        raise ValueError(f"{workdir} holds a run with other settings: {listed}. {advice}")


def with_length(config: Config, workdir: Path, images: int) -> Config:
    """`config` with the steps that its epochs come to, which a line says.

    A run that goes on with the epochs that it began with keeps its steps, also where its data have changed.

    Raises:
        ValueError: steps are given beside epochs, and are another number.
    """
    asked = config.train
    if asked.epochs is None:
        return config
    length = f"train.epochs = {asked.epochs:g}" + (f", at least {asked.min_steps} steps" if asked.min_steps else "")
    uncounted = dataclasses.replace(config, train=dataclasses.replace(asked, steps=None))
    recorded, counted = _recorded(workdir), with_steps(uncounted, images)
    if recorded is not None and recorded.train.steps != counted.train.steps:
        before = recorded.train
        if (before.epochs, before.min_steps) == (asked.epochs, asked.min_steps):
            print(
                f"{length} came to {before.steps} steps when this run began, and stays so; with the {images} images "
                f"that there are now it would be {counted.train.steps}"
            )
            return dataclasses.replace(config, train=dataclasses.replace(asked, steps=before.steps))
    config = with_steps(config, images)
    size = config.input.batch_size
    print(f"{length}: {config.train.steps} steps of {size} images each, from {images} images")
    return config


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is not what `to_json` writes, or has a setting that this version does not know.
    """
    path = expand_user(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: there is no {path}. Train one there first, or give its --workdir"
        )
    return _read(path)


def _recorded(workdir: Path) -> Config | None:
    """The config of the run in `workdir`, with absolute paths; None before its first checkpoint."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    config = absolute_paths(_read(path))
    return config if any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*")) else None


def _read(path: Path) -> Config:
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
