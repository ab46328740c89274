"""The record of a run's data on disk: any damage makes it no record, and is no error."""

import numpy as np

from frcnn_jax.training.data_record import DataRecord, read_record, write_record


def test_a_bit_of_it_may_be_wrong_anywhere(tmp_path):
    """Whatever NumPy and zipfile raise then: of zlib, of Python's tokens, of methods of compression ..."""
    names = tuple(f"image{i}" for i in range(40))
    digests = np.random.default_rng(0).integers(0, 256, (40, 4, 8), np.uint8)
    write_record(tmp_path, DataRecord("f" * 64, ("p",), ("cat", "dog"), names, digests))
    path = tmp_path / "data.npz"
    whole = path.read_bytes()
    assert read_record(tmp_path).image_ids == names
    damaged, places = 0, range(0, len(whole), 3)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        damaged += read_record(tmp_path) is None
    assert damaged > len(places) / 2
