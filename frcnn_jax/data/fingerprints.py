"""The hash of a whole data set, now and in earlier versions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["content_fingerprint", "legacy_fingerprint"]


def content_fingerprint(dataset: Any) -> str:
    """The hash in `Dataset.fingerprint`: data sets with the same hash train identically."""
    digest = hashlib.sha256(_joined(["frcnn_jax data, version 2", *dataset.classes]))
    for index, (image_id, truth) in enumerate(zip(dataset.image_ids, dataset.annotations, strict=True)):
        digest.update(_joined([image_id, dataset.image_fingerprint(index), str(len(truth.labels))]))
        digest.update(np.ascontiguousarray(truth.boxes, "<f4").tobytes())
        digest.update(np.ascontiguousarray(truth.labels, "<i4").tobytes())
        digest.update(np.ascontiguousarray(truth.difficult, np.bool_).tobytes())
        if truth.crowd.any():  # data without crowds keep their hash
            digest.update(b"crowd" + np.ascontiguousarray(truth.crowd, np.bool_).tobytes())
    return digest.hexdigest()


def legacy_fingerprint(dataset: Any) -> str:
    """The `fingerprint` in checkpoints and stored proposals of earlier versions: a hash of ids and images."""
    parts = getattr(dataset, "parts", None)
    if parts is not None:
        return "+".join(legacy_fingerprint(part) for part in parts)
    digest = hashlib.sha256()
    for index, image_id in enumerate(dataset.image_ids):
        image = bytes.fromhex(dataset.image_fingerprint(index)[:64])  # earlier versions turned no image
        digest.update(hashlib.sha256(image_id.encode()).digest() + image)
    return digest.hexdigest()


def _joined(texts: Sequence[str]) -> bytes:
    """Texts joined unambiguously as bytes."""
    return b"".join(b"%d:%s," % (len(data), data) for data in (text.encode() for text in texts))
