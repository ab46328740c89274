"""VOC 2007 with VGG_CNN_M_1024 (model M), trained on 07 trainval, tested on 07 test.

    python scripts/train.py --config configs/voc07_vgg_cnn_m_1024.py --workdir runs/voc07_vgg_cnn_m_1024 \
        --model.weights VGG_CNN_M_1024.caffemodel

The weights are those of the ImageNet network; conv1 keeps them, all above is learned (section 4.5). Paper: VOC07 mAP
59.2 (Table 4), 2.0 h of training on one K40. Reached: not run.
"""

from frcnn_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimizerConfig, ParameterRule, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("voc/2007/trainval",), test="voc/2007/test"),
        model=ModelConfig(name="vgg_cnn_m_1024"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            drops=(30_000,),
            rules=(
                ParameterRule(r"^backbone/conv1/", None),
                ParameterRule(r"/bias$", 2.0, 0.0),
                ParameterRule(r"/kernel$"),
            ),
        ),
        train=TrainConfig(steps=40_000),
        evaluate=EvalConfig(score_threshold=0.0),
    )
