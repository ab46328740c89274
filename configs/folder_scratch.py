"""Any folder of annotated images, from scratch with `tiny`, for microscope images, drawings and the like.

    frcnn train --config folder_scratch --workdir runs/mine --data.root FOLDER

The layout of FOLDER is detected: VOC's, labelImg's, COCO's, YOLO's or CSV. Without test images, the validation images
are the test set, or about a tenth of all. Settings most worth changing: `--train.steps` (a few thousand for some
hundred images), `--input.scales` and `--proposals.max-side` (larger for small objects), `--input.no-flip` if left and
right differ, `--evaluate.per-class 600` for images with tens of objects of one class. Results are those of `bccd.py`
and `demo.py`, which derive from it.
"""

from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    ProposalConfig,
    SamplingConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(train=("folder/trainval",), test="folder/test", root="~/data/mine"),
        proposals=ProposalConfig(method="selective_search_mutual", max_side=320, segment_scale=50, min_side=12),
        input=InputConfig(batch_size=4, scales=(480,), max_size=640, test_scale=480, test_max_size=640),
        model=ModelConfig(name="tiny", dropout=0.0),
        sampling=SamplingConfig(rois_per_image=128, foreground_fraction=0.5, background_iou=(0.0, 0.5)),
        optimizer=OptimizerConfig(
            learning_rate=0.04,
            weight_decay=1e-4,
            schedule="cosine",
            warmup=100,
            clip_norm=5.0,
            rules=(),  # the architecture's own
        ),
        train=TrainConfig(steps=2000, checkpoint_every=250),
        evaluate=EvalConfig(per_class=300, score_threshold=0.05),
    )
