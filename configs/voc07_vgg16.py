"""VOC 2007 with VGG16 (model L): the paper's main row, trained on 07 trainval, tested on 07 test.

    frcnn train --config voc07_vgg16 --workdir runs/voc07_vgg16 --model.weights VGG16.caffemodel

The weights are those of the ImageNet network (or torchvision's vgg16, .pth). Without weights, a warning says that conv1
and conv2 stay random, as they are frozen. Paper: VOC07 mAP 66.9 (Tables 1 and 4), 9.5 h of training on one K40.
Reached: not run. The paper's ablations of this run, and its other rows, are commands in configs/README.md.
"""

from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    FaultPolicy,
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ParameterRule,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("voc/2007/trainval",), test="voc/2007/test", faults=FaultPolicy(tolerance=0)),
        proposals=ProposalConfig(method="selective_search_quality", max_count=2000),
        input=InputConfig(batch_size=2, scales=(600,), max_size=1000, test_scale=600, test_max_size=1000, flip=True),
        model=ModelConfig(name="vgg16", dropout=0.5),
        sampling=SamplingConfig(
            rois_per_image=64, foreground_fraction=0.25, foreground_iou=0.5, background_iou=(0.1, 0.5)
        ),
        loss=LossConfig(classification="cross_entropy", localization="smooth_l1", localization_weight=1.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            drops=(30_000,),
            drop_factor=0.1,
            rules=(
                ParameterRule(r"^backbone/conv[12]_", None),
                ParameterRule(r"/bias$", 2.0, 0.0),
                ParameterRule(r"/kernel$"),
            ),
        ),
        train=TrainConfig(steps=40_000),
        evaluate=EvalConfig(nms_iou=0.3, score_threshold=0.0, per_class=100, metric="voc07"),
    )
