"""VOC 2007 on a CPU, from a network pretrained on ImageNet: `folder.py` with more epochs.

    frcnn train --config voc07_photos --workdir runs/voc07_photos

Downloads VOC 2007 (0.9 GB), trains on trainval and tests on test. Reached: not run. The number of epochs is that of the
runs on fewer photographs in docs/results.md.
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
