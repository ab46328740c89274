"""Plain loops in NumPy that the operations are compared with, written from the definitions and not from the package."""

import math

import numpy as np

F32 = np.float32


def c_round(x):
    """C's round(): half away from zero."""
    return int(math.copysign(math.floor(abs(float(x)) + 0.5), x))


def roi_bins(first, last, bins, cells):
    """Caffe's [start, end) of each bin along one axis of the map, in float arithmetic as its source has it."""
    size = F32(max(last - first + 1, 1)) / F32(bins)
    edges = []
    for p in range(bins):
        start = math.floor(F32(p) * size) + first
        end = math.ceil(F32(p + 1) * size) + first
        edges.append((min(max(start, 0), cells), min(max(end, 0), cells)))
    return edges


def roi_max_pool(features, rois, output_size, spatial_scale, valid_size=None):
    """Values [R, PH, PW, C] and the row-major cell that each came from, -1 where a bin is empty."""
    height, width, channels = features.shape
    valid = valid_size if valid_size is not None else (height, width)
    values = np.zeros((len(rois), *output_size, channels), features.dtype)
    argmax = np.full(values.shape, -1)
    for r, roi in enumerate(rois):
        x1, y1, x2, y2 = (c_round(F32(corner) * F32(spatial_scale)) for corner in roi)
        for i, (top, bottom) in enumerate(roi_bins(y1, y2, output_size[0], int(valid[0]))):
            for j, (left, right) in enumerate(roi_bins(x1, x2, output_size[1], int(valid[1]))):
                for c in range(channels):
                    best = None
                    for y in range(top, bottom):
                        for x in range(left, right):
                            value = features[y, x, c]
                            if best is None or value > best or (value != value and best == best):
                                best, argmax[r, i, j, c] = value, y * width + x
                    if best is not None:
                        values[r, i, j, c] = best
    return values, argmax


def roi_max_pool_gradient(argmax, cotangent, shape):
    """Sum of the cotangents of all outputs that each cell won."""
    gradient = np.zeros(shape, np.float64)
    width = shape[1]
    for index in np.ndindex(argmax.shape):
        if argmax[index] >= 0:
            gradient[argmax[index] // width, argmax[index] % width, index[-1]] += float(cotangent[index])
    return gradient


def area(box):
    x1, y1, x2, y2 = (F32(v) for v in box)
    return max(x2 - x1, F32(0)) * max(y2 - y1, F32(0))


def iou(a, b):
    width = min(F32(a[2]), F32(b[2])) - max(F32(a[0]), F32(b[0]))
    height = min(F32(a[3]), F32(b[3])) - max(F32(a[1]), F32(b[1]))
    if width <= 0 or height <= 0:
        return F32(0)
    common = width * height
    return common / (area(a) + area(b) - common)


def giou(a, b):
    """In double precision."""
    a, b = [float(v) for v in a], [float(v) for v in b]
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union - (hull - union) / hull


def encode(roi, box):
    """In double precision."""
    (rx, ry, rw, rh), (bx, by, bw, bh) = (
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (map(float, roi), map(float, box))
    )
    return [(bx - rx) / rw, (by - ry) / rh, math.log(bw / rw), math.log(bh / rh)]


def nms(boxes, scores, mask, threshold):
    """Best first; a box stays unless one that stays overlaps it by more than the threshold."""
    waiting = sorted((i for i in range(len(boxes)) if mask[i]), key=lambda i: (-float(scores[i]), i))
    kept = []
    for i in waiting:
        if all(not iou(boxes[i], boxes[j]) > F32(threshold) for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


def multi_task_loss(logits, deltas, rois, labels, gt_boxes, mask, mean, std, weight):
    """Total, classification and localization; cross-entropy and smooth L1, in double precision."""
    classification = localization = count = 0.0
    for r in range(len(labels)):
        if not mask[r]:
            continue
        count += 1
        u = int(labels[r])
        row = [float(v) for v in logits[r]]
        classification += math.log(sum(math.exp(v - max(row)) for v in row)) + max(row) - row[u]
        if u > 0:
            for t, v, m, s in zip(deltas[r, u], encode(rois[r], gt_boxes[r]), mean[u], std[u], strict=True):
                x = abs(float(t) - (v - float(m)) / float(s))
                localization += 0.5 * x * x if x < 1 else x - 0.5
    divisor = max(count, 1.0)
    return (classification + weight * localization) / divisor, classification / divisor, localization / divisor
