"""Trains the detector of a config, or resumes its run, and evaluates it at the end.

    frcnn train --config folder --workdir runs/mine --data.root FOLDER
        [--SETTING VALUE ...]
    frcnn train --config voc07_vgg16 --workdir runs/voc07
    frcnn train --config folder --settings

It evaluates the best checkpoint if the run was measured while it trained (train.evaluate_every), else the newest. Any
setting of the config can be given, as --train.steps 3000; --settings lists them.
"""

import logging
import shlex
import sys
from functools import partial
from pathlib import Path

from frcnn_jax.cli.options import make_parser, option_strings, root_option, root_setting
from frcnn_jax.config import Config, expand_user, load_config, override

MEMORY_SETTINGS = (
    "input.batch_size, input.scales, input.max_size and sampling.rois_per_image, in an evaluation "
    "input.test_batch_size, input.test_scale and proposals.max_count,"
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True, type=expand_user, help="name of a config, or file with get_config()")
    parser.add_argument(
        "--workdir",
        type=expand_user,
        required="--settings" not in sys.argv,
        help="folder of the run; required except with --settings",
    )
    root_option(parser, "to train on")
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="continue with training data that have changed since the newest checkpoint",
    )
    parser.add_argument("--verify", action="store_true", help="read all images again; the same as --data.verify")
    parser.add_argument("--settings", action="store_true", help="list all settings, with the config's values, and exit")
    arguments, settings = parser.parse_known_args()
    settings += root_setting(arguments)
    settings += ["--data.verify"] if arguments.verify else []
    recipe = load_config(arguments.config)
    config = override(
        recipe, ["--help"] if arguments.settings else settings, sys.argv[0], options=option_strings(parser)
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("frcnn_jax").setLevel(logging.INFO)

    from frcnn_jax.distributed.start import processes

    with processes(config.distributed):
        train_and_evaluate(config, arguments.workdir, recipe, accept_changed_data=arguments.accept_changed_data)


def train_and_evaluate(config: Config, workdir: Path, recipe: Config, *, accept_changed_data: bool) -> None:
    """Trains, evaluates the chosen checkpoint and prints the measures, with all processes together.

    Args:
        recipe: the config before settings of the command line.
    """
    from frcnn_jax.distributed.talk import is_first
    from frcnn_jax.evaluation.outputs.files import check_report_folder
    from frcnn_jax.evaluation.report import format_metrics
    from frcnn_jax.runs.evaluate import evaluate_run
    from frcnn_jax.runs.train import train

    if is_first():
        check_report_folder(workdir / "eval", "--workdir")
    before_data = partial(open_test_set, workdir=workdir)
    train(config, workdir, accept_changed_data=accept_changed_data, before_data=before_data)
    report = workdir / "eval/index.html"
    if report.exists():
        print(f"Evaluating again: {workdir}/eval is replaced")
    print(format_metrics(evaluate_run(workdir, recipe=recipe)))
    print(f"Report: {report}")


def open_test_set(config: Config, workdir: Path) -> None:
    """Finds faults of the test set before the training.

    Raises:
        FileNotFoundError: it does not exist; names the setting, and the folder of the run in `workdir` if there is one.
    """
    from frcnn_jax.data.dataset import open_dataset
    from frcnn_jax.data.prepared.prepare import data_dir

    try:
        open_dataset(config.data.test, config.data)
    except FileNotFoundError as error:
        advice = _root_of_run(workdir, config)
        raise FileNotFoundError(f"data.test = {config.data.test}: {error}{advice}") from error
    kept = "images" if config.proposals.method == "file" else "images and proposals"
    folder = data_dir(config.data)
    print(f"Prepared {kept} are kept in {folder}, for later runs too; --data.tfds-dir FOLDER puts them elsewhere")


def _root_of_run(workdir: Path, config: Config) -> str:
    """Advice to give the data of the run in `workdir`; empty if it has none or the same."""
    from frcnn_jax.training.workdir import read_config

    try:
        root = read_config(workdir).data.root
    except (FileNotFoundError, ValueError):
        return ""
    if root in (None, config.data.root):
        return ""
    return f"; the run in {workdir} has --data.root {shlex.quote(str(root))}"
