"""VOC 2007 with VGG16 (model L): the paper's main row, trained on 07 trainval, tested on 07 test.

    python scripts/train.py --config configs/voc07_vgg16.py --workdir runs/voc07_vgg16 --model.weights VGG16.caffemodel

The weights are those of the ImageNet network (or torchvision's vgg16, .pth). Without them conv1 and conv2 stay random
and frozen, which a warning says. Paper: VOC07 mAP 66.9, 9.5 h of training on one K40. Reached here: not run yet.
"""

from frcnn_jax.config import Config, DataConfig, ModelConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("voc/2007/trainval",), test="voc/2007/test"),
        model=ModelConfig(name="vgg16"),
    )
