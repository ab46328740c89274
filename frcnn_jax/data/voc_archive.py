"""The archives of PASCAL VOC: their names and hashes, and how they are unpacked."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from frcnn_jax.atomic import new_folder

__all__ = ["ARCHIVES", "Archive", "extract_archive"]

_NEEDED = frozenset({"JPEGImages", "Annotations", "Main"})


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download."""

    file: str
    bytes: int
    sha256: str


ARCHIVES = {
    "2007": {
        "trainval": Archive(
            "VOCtrainval_06-Nov-2007.tar",
            460032000,
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
        "test": Archive(
            "VOCtest_06-Nov-2007.tar",
            451020800,
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    },
    "2012": {
        "trainval": Archive(
            "VOCtrainval_11-May-2012.tar",
            1999639040,
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
        "test": Archive(
            "VOC2012test.tar",
            1850626560,
            "f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
        ),
    },
}


def extract_archive(path: Path) -> Path:
    """The folder with the images, annotations and split lists of a .tar file, beside it; unpacked unless it exists.

    TFDS's own extraction needs TensorFlow.
    """
    folder = path.with_name(f"{path.name}.extracted")
    if folder.is_dir():
        return folder
    try:
        with new_folder(folder) as temporary, tarfile.open(path) as archive:
            # Absent from the first releases of Python 3.11; the archives' hashes are checked anyway.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            members = (member for member in archive if _NEEDED.intersection(PurePosixPath(member.name).parts[-2:]))
            for member in tqdm(members, f"Unpacking {path.name}", unit="file"):
                archive.extract(member, temporary)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    return folder
