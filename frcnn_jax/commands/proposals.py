"""Computes the region proposals of a config's data sets, or reads them from files; prints their recall, draws some.

    frcnn proposals --config X [--pictures N --out FOLDER] [--SETTING VALUE ...]
    frcnn proposals --config X --augmented N --out FOLDER [--SETTING VALUE ...]
    frcnn proposals --image A.jpg [--config X] [--boxes FILE] --out FOLDER
        [--object X1 Y1 X2 Y2 ...] [--SETTING VALUE ...]

With a config, N images of each data set are drawn as FOLDER/SPLIT-NAME.proposals.jpg: objects dashed in white, and for
each object the best overlapping proposal, in the colour of its class and with the IoU. With --augmented no proposals
are computed: N images of each training set are drawn unchanged and, five times, changed by `input.augment` and flips,
to FOLDER/SPLIT-NAME.augmented.jpg. Objects are in the colour of their class; remains of cropped objects, where nothing
is learned, are dashed in white.

With an image, its proposals are computed, with the settings of the config if one is given, or read from a FILE (as in
--proposals of `detect`). Computed ones are kept as FOLDER/A.proposals.npz, which `detect` and --boxes read; both are
drawn as FOLDER/A.proposals.jpg. Boxes of objects (half-open, pixels) are drawn with the best proposals in the same way,
and their IoU is printed. Without objects, proposals spread over the image are drawn, none overlapping another by half.
"""

import logging
import sys

from frcnn_jax.cli.options import count, make_parser, option_strings
from frcnn_jax.config import Config, expand_user, load_config, override


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", type=expand_user, help="name of a config, or file with get_config()")
    parser.add_argument("--image", type=expand_user, help="an image instead of data sets")
    parser.add_argument(
        "--pictures", type=count(0), default=0, metavar="N", help="number of images to draw from each data set"
    )
    parser.add_argument(
        "--augmented", type=count(0), default=0, metavar="N", help="number of training images to draw with augmentation"
    )
    parser.add_argument(
        "--boxes", type=expand_user, metavar="FILE", help="proposals of the image; computed if not given"
    )
    parser.add_argument(
        "--object",
        type=float,
        nargs=4,
        action="append",
        metavar=("X1", "Y1", "X2", "Y2"),
        help="an object of the image; may be repeated",
    )
    parser.add_argument("--out", type=expand_user, metavar="FOLDER", help="folder for pictures; required for them")
    parser.add_argument("--verify", action="store_true", help="read all images again; the same as --data.verify")
    arguments, settings = parser.parse_known_args()
    settings += ["--data.verify"] if arguments.verify else []
    if not arguments.image and not arguments.config:
        parser.error("--config or --image is required")
    if not arguments.image and (arguments.boxes or arguments.object):
        parser.error("--boxes and --object go with --image")
    if arguments.image and (arguments.pictures or arguments.augmented):
        parser.error("--pictures and --augmented are of data sets, and do not go with --image")
    if arguments.pictures and arguments.augmented:
        parser.error("--augmented computes no proposals, so it does not go with --pictures")
    if (arguments.image or arguments.pictures or arguments.augmented) and arguments.out is None:
        parser.error("pictures need --out")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("frcnn_jax").setLevel(logging.INFO)
    config = override(
        load_config(arguments.config) if arguments.config else Config(),
        settings,
        sys.argv[0],
        options=option_strings(parser),
    )

    from frcnn_jax.commands.show_proposals import of_augmentation, of_datasets, of_image
    from frcnn_jax.plugins import load_plugins

    load_plugins(config.plugins)
    if arguments.image:
        of_image(config, arguments.image, arguments.boxes, arguments.object or [], arguments.out)
    elif arguments.augmented:
        of_augmentation(config, arguments.augmented, arguments.out)
    else:
        of_datasets(config, arguments.pictures, arguments.out)
