"""Inspects a folder of annotated images before training, in seconds: its contents and its faults.

    frcnn inspect-data --data.root FOLDER [--out FOLDER] [--proposals [N]]
        [--config folder] [--SETTING VALUE ...]

It prints the layout, the splits, the objects by class and size, duplicate images, and all faults with their treatment
in training. Images are checked by their headers; --verify decodes all of them.

With --out FOLDER the same is written to FOLDER/index.html, one page that opens offline, with objects of each class, the
largest, smallest and most crowded, and training images as the settings of the config show them to the network.

With --proposals the proposals of N images (200 if not given) are computed, unless they are stored, for their recall and
for the RoIs on the page. A following training reuses them.

It ends with the command that trains on the folder, with the settings that its lines advise for faults, names of classes
and a larger test.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from frcnn_jax.cli.options import count, make_parser, option_strings, root_option, root_setting
from frcnn_jax.config import expand_user, load_config, override
from frcnn_jax.words import joined

_IMAGES = 200
_RECALL = 0.9  # least share of the objects that proposals should cover
_RECIPES = (
    "(folder is for photographs, and starts from ImageNet weights; folder_scratch is for microscope images and "
    "drawings, and starts from random ones)"
)


def main() -> None:
    parser = make_parser(__doc__)
    root_option(parser, "to look at")
    parser.add_argument(
        "--config", default="folder", type=expand_user, help="name of a config, or file with get_config()"
    )
    parser.add_argument("--out", type=expand_user, metavar="FOLDER", help="folder for the page; none if not given")
    parser.add_argument(
        "--proposals",
        type=count(1),
        nargs="?",
        const=_IMAGES,
        metavar="N",
        help=f"compute the proposals of N images, {_IMAGES} if N is not given",
    )
    parser.add_argument("--verify", action="store_true", help="decode all images; the same as --data.verify")
    arguments, settings = parser.parse_known_args()
    given = [*root_setting(arguments), *settings]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    verify = ["--data.verify"] if arguments.verify else []
    config = override(load_config(arguments.config), given + verify, sys.argv[0], options=option_strings(parser))
    if config.data.root is None:
        parser.error("--data.root FOLDER is missing: the folder to inspect")

    from frcnn_jax.evaluation.looking.advice import advised_settings
    from frcnn_jax.evaluation.looking.page import check_page, format_survey, write_page
    from frcnn_jax.evaluation.looking.survey import survey_folder
    from frcnn_jax.evaluation.outputs.files import check_folder
    from frcnn_jax.plugins import load_plugins

    load_plugins(config.plugins)
    if arguments.out is not None:
        check_folder(arguments.out, "--out")
        check_page(arguments.out / "index.html")
    survey = survey_folder(config)
    recall = None
    if arguments.proposals and len(survey.view):
        from frcnn_jax.evaluation.looking.network import sampled_recall

        recall = sampled_recall(survey.view, config, arguments.proposals)
    print(format_survey(survey, config, recall))
    if recall is not None:
        share = recall.overall.shares[0.5]
        if share is not None and share < _RECALL:
            print(f"\nRecall at IoU 0.5 is below {_RECALL:g}: --proposals.max-side 500 or larger finds smaller objects")
        print(f"\nThe proposals are kept in {survey.view.shared_directory}, where training finds them")
    trained = [i for i, split in enumerate(survey.split_of) if "trained on" in survey.splits[split].used]
    if arguments.out is None:
        print("\nWith --out FOLDER: a page with pictures")
    else:
        from frcnn_jax.evaluation.looking.network import network_pictures
        from frcnn_jax.evaluation.looking.samples import sample_pictures
        from frcnn_jax.models.architectures import find_architecture

        network = []
        if trained:
            stride = find_architecture(config.model.name).stride
            network = network_pictures(survey.view.part(trained), config, stride, search=recall is not None)
        path = write_page(survey, config, sample_pictures(survey), network, arguments.out / "index.html", recall)
        print(f"\nPage: {path}")
    if any(len(survey.view.annotations[i].labels) for i in trained):
        stops = bool(survey.test_stop) or (survey.stops and not survey.options)
        words, purposes = advised_settings(survey, config, given)
        advised = f", with the settings for {joined(purposes)}" if purposes else ""
        print(f"\nNext{', when nothing stops it' if stops else advised}:")
        print(f"  {training_command(arguments.config, words)}")
        if str(arguments.config) in ("folder", "folder_scratch"):
            print(f"  {_RECIPES}")


def training_command(config: str | Path, settings: Sequence[str]) -> str:
    """The command line that trains with the same config and settings, for a shell."""
    program = f"{sys.argv[0].removesuffix('inspect-data')}train"
    if sys.argv[0].endswith(".py"):
        program = f"python {shlex.quote(str(Path(sys.argv[0]).with_name('train.py')))}"
    return f"{program} {shlex.join(['--config', str(config), '--workdir', 'runs/mine', *settings])}"
