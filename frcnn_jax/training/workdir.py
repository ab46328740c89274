"""The workdir of a run: its config, and whose it is."""

from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.config import Config, absolute_paths, changed_settings, expand_user, from_json, to_json

# Settings that may change between one start of a run and the next: they do not touch what was learned so far.
_FREE = ("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluate.",
         "input.workers", "input.cache_decoded", "input.test_", "data.tfds_dir", "data.test", "proposals.test_file",
         "proposals.workers")  # fmt: skip


def claim_workdir(workdir: Path, config: Config) -> None:
    """Makes `workdir` the place of this run and writes `config.json`.

    Without a checkpoint there is nothing to lose, so that a slip in a setting can be put right in the same workdir.

    Raises:
        ValueError: it holds checkpoints of a run with other settings, which are named, or another program's config.
    """
    path = workdir / "config.json"
    there = absolute_paths(_read(path)) if path.exists() else None
    if there is not None and any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*")):
        changed = {
            name: values
            for name, values in changed_settings(there, config).items()
            # A cosine ends at the last step.
            if not name.startswith(_FREE) or (name == "train.steps" and config.optimizer.schedule == "cosine")
        }
        if changed:
            listed = "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in changed.items())
            raise ValueError(f"{workdir} holds a run with other settings: {listed}. Give another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(config))


def read_config(workdir: str | Path) -> Config:
    """The config of the run in `workdir`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is not what `to_json` writes, or has a setting that this version does not know.
    """
    path = expand_user(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run: there is no {path}")
    return _read(path)


def _read(path: Path) -> Config:
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
