"""Times a training step whose gradients are summed at once, in the order of the devices, and image by image.

    python scripts/gradient_sums.py [--models vgg16 tiny] [--images 2]
    XLA_FLAGS=--xla_force_host_platform_device_count=4 python scripts/gradient_sums.py --models tiny

The order of the devices is that of distributed.fixed_order, timed if JAX sees several devices. Image by image, the
order of the sum is the same for any number of devices; no setting offers this. "images beside each other" holds the
gradients of all images at once, "images one by one" adds each to the sum. The note of a row is its time over that of
the sum at once on the same number of devices.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what imports JAX stays out until it is needed
    from bench.result import Row
    from bench.sizes import Sizes

    from frcnn_jax.training.step import StepFunction


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vgg16", "tiny"], metavar="MODEL")
    parser.add_argument("--images", type=int, help="of each device; those of the benchmark's step if not given")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, to see that everything runs")
    options = parser.parse_args(arguments)
    import jax
    from bench.machine import describe_machine
    from bench.memory import keep_freed_memory
    from bench.result import table
    from bench.sizes import QUICK, Sizes, sizes_of

    keep_freed_memory()
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores; {machine['devices']} x {machine['device_kind']}")
    rows = []
    for name in options.models:
        print(f"Measuring {name} ...", file=sys.stderr, flush=True)
        sizes = QUICK if options.quick else sizes_of(name, Sizes())
        if options.images is not None:
            sizes = dataclasses.replace(sizes, images=options.images)
        rows += measure_sums(name, sizes, jax.device_count())
    print("\n" + table(rows))


def measure_sums(name: str, sizes: "Sizes", devices: int) -> list["Row"]:
    """Rows of a model: on one device, and on all where there are several.

    Raises:
        FloatingPointError: a loss is not finite, or not that of the sum at once.
    """
    from functools import partial

    from frcnn_jax.training.step import make_train_step

    rows = _rows(
        name,
        sizes,
        1,
        {"at once": make_train_step, "images beside each other": images_beside, "images one by one": images_one_by_one},
    )
    if devices > 1:
        ordered = partial(make_train_step, fixed_order=True)
        rows += _rows(name, sizes, devices, {"at once": make_train_step, "in the order of the devices": ordered})
    return rows


def images_beside(model: Any, optimizer: Any, sampling: Any) -> "StepFunction":
    """A step on one device that treats each image as a separate device."""
    import jax

    from frcnn_jax.training.step import make_train_step

    step = make_train_step(model, optimizer, sampling=sampling, axis_name="image", fixed_order=True)
    mapped = jax.vmap(step, in_axes=(None, 0, None), out_axes=None, axis_name="image")

    def split_and_step(state: Any, batch: Any, key: Any) -> Any:
        return mapped(state, jax.tree.map(lambda x: x[:, None], batch), key)

    return split_and_step


def images_one_by_one(model: Any, optimizer: Any, sampling: Any) -> "StepFunction":
    """A step on one device that takes the gradient of one image after the other.

    Each image draws RoIs and dropout like the first one of a batch, so the loss differs from that of the other steps.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from frcnn_jax.training.losses.batch_loss import loss_fn
    from frcnn_jax.training.optimizer import merge

    def step(state: Any, batch: Any, key: Any) -> Any:
        key_of_step = jax.random.fold_in(key, state.step)

        def loss(trainable: Any, image: Any) -> Any:
            params = merge(trainable, state.frozen)
            return loss_fn(params, image, key_of_step, model=model, sampling=sampling, statistics=state.statistics)

        def add(total: Any, image: Any) -> Any:
            gradient, metrics = jax.grad(loss, has_aux=True)(state.trainable, image)
            return jax.tree.map(jnp.add, total, (gradient, metrics["loss"])), None

        start = jax.tree.map(jnp.zeros_like, state.trainable), jnp.zeros(())
        summed, _ = jax.lax.scan(add, start, jax.tree.map(lambda x: x[:, None], batch))
        gradient, total = jax.tree.map(lambda x: x / len(batch.images), summed)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        new_state = dataclasses.replace(state, step=state.step + 1, trainable=trainable, opt_state=opt_state)
        return new_state, {"loss": total}

    return step


def _rows(name: str, sizes: "Sizes", devices: int, ways: dict[str, Callable[..., Any]]) -> list["Row"]:
    """A row for each way to sum, the first of which the others are compared with; samples are taken one by one."""
    import jax
    from bench.result import Row
    from bench.timing import measure

    rows, losses = [], {}
    for way, make in ways.items():
        run, memory = _training_run(name, sizes, devices, make)
        losses[way] = float(run()[1]["loss"])
        timing = measure(run, jax.block_until_ready, sizes.effort)
        note = f"{timing.median / rows[0].ours.median:.2f} of at once" if rows else ""
        what = f"{name}, {devices} x {sizes.images} images, {way}"
        rows.append(Row(topic="gradients", what=what, ours=timing, unit="steps", memory=memory, note=note))
    first = losses["at once"]
    for way, loss in losses.items():
        other = way != "images one by one" and not math.isclose(loss, first, rel_tol=0.02)
        if other or not math.isfinite(loss):
            raise FloatingPointError(f"{name}, {way}: the loss is {loss}, at once {first}; the time says nothing")
    return rows


def _training_run(
    name: str, sizes: "Sizes", devices: int, make: Callable[..., "StepFunction"]
) -> tuple[Callable[[], Any], int | None]:
    """A function that makes one step after the other, and the memory that a device needs for it."""
    import jax
    from bench.programs import bytes_needed, compile_training, repeat_training
    from bench.scene import build_model, make_batch, training_config

    from frcnn_jax.models.fast_rcnn import init_params
    from frcnn_jax.training.state import create_state
    from frcnn_jax.training.statistics import identity_statistics

    config, model = training_config(name, sizes), build_model(name, sizes)
    state = create_state(config, init_params(model, jax.random.key(0)), identity_statistics(sizes.num_classes))
    batch = make_batch(sizes, sizes.images * devices)
    compiled, *inputs = compile_training(model, config, state, batch, devices, make)
    return repeat_training(compiled, *inputs), bytes_needed(compiled)


if __name__ == "__main__":
    main()
