"""Selective Search on one core and on all, as for a data set, by two methods in turns."""

import dataclasses
import tempfile
import time
from pathlib import Path

from bench.pictures import Pictures, load_pictures
from bench.result import Row
from bench.sizes import Sizes
from bench.timing import Timing, measure
from bench.topics import Setup
from frcnn_jax.config import ProposalConfig
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.machine import cores

# Settings with about the same recall on photographs: docs/proposals.md.
SETTINGS = {
    "fast": {"max_side": 400, "segment_scale": 100, "min_side": 12},
    "mutual": {"max_side": 320, "segment_scale": 50, "min_side": 12},
}


def measure_proposals(setup: Setup) -> list[Row]:
    """Rows of each method, with the same number of images for each core."""
    sizes = setup.sizes
    pictures = load_pictures(setup.images, sizes.searched * cores(), sizes)
    rows = []
    for workers in sorted({1, cores()}):
        part = dataclasses.replace(pictures, files=pictures.files[: sizes.searched * workers])
        height, width = part.sizes.max(axis=0)
        for mode, settings in SETTINGS.items():
            started, processor = time.perf_counter(), time.process_time()
            timing = _search(part, mode, workers, sizes)
            # Fewer than the workers: they waited for each other, or other processes used the cores.
            busy = (time.process_time() - processor) / (time.perf_counter() - started)
            side = settings["max_side"]
            rows.append(
                Row(
                    topic="proposals",
                    what=f"Selective Search {mode}, {height}x{width} at most {side}, "
                    f"{workers} core{'s' if workers > 1 else ''}",
                    ours=timing,
                    items=len(part),
                    unit="images",
                    note=f"{busy:.2f} cores busy",
                )
            )
    return rows


def _search(pictures: Pictures, mode: str, workers: int, sizes: Sizes) -> Timing:
    config = ProposalConfig(
        method=f"selective_search_{mode}", max_count=sizes.proposals, workers=workers, **SETTINGS[mode]
    )

    def run() -> None:
        # A new folder each time, as stored proposals would only be read.
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            fresh = dataclasses.replace(pictures, directory=Path(folder))
            if open_proposals(fresh, config, progress=False).computed != len(fresh):
                raise RuntimeError("proposals were not computed")

    return measure(run, effort=sizes.effort)
