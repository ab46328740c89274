"""Kills trainings by SIGKILL at chosen places, resumes them, and compares them bit by bit with uninterrupted ones.

python scripts/fault_trial.py --out FOLDER [--short] [--steps 80] [--every 5] [--seed 0] [-- SETTING VALUE ...]

Three runs of the demo with three seeds, with a checkpoint every fifth step and a measurement every twentieth, are
killed twenty times, eight of them at a system call inside a save (needs strace). The comparison covers the kept
checkpoints (parameters, optimizer, key, step, statistics, position in the data), the measured values, the best one and
the patience, the final measures, and all lines of metrics.jsonl except the columns of speed. A table lists the place
of each kill. The exit status is 1 if anything differs or a place was not reached. It takes about 25 minutes on two
cores; --short makes four kills of one run on small images.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fault.places import PLACES, Attempt, NotReachedError

from frcnn_jax.config import expand_user

# Place and step of each kill, by run.
PLAN = (
    (("before write to .lock", 0), ("search for proposals", 0), ("first compilation", 0),
     ("save, before mkdir", 10), ("save, during fsync of arrays", 30), ("evaluation", 40), ("a step", 57)),
    (("search for proposals", 0), ("first compilation", 0), ("save, before rename", 15), ("save, during rename", 25),
     ("save, after rename", 50), ("a step", 63), ("evaluation", 80)),
    (("first compilation", 0), ("save, before rename of arrays", 10), ("save, before checksums.json", 25),
     ("save, after first removal of an old file", 35), ("before write to metrics.jsonl", 55), ("evaluation", 60)),
)  # fmt: skip
SHORT = ((("first compilation", 0), ("save, during fsync of arrays", 10), ("save, before rename", 15),
          ("save, after rename", 20)),)  # fmt: skip
SMALL = ("--input.scales", "64", "--input.max-size", "96", "--input.test-scale", "64", "--input.test-max-size", "96",
         "--proposals.max-count", "60", "--sampling.rois-per-image", "16")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """Folders of the runs, and their settings."""

    out: Path
    steps: int
    every: int
    settings: tuple[str, ...]

    def start(self, name: str, seed: int, number: int, place: str | None = None, step: int = 0) -> Attempt:
        """A process that trains in the workdir of that name, with its own prepared data and compiled functions.

        Args:
            place: place of the kill; None: it is not killed.
        """
        folder, whole = self.out / name, name.startswith("whole")
        folder.mkdir(exist_ok=True)
        shared = self.out if whole else folder  # killed ones search and compile by themselves
        log = folder / f"{number}.log"
        command = [
            *(sys.executable, "-m", "frcnn_jax", "train", "--config", "demo", "--workdir", str(folder / "run")),
            *("--data.root", str(self.out / "data"), "--data.tfds-dir", str(shared / "prepared")),
            *("--train.steps", str(self.steps), "--train.checkpoint-every", str(self.every), "--train.seed", str(seed)),
            *("--train.evaluate-every", str(4 * self.every), "--train.patience", "3", "--train.log-every", "2"),
            *("--data.validation", "folder/test"),
            *self.settings,
        ]
        env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
        if place is not None and PLACES[place].call is not None:
            traced = PLACES[place].call.command(folder / "run", step, log.with_suffix(".strace"))
            command = [*traced, *command]
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                process_group=0,
                env=env | {"XDG_CACHE_HOME": str(shared / "cache")},
            )
        return Attempt(process, log, folder / "run", shared / "prepared", self.every)

    def finish(self, name: str, seed: int, number: int) -> Path:
        """The workdir of a process that is not killed.

        Raises:
            NotReachedError: it failed.
        """
        attempt = self.start(name, seed, number)
        if attempt.process.wait() != 0:
            raise NotReachedError(f"{attempt.log}: {attempt.printed.strip().splitlines()[-1]}")
        return attempt.workdir

    def kill(self, name: str, seed: int, number: int, place: str, step: int, random: Random) -> tuple[str, ...]:
        """Trains until that place, and kills there; a row of the table."""
        attempt = self.start(name, seed, number, place, step)
        before = attempt.newest
        try:
            PLACES[place].kill(attempt, step, random)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(attempt.process.pid, signal.SIGKILL)  # killing strace alone would leave the training
            attempt.process.wait()
        unfinished = ", ".join(sorted(path.name for path in attempt.workdir.glob("checkpoints/*.orbax-*")))
        row = (name, str(number), place, *map(str, (step or "", before, attempt.step, attempt.newest)), unfinished)
        print("  ".join(row), flush=True)
        return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=expand_user, required=True, help="new folder for the runs")
    parser.add_argument("--short", action="store_true", help="four kills of one run on small images")
    parser.add_argument("--steps", type=int, help="of each run; 80, with --short 40")
    parser.add_argument("--every", type=int, default=5, help="steps from one checkpoint to the next")
    parser.add_argument("--images", type=int, nargs=2, metavar=("TRAIN", "TEST"), help="of the demo; 600 and 40")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("settings", nargs="*", help="settings of the config, after --")
    arguments = parser.parse_args()
    if shutil.which("strace") is None:
        parser.error("strace is needed: apt install strace")
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists: give a new folder")
    arguments.out.mkdir(parents=True)

    from frcnn_jax.data.demo import make_demo

    out = arguments.out.resolve()
    images = arguments.images or ((40, 8) if arguments.short else (600, 40))
    make_demo(out / "data", train_images=images[0], test_images=images[1])
    steps = arguments.steps or (40 if arguments.short else 80)
    settings = (*(SMALL if arguments.short else ()), *arguments.settings)
    trial = Trial(out, steps, arguments.every, settings)
    started = time.monotonic()
    table, problems = [], []
    for seed, plan in enumerate(SHORT if arguments.short else PLAN):
        try:
            compared = run(trial, seed, plan, Random(arguments.seed + seed), table)
            problems += [f"seed {seed}: {name} differs" for name in compared[1]]
            print(f"seed {seed}: {compared[0]} parts compared, {len(compared[1])} differ", flush=True)
        except NotReachedError as error:
            problems.append(f"seed {seed}: {error}")
    head = ("run", "kill", "place", "of step", "began at", "shown step", "newest after", "unfinished")
    print("\n" + format_table([head, *table]))
    inside = sum(PLACES[row[2]].saves for row in table)
    print(f"\n{len(table)} kills, {inside} of them inside a save; {(time.monotonic() - started) / 60:.0f} min")
    print("\n".join(problems) or "no bit differs")
    return 1 if problems else 0


def run(trial: Trial, seed: int, plan: Sequence, random: Random, table: list) -> tuple[int, list[str]]:
    """Number of parts compared, and names of those that differ; adds a row to the table for each kill."""
    from fault.compare import contents, differences

    whole = contents(trial.finish(f"whole{seed}", seed, 0))
    for number, (place, step) in enumerate(plan, 1):
        table.append(trial.kill(f"killed{seed}", seed, number, place, step, random))
    killed = contents(trial.finish(f"killed{seed}", seed, len(plan) + 1))
    return len(whole), differences(whole, killed)


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Columns of equal width, in Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
