"""VOC 2007 on a CPU, from a network pretrained on ImageNet: `folder.py` with more epochs.

    frcnn train --config voc07_photos --workdir runs/voc07_photos

Downloads VOC 2007 (0.9 GB), trains on trainval and tests on test, which has not been run: 5,011 images take about three
hours on two cores (3.9 images/s). Reached with 1,190 of VOC's photographs, tested on 297 others with 500 proposals per
image: mAP 0.600 and 0.583 (two seeds; docs/results.md).
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
        evaluate={"score_threshold": 0.0},  # the paper's
    )
