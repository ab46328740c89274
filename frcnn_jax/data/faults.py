"""The record of a fault in a data set, and the error that holds them all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

__all__ = ["DatasetFaultError", "Fault"]

_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where."""

    kind: str  # a field of FaultPolicy
    file: str  # relative to the data set's folder
    object: int | None  # position among the file's objects from 0; None for what concerns the whole image
    field: str
    value: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.object is None else f"{self.file}: object {self.object}"
        return f"{where}: {self.field} = {self.value!r}: {self.message} [{self.kind}]"


class DatasetFaultError(ValueError):
    """All faults of a data set that the policy does not allow to drop; its text names the first three of each kind.

    Args:
        more: lines between the first one and the faults, and lines after them.
    """

    def __init__(self, name: str, faults: Sequence[Fault], more: tuple[Sequence[str], Sequence[str]] = ((), ())):
        self.name, self.faults, self.more = name, tuple(faults), more
        counts = Counter(fault.kind for fault in faults)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        lines = [f"{name} has {len(faults)} faults ({kinds}); data.faults says what to do about each kind", *more[0]]
        for kind, count in sorted(counts.items()):
            lines += [f"  {fault}" for fault in [f for f in faults if f.kind == kind][:_EXAMPLES]]
            if count > _EXAMPLES:
                lines.append(f"  ... and {count - _EXAMPLES} more of {kind}")
        super().__init__("\n".join([*lines, *more[1]]))

    def __reduce__(self) -> tuple:
        return DatasetFaultError, (self.name, self.faults, self.more)
