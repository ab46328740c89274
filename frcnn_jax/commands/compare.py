"""Trains and tests R-CNN, SPPnet and Fast R-CNN on the same data, proposals and networks, and writes the paper's table.

    frcnn compare --config X --workdir FOLDER [--systems rcnn sppnet fast_rcnn]
        [--models M ...] [--SETTING VALUE ...] [--comparison.SETTING VALUE ...]
    frcnn compare --config X --settings

Each system with each network has a folder in the workdir, SYSTEM-MODEL, and a separate process, so that its peak memory
is measured separately. Finished work is not repeated: after a kill, the same command continues. --comparison.share 0.01
processes that share of the images and steps, and extrapolates the times. comparison.html and comparison.md in the
workdir show all results, also those of earlier commands. --systems fast_rcnn_svm, after fast_rcnn, replaces its softmax
by SVMs (Fast R-CNN's table 8).
"""

import argparse
import dataclasses
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from frcnn_jax.cli.options import make_parser, option_strings
from frcnn_jax.cli.run import package_command
from frcnn_jax.comparison.settings import ComparisonConfig
from frcnn_jax.config import Config, expand_user, load_config, override, replace
from frcnn_jax.signals import Terminated, set_unsaved

MEMORY_SETTINGS = (
    "input.batch_size, input.scales, input.max_size, sampling.rois_per_image, comparison.rcnn.windows_at_once and "
    "comparison.sppnet.max_size"
)
MODULES = {
    "rcnn": "rcnn",
    "sppnet": "sppnet",
    "fast_rcnn": "fast_rcnn",
    "fast_rcnn_svm": "ablations.fast_rcnn_svm",
}
TESTED_ALIKE = {"box_voting": None, "second_pass": 0, "flip": False}  # the same evaluation of all systems
SYSTEMS = ("rcnn", "sppnet", "fast_rcnn")
WITHOUT_SPPNET = ("caffenet", "vgg_cnn_m_1024")  # the paper has no SPPnet with S and M


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    """All settings of a comparison."""

    comparison: ComparisonConfig = dataclasses.field(default_factory=ComparisonConfig)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True, type=expand_user, help="name of a config, or file with get_config()")
    parser.add_argument("--workdir", type=expand_user, help="folder of all systems; required except with --settings")
    parser.add_argument(
        "--systems", nargs="+", choices=list(MODULES), default=SYSTEMS, metavar="SYSTEM", help=", ".join(MODULES)
    )
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="networks; if not given, the config's")
    parser.add_argument("--settings", action="store_true", help="list all settings, with the config's values, and exit")
    parser.add_argument("--child", metavar="PROGRAM", help=argparse.SUPPRESS)
    arguments, given = parser.parse_known_args()
    # R-CNN and SPPnet have none of these, and the three are to be tested alike.
    recipe = replace(load_config(arguments.config), evaluate=TESTED_ALIKE)
    settings = override(
        Settings(**vars(recipe)),
        ["--help"] if arguments.settings else given,
        sys.argv[0],
        options=option_strings(parser),
    )
    for name, value in TESTED_ALIKE.items():
        if getattr(settings.evaluate, name) != value:
            parser.error(f"--evaluate.{name.replace('_', '-')}: R-CNN and SPPnet have none, and all are tested alike")
    if "fast_rcnn_svm" in arguments.systems and settings.input.test_scales:
        parser.error("--input.test-scales: the SVMs of fast_rcnn_svm see one scale, --input.test-scale: leave it out")
    if arguments.workdir is None:
        parser.error("the following arguments are required: --workdir")
    config = Config(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Config)})
    models = arguments.models or [config.model.name]
    if arguments.child is not None:
        sys.argv[0] = arguments.child  # for messages
        end_with_parent()
        config = replace(config, model={"name": models[0]})
        train_and_test(arguments.systems[0], config, settings.comparison, arguments.workdir, models)
        return

    from frcnn_jax.comparison.table import find_records, to_markdown, write_table
    from frcnn_jax.models.architectures import find_architecture

    # Plug-ins are imported by the systems' processes alone: one that computes would hold the memory of a GPU here.
    for model in models if not config.plugins else ():
        find_architecture(model)
    command = [*package_command("compare"), "--config", arguments.config, "--workdir", arguments.workdir, *given]
    for model in models:
        for system in arguments.systems:
            if system == "sppnet" and model in WITHOUT_SPPNET:
                print(f"{system} with {model}: left out, as in the paper", flush=True)
                continue
            print(f"{system} with {model}{fine_tuning_length(system, settings.comparison)}", flush=True)
            others = [other for other in models if other != model]
            in_a_process_of_its_own([*command, "--child", sys.argv[0], "--systems", system, "--models", model, *others])
            write_table(arguments.workdir, find_records(arguments.workdir))
    print(to_markdown(write_table(arguments.workdir, find_records(arguments.workdir))))
    print(f"Table: {arguments.workdir}/comparison.html")


def fine_tuning_length(system: str, comparison: ComparisonConfig) -> str:
    """The steps of R-CNN or SPPnet and the settings that shorten them; empty for systems of `train.steps`."""
    settings = getattr(comparison, system, None)
    if settings is None or not settings.fine_tuning.steps:
        return ""
    at_most = "at most " if settings.fine_tuning.held_out else ""
    return (
        f": {at_most}{settings.fine_tuning.steps:,} steps of fine-tuning by --comparison.{system}.fine-tuning.steps, "
        "not --train.steps; --comparison.share times a part of them"
    )


def train_and_test(
    system: str, config: Config, comparison: ComparisonConfig, workdir: Path, models: Sequence[str]
) -> None:
    """Trains and tests one system with one network, after the names of all networks of the comparison are checked."""
    from frcnn_jax.models.architectures import find_architecture
    from frcnn_jax.plugins import load_plugins

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("frcnn_jax").setLevel(logging.INFO)
    module = importlib.import_module(f"frcnn_jax.comparison.{MODULES[system]}")
    folder = workdir / f"{system}-{config.model.name}"
    load_plugins(config.plugins, folder)
    for model in models:
        find_architecture(model)
    module.train(config, comparison, folder)
    module.test(config, comparison, folder)


def in_a_process_of_its_own(command: list) -> None:
    """Runs a command that watches its standard input to notice the end of this process; exits if it fails."""
    set_unsaved(True)  # the process may have work to save
    try:
        with subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt as error:
                if isinstance(error, Terminated):  # while the terminal sends Ctrl-C to both
                    process.stdin.close()
                code = process.wait()
                if not code:  # it had ended, or was not sent the signal
                    raise
    finally:
        set_unsaved(False)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def end_with_parent() -> None:
    """Makes this process stop cleanly, as by SIGTERM, when its parent ends."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
