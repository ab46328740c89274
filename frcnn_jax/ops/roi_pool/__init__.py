"""RoI max pooling with Caffe's rules: the operation (`pool`) and its two implementations (`xla`, `pallas`)."""

from frcnn_jax.ops.roi_pool.pool import project_rois as project_rois
from frcnn_jax.ops.roi_pool.pool import roi_max_pool as roi_max_pool
