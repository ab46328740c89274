"""Any folder of annotated images, from scratch with `tiny`: microscopes, drawings, and whatever is unlike photographs.

    frcnn train --config folder_scratch --workdir runs/mine --data.root FOLDER

FOLDER is in VOC's format, labelImg's, COCO's, YOLO's or CSV, which is recognised. Without test images those to validate
with are the test, else a tenth of all. What is most worth changing:
`--train.steps` (a few thousand for some hundred images), `--input.scales` and `--proposals.max-side` (larger for small
objects), `--input.no-flip` where left and right differ, `--evaluate.per-class 600` where an image has tens of objects
of one class. Run as `bccd.py` and `demo.py`, which derive from it.
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
