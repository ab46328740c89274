"""VOC 2007 with CaffeNet (model S), trained on 07 trainval, tested on 07 test.

    python scripts/train.py --config configs/voc07_caffenet.py --workdir runs/voc07_caffenet \
        --model.weights CaffeNet.caffemodel

The weights are those of the ImageNet network; conv1 keeps them, all above is learned (section 4.5). Paper: VOC07 mAP
57.1 (Table 4), 1.2 h of training on one K40. Reached: not run.
"""

from frcnn_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimizerConfig, ParameterRule, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("voc/2007/trainval",), test="voc/2007/test"),
        model=ModelConfig(name="caffenet"),
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
