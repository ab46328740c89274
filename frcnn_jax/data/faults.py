"""The record of a fault in a data set, and the error that lists them all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

__all__ = ["DatasetFaultError", "Fault"]

_MAX_LINES = 500


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
    """All faults of a data set that the policy does not allow to drop."""

    def __init__(self, name: str, faults: Sequence[Fault]):
        self.name, self.faults = name, tuple(faults)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(f.kind for f in faults).items()))
        lines = [f"{name} has {len(faults)} faults ({kinds}); data.faults says what to do about each kind"]
        lines += [f"  {fault}" for fault in faults[:_MAX_LINES]]
        if len(faults) > _MAX_LINES:
            lines.append(f"  ... and {len(faults) - _MAX_LINES} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple:
        return DatasetFaultError, (self.name, self.faults)
