"""The mAP of a run at some of its steps, measured while it trained, and the choice of a checkpoint by it.

`evaluations.json` in the workdir is written after each measurement, which follows the checkpoint of that step. A
resumed run uses the values up to its checkpoint and measures the later ones again, so that it makes the same decisions.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn_jax.atomic import write_text

_log = logging.getLogger(__name__)
_FILE = "evaluations.json"


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Values measured at some steps of a run, in the order of the steps."""

    measured: dict[str, Any] = dataclasses.field(default_factory=dict)  # data and settings of the measurement
    values: tuple[tuple[int, float], ...] = ()  # step, mAP

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the best measurement, the earliest of equals."""
        return max(self.values, key=lambda pair: (pair[1], -pair[0]), default=None)

    @property
    def since_best(self) -> int:
        """Number of measurements after the best one."""
        return sum(step > self.best[0] for step, _ in self.values) if self.values else 0

    @property
    def steps(self) -> tuple[int, ...]:
        """The measured steps."""
        return tuple(step for step, _ in self.values)

    def up_to(self, step: int) -> "Evaluations":
        """The values of steps up to `step`."""
        return dataclasses.replace(self, values=tuple(pair for pair in self.values if pair[0] <= step))

    def add(self, step: int, value: float) -> "Evaluations":
        """The values with one more, of a later step."""
        return dataclasses.replace(self, values=(*self.values, (step, value)))


def read_evaluations(workdir: Path) -> Evaluations:
    """The values measured in `workdir`; empty if there are none.

    Raises:
        ValueError: the file was not written by `write_evaluations`.
    """
    path = workdir / _FILE
    if not path.exists():
        return Evaluations()
    try:
        stored = json.loads(path.read_text())
        return Evaluations(dict(stored["measured"]), tuple(map(_step_and_value, stored["values"])))
    except KeyError as error:
        fault = f"it has no {error}"
    except TypeError:
        fault = "its entries have other types"
    except (ValueError, OverflowError) as error:
        fault = str(error)
    raise ValueError(f"{path} is damaged ({fault}): delete it to go on without the values in it")


def _step_and_value(entry: Any) -> tuple[int, float]:
    """The step and its mAP. Raises ValueError for another entry."""
    step, value = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if isinstance(value, bool) or not (isinstance(value, int | float) and type(step) is int):
        raise ValueError(f"values has {json.dumps(entry)}, not a step and a number")
    return step, float(value)


def write_evaluations(workdir: Path, evaluations: Evaluations) -> None:
    """Writes the values atomically."""
    write_text(workdir / _FILE, json.dumps(dataclasses.asdict(evaluations), indent=1) + "\n")


def choose_step(workdir: Path, checkpoint: str | int | None, steps: Sequence[int]) -> int:
    """The step of the checkpoint to use.

    Args:
        checkpoint: "best", "latest" or a step; if None, the best one if the run was measured, else the newest. Where
            the best one is missing, the newest is taken and a warning logged.
        steps: steps of the existing checkpoints, at least one.

    Raises:
        FileNotFoundError: the checkpoint does not exist; names the existing ones.
        ValueError: `checkpoint` is something else.
    """
    existing = f"its checkpoints are of step {', '.join(map(str, sorted(steps)))}"
    best = read_evaluations(workdir).up_to(max(steps)).best
    if checkpoint is None:
        if best is not None and best[0] not in steps:
            text = "%s: the best checkpoint, of step %d, is missing: the newest one is used, of step %d"
            _log.warning(text, workdir, best[0], max(steps))
        return best[0] if best is not None and best[0] in steps else max(steps)
    if checkpoint == "latest":
        return max(steps)
    if checkpoint == "best":
        if best is None:
            raise FileNotFoundError(
                f"{workdir} has no best checkpoint, as it was not measured while it trained (train.evaluate_every): "
                f"give --checkpoint latest, or a step: {existing}"
            )
        if best[0] not in steps:
            raise FileNotFoundError(f"{workdir}: the best checkpoint, of step {best[0]}, is missing; {existing}")
        return best[0]
    if not str(checkpoint).isdecimal():
        raise ValueError(f"--checkpoint must be best, latest or a step, not {checkpoint!r}; {existing}")
    if int(checkpoint) not in steps:
        raise FileNotFoundError(f"{workdir} has no checkpoint of step {checkpoint}: {existing}")
    return int(checkpoint)
