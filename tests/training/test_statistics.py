"""Box-target statistics by hand, and against a plain loop."""

import dataclasses

import jax
import numpy as np
import pytest

from frcnn_jax.training.statistics import box_statistics
from frcnn_jax.types import GroundTruth


def truth(boxes, labels, difficult=None):
    return GroundTruth(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        difficult=np.zeros(len(labels), bool) if difficult is None else np.array(difficult, bool),
    )


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def plain_statistics(proposals, annotations, num_classes, foreground_iou):
    targets = [[] for _ in range(num_classes)]
    for candidates, annotation in zip(proposals, annotations, strict=True):
        for p in np.concatenate([candidates, annotation.boxes]).astype(np.float64):
            best, found = 0.0, None
            for g, label in zip(annotation.boxes.astype(np.float64), annotation.labels, strict=True):
                width = max(min(p[2], g[2]) - max(p[0], g[0]), 0)
                height = max(min(p[3], g[3]) - max(p[1], g[1]), 0)
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (p, g)]
                iou = width * height / (sum(areas) - width * height)
                if iou > best:
                    best, found = iou, (g, label)
            if best >= foreground_iou:
                g, label = found
                pw, ph, gw, gh = p[2] - p[0], p[3] - p[1], g[2] - g[0], g[3] - g[1]
                targets[label].append(
                    [
                        ((g[0] + g[2]) - (p[0] + p[2])) / 2 / pw,
                        ((g[1] + g[3]) - (p[1] + p[3])) / 2 / ph,
                        np.log(gw / pw),
                        np.log(gh / ph),
                    ]
                )
    mean, std = np.zeros((num_classes, 4)), np.ones((num_classes, 4))
    for k in range(1, num_classes):
        if targets[k]:
            mean[k], std[k] = np.mean(targets[k], axis=0), np.std(targets[k], axis=0)
    return mean, std


def test_two_images_by_hand():
    # Image 1, an object of class 2: a proposal shifted by 1 of its 10 pixels to the left (IoU 9/11), one too far.
    # Image 2, an object of class 2: a proposal of its place and twice its height (IoU 1/2, which counts).
    # Targets of class 2, with each object's own box: tx 0.1, 0, 0, 0; ty 0, 0, -0.25, 0; th 0, 0, -log 2, 0.
    # Image 2 also has an object of class 1 and a proposal twice as wide, and class 1: tx -0.25, 0; tw -log 2, 0.
    statistics = box_statistics(
        [boxes([9, 10, 19, 20], [40, 10, 50, 20]), boxes([0, 0, 8, 16], [60, 60, 80, 70])],
        [truth([[10, 10, 20, 20]], [2]), truth([[0, 0, 8, 8], [60, 60, 70, 70]], [2, 1])],
        4,
    )
    expected_mean = [0.025, -0.0625, 0, -np.log(2) / 4]
    expected_std = [np.sqrt(0.01 / 4 - 0.025**2), np.sqrt(0.0625 / 4 - 0.0625**2), 1, np.sqrt(3) / 4 * np.log(2)]
    assert statistics.mean.dtype == statistics.std.dtype == np.float32
    np.testing.assert_allclose(statistics.mean[2], expected_mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics.std[2], expected_std, rtol=1e-5)  # the width does not vary: 1
    np.testing.assert_allclose(statistics.mean[1], [-0.125, 0, -np.log(2) / 2, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics.std[1], [0.125, 1, np.log(2) / 2, 1], rtol=1e-5)
    for k in (0, 3):  # background, and a class that does not occur
        np.testing.assert_array_equal(statistics.mean[k], 0)
        np.testing.assert_array_equal(statistics.std[k], 1)


@pytest.mark.parametrize("foreground_iou", [0.5, 0.3])
def test_equals_a_plain_loop(foreground_iou):
    random = np.random.default_rng(0)
    proposals, annotations = [], []
    for objects in (3, 1, 0, 40):  # none, and more than fill one padded block
        corners = random.uniform(0, 60, (objects, 2))
        own = np.concatenate([corners, corners + random.uniform(10, 40, (objects, 2))], axis=1)
        near = np.repeat(own, 8, axis=0) + random.uniform(-6, 6, (8 * objects, 4))
        proposals.append(np.concatenate([near, boxes([0, 0, 100, 100])]).astype(np.float32))
        annotations.append(truth(own, random.integers(1, 4, objects)))
    statistics = box_statistics(proposals, annotations, 4, foreground_iou=foreground_iou)
    mean, std = plain_statistics(proposals, annotations, 4, foreground_iou)
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(statistics.std, std, rtol=1e-3)
    assert (std[1:] != 1).all()


def test_difficult_objects_can_be_left_out():
    annotation = truth([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 2], [False, True])
    proposals = [boxes([1, 0, 11, 10], [20, 22, 30, 32])]
    with_them = box_statistics(proposals, [annotation], 3)
    without = box_statistics(proposals, [annotation], 3, use_difficult=False)
    np.testing.assert_allclose(with_them.mean[2, 1], -0.1, rtol=1e-5)
    np.testing.assert_array_equal(without.mean[2], 0)
    np.testing.assert_array_equal(without.mean[1], with_them.mean[1])


@pytest.mark.parametrize("use_difficult", [True, False])
def test_crowds_are_left_out(use_difficult):
    objects, proposals = [[0, 0, 10, 10], [20, 20, 30, 30]], [boxes([1, 0, 11, 10], [20, 22, 30, 32])]
    with_crowd = dataclasses.replace(truth(objects, [1, 2]), crowd=np.array([False, True]))
    got = box_statistics(proposals, [with_crowd], 3, use_difficult=use_difficult)
    want = box_statistics(proposals, [truth(objects[:1], [1])], 3)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert want.mean[1, 0] != 0


@pytest.mark.parametrize(("flip", "flip_vertical"), [(True, False), (False, True), (True, True)])
def test_flipped_images_count_half(flip, flip_vertical):
    # As many copies of each image flipped as not, in each way that it is flipped: what training sees on average.
    random = np.random.default_rng(1)
    corners = random.uniform(0, 50, (6, 2))
    own = np.concatenate([corners, corners + random.uniform(10, 40, (6, 2))], axis=1)
    near = np.repeat(own, 8, axis=0) + random.uniform(0, 5, (48, 4))
    labels = random.integers(1, 3, 6)
    sides = [100 * np.array([x, y, x, y]) for x in (0, 1)[: flip + 1] for y in (0, 1)[: flip_vertical + 1]]

    def copies(rows):
        return [np.sort(np.abs(side - rows).reshape(-1, 2, 2), axis=1).reshape(-1, 4) for side in sides]

    annotations = [truth(rows, labels) for rows in copies(own)]
    mean, std = plain_statistics(copies(near), annotations, 3, 0.5)
    statistics = box_statistics([near], [truth(own, labels)], 3, flip=flip, flip_vertical=flip_vertical)
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(statistics.std, std, rtol=1e-3)


def test_images_without_proposals_or_objects():
    nothing = np.zeros((0, 4), np.float32)
    statistics = box_statistics([nothing, boxes([0, 0, 5, 5])], [truth([[0, 0, 10, 10]], [1]), truth([], [])], 2)
    np.testing.assert_array_equal(statistics.mean, 0)
    np.testing.assert_array_equal(statistics.std, 1)
    assert np.isfinite(box_statistics([], [], 2).std).all()
