"""VOC 2012 with VGG16 (model L), trained on 12 trainval, to be tested on 12 test by the evaluation server.

    frcnn train --config voc12_vgg16 --workdir runs/voc12_vgg16 --model.weights VGG16.caffemodel
    frcnn evaluate --workdir runs/voc12_vgg16 --data.test voc/2012/test --out runs/voc12_vgg16/server \
        --voc-results runs/voc12_vgg16/server/results

The annotations of 12 test were never published: the second command writes the files that the server takes (comp4). The
training ends with a measurement on VOC07 test, none of whose images is in 12 trainval, by the area under the curve as
in VOC10 and later. Paper: 65.7 on VOC12 test (Table 3), 66.1 on VOC10 test (Table 2), training time not given. Reached:
not run.

The schedule is 60k steps, and 20k at a tenth of the rate. Section 2.3 has 30k and 10k, as for 07 trainval:
--train.steps 40000 --optimizer.drops 30000.

The paper's 68.4 (VOC10: 68.8) was trained on 07++12, which includes 07 test, so only the server can measure it
(section 5.3):

    frcnn train --config voc12_vgg16 --workdir runs/voc07pp12_vgg16 \
        --model.weights VGG16.caffemodel --data.train voc/2007/trainval voc/2007/test voc/2012/trainval \
        --data.test voc/2012/test --train.steps 100000 --optimizer.drops 40000 80000

and the files for the server as above, with that workdir.
"""

from frcnn_jax.config import Config, derive


def get_config() -> Config:
    return derive(
        "voc07_vgg16.py",
        __file__,
        data={"train": ("voc/2012/trainval",)},
        optimizer={"drops": (60_000,)},
        train={"steps": 80_000},
        evaluate={"metric": "voc10"},
    )
