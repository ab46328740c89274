"""Weights of other frameworks as a file of ours: read once, then as quick to load as any."""

import dataclasses
from pathlib import Path

from frcnn_jax.config import expand_user
from frcnn_jax.models.architectures import create_model
from frcnn_jax.models.heads import output_layers
from frcnn_jax.weights.formats.base import Weights
from frcnn_jax.weights.formats.table import CONVERTED, read_foreign, refuse_existing, write_weights
from frcnn_jax.weights.load import fit_weights
from frcnn_jax.weights.metadata import NetworkMetadata
from frcnn_jax.weights.published import locate_weights
from frcnn_jax.weights.svd import stored_ranks


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Result of `convert_weights`."""

    path: Path  # of the file written
    taken: tuple[str, ...]  # names of the arrays in it
    left: tuple[str, ...]  # layers of the source that are not in it
    metadata: NetworkMetadata


def convert_weights(source: str | Path, model: str, out: str | Path, num_classes: int | None = None) -> Conversion:
    """Writes `out`/weights.safetensors with the weights of a `.caffemodel`, or of torchvision's or EfficientNet-Lite's
    `.pth`, torchvision's `.safetensors`, or "imagenet", as `load_weights` takes them.

    `load_weights` takes that file and the folder, with the same result as the source. Where the source has `fc6_L` and
    `fc6_U` in place of fc6, or the same of fc7, the metadata tells the ranks that the model is to be created with.

    Args:
        model: name for `create_model`.
        num_classes: of a finished detector, background included; those of the source if None.

    Raises:
        FileNotFoundError: there is no such source.
        FileExistsError: the file already exists.
        ValueError: the source is of no kind that is read, is damaged or does not fit the model.
    """
    source, path = locate_weights(source, model), expand_user(out) / CONVERTED
    refuse_existing(path)
    smallest = create_model(model, num_classes or 2)
    weights = read_foreign(source, smallest)
    count = _count_classes(weights, output_layers(smallest.head)[0]) if num_classes is None else num_classes
    ranks = {f"{layer}_rank": rank for layer, rank in stored_ranks(weights.arrays).items()}
    try:
        target = create_model(model, count, pixels=weights.pixels, **ranks)
    except ValueError as error:
        raise ValueError(f"{source} does not fit {model}: {error}") from error
    # Checks names and shapes; an ImageNet network gets random heads for it, which are not written.
    fit_weights(source, weights, target)

    metadata = NetworkMetadata(
        model=model,
        pixels=weights.pixels,
        num_classes=count if weights.has_heads else None,
        source=source.name,
        drawn=weights.drawn,
        **ranks,
    )
    write_weights(path, weights.arrays, metadata)
    return Conversion(path, tuple(weights.arrays), weights.left, metadata)


def _count_classes(weights: Weights, scores: str) -> int:
    """Background included; 2, the fewest possible, where the weights do not say."""
    bias = weights.arrays.get(f"head/{scores}/bias")
    return 2 if bias is None or bias.ndim != 1 else max(len(bias), 2)
