"""The workdir of a run: its settings, and which of them may change when it goes on."""

from pathlib import Path

from frcnn_jax.atomic import write_text
from frcnn_jax.config import Config, absolute_paths, changed_settings, expand_user, from_json, to_json

# Settings that may change between one start of a run and the next: they do not touch what was learned so far. Data
# and files of proposals are compared by content instead (`data_record`), wherever they lie and however they are named.
_FREE = ("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "evaluate.",
         "input.workers", "input.cache_decoded", "input.test_", "data.", "proposals.train_files",
         "proposals.test_file", "proposals.workers", "plugins")  # fmt: skip


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
    path = workdir / "config.json"
    if not path.exists():
        return
    before, now = absolute_paths(_read(path)), absolute_paths(config)
    if not any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*")):
        return
    changed = {
        name: values
        for name, values in changed_settings(before, now).items()
        # A cosine ends at the last step.
        if not name.startswith(_FREE) or (name == "train.steps" and config.optimizer.schedule == "cosine")
    }
    if changed:
        listed = "; ".join(f"{name} is {old!r} there and {new!r} here" for name, (old, new) in changed.items())
        advice = "Give another --workdir"
        if "train.steps" in changed:
            advice += f" and --model.weights {workdir}, as a cosine schedule ends with its last step"
        if any(name in ("loss.classification", "loss.localization") for name in changed):
            advice += ', or the same loss again: by name, or as train(..., loss=...) where it is not "module:function"'
        raise ValueError(f"{workdir} holds a run with other settings: {listed}. {advice}")


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
