"""VOC 2007 from ImageNet on a CPU: the recipe of `folder.py` with more passes over the photographs.

    frcnn train --config voc07_photos --workdir runs/voc07_photos

It downloads VOC 2007 (0.9 GB), trains on trainval and tests on test, which has not been run. The number of epochs is
that of the runs in docs/results.md, on fewer photographs.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "folder.py",
        __file__,
        data={
            "train": ("voc/2007/trainval",),
            "test": "voc/2007/test",
            "root": None,
            "faults": {"tolerance": 0},  # the official sets have none
        },
        train={"epochs": 8},
        evaluate={"per_class": 100, "score_threshold": 0.0},  # the paper's; with box voting
    )
