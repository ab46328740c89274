"""The metadata of an exported function, in a zip archive after what `jax.export` serializes.

Its parameters are constants of the program and are not read.
"""

import zipfile
from pathlib import Path
from typing import Any

from frcnn_jax.weights.formats.base import Metadata, WeightFormat
from frcnn_jax.weights.metadata import from_json, to_json

_NAME = "metadata.json"


def add_metadata(path: Path, metadata: Metadata, **more: Any) -> None:
    """Puts metadata at the end of a serialized function's file; `more` is added to its JSON."""
    # A zip archive may follow other data; in mode "a" zipfile puts it there.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_NAME, to_json(metadata, **more))


def read_metadata(path: Path) -> Metadata:
    """The metadata that `add_metadata` wrote."""
    with zipfile.ZipFile(path) as archive:
        return from_json(archive.read(_NAME) if _NAME in archive.namelist() else None)


STABLEHLO = WeightFormat(suffix=".stablehlo", metadata=read_metadata, pixels=lambda path: read_metadata(path).pixels)
