"""Makes the demo's data set, scenes of handwritten digits in VOC format.

    frcnn demo-data FOLDER [--train 600] [--test 150] [--seed 0]

A folder that already holds this data set is left unchanged; any other is refused. Train on it with
`frcnn train --config demo --data.root FOLDER`.
"""

from frcnn_jax.cli.options import count, make_parser
from frcnn_jax.config import expand_user


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=expand_user, help="folder to write")
    parser.add_argument("--train", type=count(1), default=600, help="training images")
    parser.add_argument("--test", type=count(1), default=150, help="test images")
    parser.add_argument("--seed", type=count(0), default=0, help="seed of all draws")
    arguments = parser.parse_args()

    from frcnn_jax.data.demo import make_demo

    make_demo(arguments.folder, train_images=arguments.train, test_images=arguments.test, seed=arguments.seed)
    print(f"{arguments.folder}: {arguments.train} training and {arguments.test} test images of digits in VOC format")
