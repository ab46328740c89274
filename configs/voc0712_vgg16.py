"""VOC 2007 with VGG16 (model L), trained on 07 trainval and 12 trainval together (07+12), tested on 07 test.

    frcnn train --config voc0712_vgg16 --workdir runs/voc0712_vgg16 \
        --model.weights VGG16.caffemodel

Paper: VOC07 mAP 70.0 (Table 1), training time not given. Reached: not run.

The schedule is 100k steps, with a tenth of the rate after 40k and again after 80k. In section 5.3 this is the schedule
of the larger set 07++12 (see configs/voc12_vgg16.py), and 07+12 has 60k steps: --train.steps 60000 --optimizer.drops
30000.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "voc07_vgg16.py",
        __file__,
        data={"train": ("voc/2007/trainval", "voc/2012/trainval")},
        optimizer={"drops": (40_000, 80_000)},
        train={"steps": 100_000},
    )
