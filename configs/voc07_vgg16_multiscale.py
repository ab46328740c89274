"""VOC 2007 with VGG16 (model L) at five scales, in training and at test; trained on 07 trainval, tested on 07 test.

    frcnn train --config voc07_vgg16_multiscale --workdir runs/voc07_vgg16_multiscale \
        --model.weights VGG16.caffemodel

In training a scale is drawn for each image; at test each proposal is pooled from the scale at which its area is closest
to 224 x 224 (sections 2.4 and 5.2). The paper has no such row for L: five scales exceeded the memory of its GPU. With
one scale it reaches VOC07 mAP 66.9; from one to five scales S goes from 57.1 to 58.4 and M from 59.2 to 60.7 (Table 7).
Reached: not run. S and M at five scales are commands in configs/README.md.
"""

from frcnn_jax.config import Config, derive

SCALES = (480, 576, 688, 864, 1200)


def get_config() -> Config:
    return derive(
        "voc07_vgg16.py",
        __file__,
        input={"scales": SCALES, "max_size": 2000, "test_scales": SCALES, "test_max_size": 2000},
    )
