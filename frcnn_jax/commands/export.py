"""Writes a checkpoint of a run as one file for use elsewhere.

    frcnn export --workdir runs/X --format safetensors --out X.safetensors

safetensors, npz: the parameters under flat names such as backbone/conv1_1/kernel, with classes, pixel normalisation,
box statistics and test settings as metadata. `frcnn_jax.load_weights(FILE, model)` reads them back.

stablehlo: a function with the weights inside, which needs only jax and flatbuffers:

    import json, zipfile
    from jax import export
    function = export.deserialize(bytearray(open(FILE, "rb").read()))
    about = json.loads(zipfile.ZipFile(FILE).read("metadata.json"))
    found = function.call(
        image, image_size, original_size, scale, proposals, proposal_mask
    )

The docstring of frcnn_jax/runs/export.py is a complete program, from a picture to detections.
"""

import argparse

from frcnn_jax.cli.options import checkpoint_option, count, make_parser
from frcnn_jax.config import expand_user
from frcnn_jax.words import counted


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--workdir", required=True, type=expand_user, help="folder of the run")
    checkpoint_option(parser)
    parser.add_argument("--format", required=True, choices=("safetensors", "npz", "stablehlo"), help="see above")
    parser.add_argument("--out", required=True, type=expand_user, metavar="FILE", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    stablehlo = parser.add_argument_group("stablehlo")
    stablehlo.add_argument(
        "--bucket",
        nargs=2,
        type=count(1),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the padded image; if not given, a square that holds any image at the config's test scale",
    )
    stablehlo.add_argument(
        "--proposals",
        type=count(1),
        metavar="P",
        help="number of boxes; the config's proposals.max_count if not given",
    )
    stablehlo.add_argument(
        "--platforms",
        nargs="+",
        choices=("cpu", "cuda", "rocm", "tpu"),
        metavar="PLATFORM",
        help="devices to run on, of cpu, cuda, rocm and tpu; all but rocm if not given",
    )
    arguments = parser.parse_args()
    if arguments.out.is_dir():
        example = arguments.out / f"{arguments.workdir.absolute().name}.{arguments.format}"
        raise IsADirectoryError(f"{arguments.out} is a folder: give the file to write, as --out {example}")
    if arguments.format != "stablehlo":
        if arguments.out.suffix != f".{arguments.format}":
            parser.error(f"--out {arguments.out} must end in .{arguments.format}")
        if any(value is not None for value in (arguments.bucket, arguments.proposals, arguments.platforms)):
            parser.error("--bucket, --proposals and --platforms are for --format stablehlo")
    elif arguments.out.suffix in (".safetensors", ".npz"):
        parser.error(f"--out {arguments.out} is named like another format")
    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{arguments.out} already exists: give --overwrite to replace it, or another --out")

    print(export(arguments))


def export(arguments: argparse.Namespace) -> str:
    """Writes the file; returns a line about its contents."""
    from flax.traverse_util import flatten_dict

    from frcnn_jax.runs.detector import load_detector
    from frcnn_jax.runs.export import PLATFORMS, export_arrays, export_stablehlo

    detector = load_detector(arguments.workdir, arguments.checkpoint)
    if arguments.format == "stablehlo":
        platforms = arguments.platforms or PLATFORMS
        export_stablehlo(
            arguments.out,
            detector,
            bucket=tuple(arguments.bucket) if arguments.bucket else None,
            proposals=arguments.proposals,
            platforms=platforms,
            overwrite=arguments.overwrite,
        )
        kind = f"a function for {', '.join(platforms)}"
    else:
        export_arrays(arguments.out, detector, overwrite=arguments.overwrite)
        kind = f"{len(flatten_dict(detector.params))} arrays"
    megabytes = arguments.out.stat().st_size / 1e6
    return (
        f"{arguments.out}: {kind}, {megabytes:.1f} MB, {detector.config.model.name} after {detector.step} steps, "
        f"{counted(len(detector.classes), 'class', 'classes')}"
    )
