"""Comparison of a run's length with that of the config that it came from."""

import json
import math
from pathlib import Path

from frcnn_jax.config import Config, absolute_paths, replace, with_steps
from frcnn_jax.config.checks import SettingError
from frcnn_jax.training.data_record import read_record

_SHORT = 0.75  # of the recipe's steps


def shortened(workdir: Path, run: Config, recipe: Config | None) -> dict[str, int]:
    """The entries `run_steps` and `recipe_steps` of `metrics.json` if the run is much shorter than its recipe; else {}.

    Args:
        run: config of the run.
        recipe: the config before settings of the command line. If None, the run's last report tells its steps.
    """
    steps = _reported(workdir) if recipe is None else _steps(workdir, run, recipe)
    if steps is None or run.train.steps is None or run.train.steps >= _SHORT * steps:
        return {}
    return {"run_steps": run.train.steps, "recipe_steps": steps}


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


def _reported(workdir: Path) -> int | None:
    try:
        steps = json.loads((workdir / "eval/metrics.json").read_text("utf-8"))["recipe_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None
