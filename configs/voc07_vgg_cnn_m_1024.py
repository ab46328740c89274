"""VOC 2007 with VGG_CNN_M_1024 (model M), trained on 07 trainval, tested on 07 test.

    frcnn train --config voc07_vgg_cnn_m_1024 --workdir runs/voc07_vgg_cnn_m_1024 \
        --model.weights VGG_CNN_M_1024.caffemodel

The weights are those of the ImageNet network; conv1 is frozen, the layers above are learned (section 4.5). Paper: VOC07
mAP 59.2 (Table 4), 2.0 h of training on one K40. Reached: not run.
"""

from frcnn_jax.config import Config, ParameterRule, derive


def get_config() -> Config:
    return derive(
        "voc07_vgg16.py",
        __file__,
        model={"name": "vgg_cnn_m_1024"},
        optimizer={
            "rules": (
                ParameterRule(r"^backbone/conv1/", None),
                ParameterRule(r"/bias$", 2.0, 0.0),
                ParameterRule(r"/kernel$"),
            )
        },
    )
