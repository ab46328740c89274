"""VOC 2007 with VGG16 (model L): the paper's main row, trained on 07 trainval, tested on 07 test.

    python scripts/train.py --config configs/voc07_vgg16.py --workdir runs/voc07_vgg16 --model.weights VGG16.caffemodel

The weights are those of the ImageNet network (or torchvision's vgg16, .pth). Without them conv1 and conv2 stay random
and frozen, which a warning says. Paper: VOC07 mAP 66.9 (Tables 1 and 4), 9.5 h of training on one K40. Reached: not
run. The paper's ablations of this run, and its other rows, are commands in configs/README.md.
"""

from frcnn_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimizerConfig, ParameterRule, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("voc/2007/trainval",), test="voc/2007/test"),
        model=ModelConfig(name="vgg16"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            drops=(30_000,),
            rules=(
                ParameterRule(r"^backbone/conv[12]_", None),
                ParameterRule(r"/bias$", 2.0, 0.0),
                ParameterRule(r"/kernel$"),
            ),
        ),
        train=TrainConfig(steps=40_000),
        evaluate=EvalConfig(score_threshold=0.0),
    )
