"""The loss that a config names, and the name of a loss that was passed as functions.

A name is one of the tables in `ops.losses`, or "module:function" for the user's own function, which is imported like a
plug-in. Only training imports it: a detector does not need the loss.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from frcnn_jax.config import LossConfig
from frcnn_jax.ops import losses
from frcnn_jax.plugins import load_plugins
from frcnn_jax.training.losses.function_names import function_name
from frcnn_jax.training.losses.multi_task import MultiTaskLoss

_TABLES: dict[str, Mapping[str, Callable]] = {
    "classification": losses.CLASSIFICATION_LOSSES,
    "localization": losses.LOCALIZATION_LOSSES,
}


def create_loss(config: LossConfig, workdir: str | PathLike | None = None) -> MultiTaskLoss:
    """The loss that a config names.

    Args:
        workdir: folder of the run; functions inside it are not imported.

    Raises:
        ValueError: the name is unknown, or "module:function" is not a function of that module, but for example a class.
        ImportError: the module cannot be imported.
    """
    return MultiTaskLoss(
        classification=_find("classification", config.classification, workdir),
        localization=_find("localization", config.localization, workdir),
        localization_weight=config.localization_weight,
    )


def name_loss(loss: MultiTaskLoss) -> LossConfig:
    """The settings that record a run's loss.

    A function that cannot be imported by its name, such as a lambda, must be passed again to resume the run. Lambdas,
    nested functions, partial functions and objects are identified by a hash of their code and values
    (`function_names`), a function of a module only by its name.
    """
    return LossConfig(
        classification=_name("classification", loss.classification),
        localization=_name("localization", loss.localization),
        localization_weight=float(loss.localization_weight),  # which may be an array of one number
    )


def _find(part: str, name: str, workdir: str | PathLike | None) -> Callable:
    table, setting = _TABLES[part], f"loss.{part} = {name!r}"
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f'{setting} is not the name of a loss: known are {", ".join(table)}, and "module:function"')
    if module == "__main__" or not attribute.isidentifier():
        raise ValueError(f"{setting} cannot be imported: pass the function as train(..., loss=MultiTaskLoss(...))")
    try:
        load_plugins([module], workdir)
    except (ImportError, ValueError) as error:
        raise type(error)(f"{setting}: {str(error).removeprefix('plugins: ')}") from error
    function = getattr(sys.modules[module], attribute, None)
    if function is None:
        raise ValueError(f"{setting}: the module {module} has no {attribute}")
    if inspect.isclass(function):  # the record of an object without attributes, or a class by mistake
        raise ValueError(
            f"{setting}: {attribute} is a class, not a function: pass an object of it as train(..., "
            f"loss=MultiTaskLoss({part}=...))"
        )
    if not callable(function):
        raise ValueError(f"{setting}: {attribute} is not a function but {type(function).__name__}")
    return function


def _name(part: str, function: Any) -> str:
    for name, known in _TABLES[part].items():
        if function is known:
            return name
    return function_name(function)
