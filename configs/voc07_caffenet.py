"""VOC 2007 with CaffeNet (model S), trained on 07 trainval, tested on 07 test.

    frcnn train --config voc07_caffenet --workdir runs/voc07_caffenet \
        --model.weights CaffeNet.caffemodel

The weights are those of the ImageNet network; conv1 is frozen, the layers above are learned (section 4.5). Paper: VOC07
mAP 57.1 (Table 4), 1.2 h of training on one K40. Reached: not run.
"""

from frcnn_jax.config import Config, ParameterRule, derive


def get_config() -> Config:
    return derive(
        "voc07_vgg16.py",
        __file__,
        model={"name": "caffenet"},
        optimizer={
            "rules": (
                ParameterRule(r"^backbone/conv1/", None),
                ParameterRule(r"/bias$", 2.0, 0.0),
                ParameterRule(r"/kernel$"),
            )
        },
    )
