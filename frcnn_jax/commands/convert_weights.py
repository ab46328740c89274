"""Converts published weights into a file of frcnn_jax.

    frcnn convert-weights SOURCE --model vgg16 --out FOLDER [--num-classes 21]

SOURCE: a .caffemodel (an ImageNet network or a finished Fast R-CNN detector); torchvision's vgg16, resnet18 or resnet50
as .pth or .safetensors; an EfficientNet-Lite as .pth; Keras's VGG16 as .h5; or imagenet: the weights of that model in
an installed package. Nothing in it is executed. FOLDER/weights.safetensors holds the weights with their pixel
normalisation. Train from it with `--model.weights FOLDER`, or load it with `frcnn_jax.load_weights(FOLDER, model)`.

An ImageNet network's classifier (fc8) is skipped; cls_score and bbox_pred are drawn when training starts, and so are
fc6 and fc7 if a Keras file lacks them. A detector compressed by truncated SVD (fc6_L and fc6_U instead of fc6, fc7
likewise) stays compressed; its ranks are printed, and must be given when the weights are used: `--model.fc6-rank`, or
`create_model(..., fc6_rank=...)`.
"""

from frcnn_jax.cli.options import count, make_parser
from frcnn_jax.config import expand_user, expand_user_or_name


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("source", type=expand_user_or_name, metavar="SOURCE", help="file, or imagenet")
    parser.add_argument(
        "--model", required=True, help="network: vgg16, vgg_cnn_m_1024, caffenet, resnet50, efficientnet_lite0 ..."
    )
    parser.add_argument("--out", required=True, type=expand_user, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--num-classes",
        type=count(2),
        metavar="N",
        help="number of classes that a trained detector must have, background included; not checked if not given",
    )
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="MODULE", help="modules of your own that register the network"
    )
    arguments = parser.parse_args()

    from frcnn_jax.plugins import load_plugins
    from frcnn_jax.weights.convert import convert_weights
    from frcnn_jax.weights.folding import head_layers

    load_plugins(arguments.plugins)
    done = convert_weights(arguments.source, arguments.model, arguments.out, arguments.num_classes)
    layers = list(dict.fromkeys(name.split("/")[1] for name in done.arrays))
    about, pixels = done.metadata, done.metadata.pixels
    print(f"Written: {', '.join(layers)}")
    print(f"Skipped: {', '.join(done.skipped) or 'nothing'}")
    if about.num_classes is None:
        drawn = ", ".join([*head_layers(about.drawn), "cls_score"])
        print(f"An ImageNet network: {drawn} and bbox_pred are drawn at random when training starts")
    else:
        print(f"A detector of {about.num_classes} classes, background included")
    ranks = {"fc6_rank": about.fc6_rank, "fc7_rank": about.fc7_rank}
    if any(ranks.values()):
        arguments = ", ".join(f"{name}={rank}" for name, rank in ranks.items() if rank is not None)
        print(f"Compressed: create_model({about.model!r}, {about.num_classes or 'num_classes'}, {arguments})")
    print(f"Pixels: {pixels.order}, less {list(pixels.mean)}, over {list(pixels.std)}")
    print(f"{done.path}: {done.path.stat().st_size / 1e6:.1f} MB for {about.model}")
