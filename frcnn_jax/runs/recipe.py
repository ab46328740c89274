"""Comparison of the steps behind a checkpoint with those of its run and of the config that the run came from."""

import json
import math
from pathlib import Path

from frcnn_jax.checkpoint import read_evaluations
from frcnn_jax.config import Config, absolute_paths, replace, with_steps
from frcnn_jax.config.checks import SettingError
from frcnn_jax.evaluation.analysis.remarks import SHORT
from frcnn_jax.training.data_record import read_record


def shortened(workdir: Path, run: Config, recipe: Config | None, step: int) -> dict[str, int]:
    """The entries `run_steps` and `recipe_steps` of `metrics.json`, the steps that the run is to make and those of its
    recipe, if a checkpoint has far fewer than the latter; else {}.

    Args:
        run: config of the run.
        recipe: the config before settings of the command line. If None, the run's last report tells its steps. Where
            they are not known, those of the run count.
        step: step of the checkpoint.
    """
    planned = run.train.steps
    if planned is None:
        return {}
    known = _reported(workdir, planned) if recipe is None else _steps(workdir, run, recipe)
    steps = planned if known is None else known
    return {"run_steps": planned, "recipe_steps": steps} if _made(workdir, run, step) < SHORT * steps else {}


def _made(workdir: Path, run: Config, step: int) -> int:
    """Steps to compare: those of the checkpoint; if it is the best one, those that it was chosen among."""
    evaluations = read_evaluations(workdir)
    if evaluations.best is None or evaluations.best[0] != step:
        return step
    patience = run.train.patience
    ended = patience is not None and evaluations.since_best >= patience
    return run.train.steps if ended else evaluations.steps[-1]


def _steps(workdir: Path, run: Config, recipe: Config) -> int | None:
    """Steps of the run's batches in which the recipe shows as many images, at most the recipe's own steps with such
    batches; None if that is not known or not wanted.
    """
    record = read_record(workdir)
    # A run that starts from weights other than the recipe's may be the end of a longer training.
    if record is None or run.model.weights != absolute_paths(recipe).model.weights:
        return None
    try:
        images = with_steps(recipe, len(record.image_ids)).train.steps * recipe.input.batch_size
        recipe = replace(recipe, input={"batch_size": run.input.batch_size})
        steps = with_steps(recipe, len(record.image_ids)).train.steps
    except SettingError:  # its steps and epochs contradict each other
        return None
    return min(math.ceil(images / run.input.batch_size), steps)


def _reported(workdir: Path, planned: int) -> int | None:
    """The recipe's steps by the run's last report; None if it does not state them, or fewer than are planned now."""
    try:
        steps = json.loads((workdir / "eval/metrics.json").read_text("utf-8"))["recipe_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) and steps > planned else None
