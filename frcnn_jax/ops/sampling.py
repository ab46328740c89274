"""Sampling the RoIs of a training step from one image (section 2.3, "Mini-batch sampling"), on the device.

An RoI is foreground if it overlaps a ground-truth box by at least `foreground_iou`, background if its largest overlap
lies in `background_iou`. At most `foreground_fraction` of the RoIs, rounded to a whole number (a half to the even one),
are foreground. If there is too little foreground, background fills its places; if there is too little background too,
places stay empty and are masked. Ground-truth boxes take part as proposals, so an image with objects always has
foreground.

Uniform foreground consists mostly of objects with many overlapping proposals, the large ones. Balanced foreground
alternates between the classes or the objects of the image: one RoI of each, then a second one of each, while they last.

A box with a coordinate that is infinite or NaN is never drawn, as if it were masked.

A crowd is a region of objects that were not annotated one by one. It is neither matched nor a proposal. An RoI with at
least `CROWD_COVER` of its own area on one crowd is not background, but may be foreground of another object.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

from frcnn_jax.ops.arguments import is_whole
from frcnn_jax.ops.boxes import box_area, paired_intersection, pairwise_iou
from frcnn_jax.ops.precision import as_mask, widen
from frcnn_jax.ops.shapes import check_shapes
from frcnn_jax.types import RoiSample

CROWD_COVER = 0.5  # share of an RoI's area; also COCO's in evaluation, at its IoU of 0.5


def sample_rois(
    key: PRNGKeyArray,
    proposals: Real[Array, "P 4"],
    proposal_mask: Bool[Array, " P"],
    gt_boxes: Real[Array, "G 4"],
    gt_labels: Int[Array, " G"],
    gt_mask: Bool[Array, " G"],
    gt_crowd: Bool[Array, " G"] | None = None,
    *,
    rois_per_image: int = 64,
    foreground_fraction: float = 0.25,
    foreground_iou: float = 0.5,
    background_iou: tuple[float, float] = (0.1, 0.5),
    foreground_balance: Literal["none", "class", "object"] = "none",
) -> RoiSample:
    """Draws RoIs of one image at random and without replacement, foreground first.

    Args:
        key: determines the draw, independently of masked entries and padding.
        proposals: those with a coordinate that is infinite or NaN are not drawn, and neither are such `gt_boxes`.
        gt_crowd: mask of crowds among the ground truth; None: no crowds.
        background_iou: half-open range [low, high) of the largest IoU; low = 0 includes boxes that touch no object.
        foreground_balance: `none` draws foreground uniformly; `class` and `object` draw equal numbers from each class,
            or each object, in the image. If one has too few RoIs, the others share its places.

    Returns:
        `rois_per_image` RoIs; labels are those of the ground-truth box with the largest IoU (the first of several).
        Boxes are float32, or float64 if the proposals and ground truth are. Gradients do not flow through the sample.

    Raises:
        ValueError: a range is empty or out of order, a count or fraction is out of range, a fraction above 0 rounds to
            no foreground, the balance is unknown, the labels are not integers, or a shape does not fit.
    """
    if foreground_balance not in ("none", "class", "object"):
        raise ValueError(f"foreground_balance must be none, class or object, not {foreground_balance!r}")
    if not is_whole(rois_per_image):
        raise ValueError(f"rois_per_image must be a whole number, not {rois_per_image!r}")
    if np.shape(background_iou) != (2,):
        raise ValueError(f"background_iou must be two numbers, not {background_iou!r}")
    low, high = background_iou
    if not (0 <= low < high <= foreground_iou <= 1 and rois_per_image > 0 and 0 <= foreground_fraction <= 1):
        raise ValueError(
            f"RoI sampling needs 0 <= background_iou {background_iou} <= foreground_iou {foreground_iou} <= 1, "
            f"rois_per_image {rois_per_image} > 0 and 0 <= foreground_fraction {foreground_fraction} <= 1"
        )
    most_foreground = round(rois_per_image * foreground_fraction)
    if foreground_fraction and not most_foreground:
        raise ValueError(
            f"foreground_fraction {foreground_fraction} of rois_per_image {rois_per_image} rounds to no foreground: "
            f"give a fraction of {1 / rois_per_image:g} or above, or 0"
        )
    proposal_mask, gt_mask = as_mask(proposal_mask), as_mask(gt_mask)
    gt_crowd = None if gt_crowd is None else as_mask(gt_crowd)
    # A traced array cannot index a NumPy array.
    proposals, gt_boxes, gt_labels = widen(proposals), widen(gt_boxes), jnp.asarray(gt_labels)
    check_shapes(
        "sample_rois",
        "proposals [P, 4], proposal_mask [P], gt_boxes [G, 4], gt_labels [G], gt_mask [G], gt_crowd [G]",
        *(proposals, proposal_mask, gt_boxes, gt_labels, gt_mask, gt_crowd),
    )
    if not jnp.issubdtype(gt_labels.dtype, jnp.integer) and gt_labels.size:
        raise ValueError(f"sample_rois takes gt_labels as integers, not {gt_labels.dtype}")
    # Proposals come first, so that entry i draws the same random number for any amount of padding.
    count = proposals.shape[0]
    candidates = jax.lax.stop_gradient(jnp.concatenate([proposals, gt_boxes]))
    on_crowd = jnp.zeros(len(candidates), bool)
    if gt_crowd is not None:
        on_crowd = _on_crowd(candidates, gt_boxes, gt_mask & gt_crowd)
        gt_mask = gt_mask & ~gt_crowd
    real = jnp.concatenate([proposal_mask, gt_mask]) & jnp.isfinite(candidates).all(axis=-1)
    overlaps = jnp.where(gt_mask[None, :], pairwise_iou(candidates, gt_boxes), 0)
    matched = jnp.argmax(overlaps, axis=1) if gt_boxes.shape[0] else jnp.zeros(len(candidates), jnp.int32)
    largest = jnp.max(overlaps, axis=1, initial=0)

    proposal_key, gt_key = jax.random.split(key)
    chance = jnp.concatenate([_draw(proposal_key, count), _draw(gt_key, gt_boxes.shape[0])])
    is_foreground = real & (largest >= foreground_iou)
    is_background = real & (largest >= low) & (largest < high) & ~on_crowd
    priority = chance
    if foreground_balance != "none" and gt_boxes.shape[0]:
        groups = jnp.arange(gt_boxes.shape[0])
        if foreground_balance == "class":  # each object is replaced by the first real one of its class
            groups = jnp.argmax((gt_labels[:, None] == gt_labels[None, :]) & gt_mask[None, :], axis=1)
        # A third key besides the two of the split.
        group_order = _draw(jax.random.fold_in(key, 2), gt_boxes.shape[0])
        priority = _by_turns(chance, is_foreground, groups[matched], group_order)
    foreground, foreground_count = _choose(priority, is_foreground, min(most_foreground, len(candidates)))
    background, background_count = _choose(chance, is_background, min(rois_per_image, len(candidates)))

    place = jnp.arange(rois_per_image)
    background_place = place - foreground_count
    in_foreground = background_place < 0
    chosen = jnp.where(in_foreground, _at(foreground, place), _at(background, background_place))
    mask = in_foreground | (background_place < background_count)
    rois = _at(candidates, chosen)
    label = _at(gt_labels, _at(matched, chosen)) if gt_boxes.shape[0] else jnp.zeros(rois_per_image, jnp.int32)
    labels = jnp.where(in_foreground & mask, label, 0).astype(jnp.int32)
    targets = _at(gt_boxes, _at(matched, chosen)) if gt_boxes.shape[0] else rois
    return RoiSample(
        rois=jnp.where(mask[:, None], rois, 0),
        labels=labels,
        gt_boxes=jax.lax.stop_gradient(jnp.where((labels > 0)[:, None], targets, jnp.where(mask[:, None], rois, 0))),
        mask=mask,
    )


def _on_crowd(rois: Float[Array, "B 4"], gt_boxes: Float[Array, "G 4"], crowd: Bool[Array, " G"]) -> Bool[Array, " B"]:
    """True for RoIs with enough of their area on one crowd."""
    common = jnp.where(crowd[None, :], paired_intersection(rois[:, None], gt_boxes[None, :]), 0)
    area = box_area(rois)
    return (area > 0) & (jnp.max(common, axis=1, initial=0) >= CROWD_COVER * area)


def _draw(key: PRNGKeyArray, count: int) -> Float[Array, " B"]:
    """A random number for each entry, which depends only on its position, not on `count`."""
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(jnp.arange(count))


def _by_turns(
    chance: Float[Array, " B"], allowed: Bool[Array, " B"], group: Int[Array, " B"], group_order: Float[Array, " G"]
) -> Float[Array, " B"]:
    """Scores that rank the best allowed entry of each group first, then the second best of each, and so on.

    Args:
        chance: order of the entries of a group, the highest first.
        group_order: order of the groups within each round, the highest first; 0 ... 1.
    """
    order = jnp.argsort(jnp.where(allowed, -chance, 1.0))  # so that other entries do not count
    member = group[order][:, None] == jnp.arange(group_order.shape[0])[None, :]
    rounds = jnp.sum(jnp.where(member, jnp.cumsum(member, axis=0), 0), axis=1)
    return group_order[group] - jnp.zeros_like(chance).at[order].set(rounds.astype(chance.dtype))


def _choose(chance: Float[Array, " B"], allowed: Bool[Array, " B"], most: int) -> tuple[Array, Array]:
    """Indices of the `most` allowed entries with the highest chance, and the number of real ones."""
    _, chosen = jax.lax.top_k(jnp.where(allowed, chance, -jnp.inf), most)
    return chosen, jnp.minimum(jnp.sum(allowed), most)


def _at(values: Array, index: Array) -> Array:
    """`values[index]`; indices of masked places may point anywhere."""
    if values.shape[0] == 0:
        return jnp.zeros((*index.shape, *values.shape[1:]), values.dtype)
    return values[jnp.clip(index, 0, values.shape[0] - 1)]
