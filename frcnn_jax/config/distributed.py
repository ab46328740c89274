"""Settings of a run with several processes."""

import dataclasses

from frcnn_jax.config.checks import MOST_SECONDS, SettingError, at_least, at_most, kinds


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """The processes that work together, each with its own devices. They belong to one start of a run, not to the run.

    On a TPU slice, and under Slurm and Open MPI, nothing needs to be set.
    """

    coordinator: str | None = None
    """Address of process 0, HOST:PORT, with a free port."""
    processes: int | None = None
    """Number of processes. 1: only this one, regardless of the environment."""
    process: int | None = None
    """Index of this process, from 0."""
    heartbeat: int = 100
    """Seconds without a heartbeat after which a process counts as lost, and the others end."""
    start_timeout: int = 300
    """Seconds that a process waits for the others at the start."""
    fixed_order: bool = False
    """Sum gradients in the order of the devices, so that results are bit-identical for any division of the devices
    among processes. Needs a copy of the gradient per device, and more time.
    """

    def __post_init__(self):
        kinds(self, "distributed")
        at_least(self, "distributed", processes=1, process=0, heartbeat=5, start_timeout=1)
        at_most(self, "distributed", heartbeat=MOST_SECONDS, start_timeout=MOST_SECONDS)
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
                raise SettingError(f"distributed.coordinator must be HOST:PORT, not {self.coordinator!r}")
        if self.process is not None and self.processes is not None and self.process >= self.processes:
            raise SettingError(
                f"distributed.process must be below distributed.processes = {self.processes}, not {self.process}: "
                "processes count from 0"
            )
