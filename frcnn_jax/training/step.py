"""The training step: loss, gradient and update as one pure function for one device, and its mapping over devices."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from frcnn_jax.config import SamplingConfig
from frcnn_jax.distributed.arrays import AXIS, mean_over_devices, on_every_device
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.ops.arguments import is_traced
from frcnn_jax.ops.varying import equally_varying
from frcnn_jax.training.losses import MultiTaskLoss, check_loss
from frcnn_jax.training.losses.batch_loss import Metrics, check_sampling, loss_fn, loss_keys, sample_batch
from frcnn_jax.training.optimizer import merge
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Batch, RoiSample

StepFunction = Callable[..., tuple[TrainState, Metrics]]


def sample_step(
    batch: Batch, key: PRNGKeyArray, step: Array | int, *, config: SamplingConfig | None = None
) -> RoiSample:
    """The RoIs that a step of `make_train_step` draws from a batch: every field has a leading N.

    Args:
        key: the key of the run.
        step: number of updates made before.
    """
    return sample_batch(batch, loss_keys(_step_key(key, step))[0], config=config)


def _step_key(key: PRNGKeyArray, step: Array | int) -> PRNGKeyArray:
    """The key of the loss of a step."""
    return jax.random.fold_in(key, step)


def make_train_step(
    model: FastRCNN,
    optimizer: optax.GradientTransformation,
    *,
    loss: MultiTaskLoss | None = None,
    sampling: SamplingConfig | None = None,
    axis_name: str | None = AXIS,
    fixed_order: bool = False,
) -> StepFunction:
    """The pure step of one device, `(state, batch, key) -> (state, metrics)`, averaging over `axis_name`.

    The key is that of the run, the same in every step; the step folds its number into it. Map the function with
    `map_train_step`, with `jax.pmap(step, axis_name="data")`, or with a `jax.shard_map` of your own with
    check_vma=False. On several devices the metrics also have "finite" [D]: true for devices with a finite loss.

    For one device alone give axis_name None, as in `jax.jit(make_train_step(model, optimizer, axis_name=None),
    donate_argnums=0)`: `jax.jit` binds no axis, and the step then averages over none.

    With an optimizer of `create_optimizer`, a fourth argument replaces the schedule's learning rate; the compiled
    program then does not depend on the schedule. Optax's own optimizers ignore or refuse that argument. Optimizers that
    take the loss by its name in optax, `value`, are given it; those that compute it again (`value_fn`, as the line
    search of `optax.lbfgs`) cannot be used.

    Args:
        axis_name: the mapped axis, also the attribute `axis_name` of the step.
        fixed_order: sum gradients in the order of the devices, instead of the unspecified order of `pmean`.

    Raises:
        TypeError: the loss is not a `MultiTaskLoss`, or the sampling not a `SamplingConfig`.
        NameError: (the step) nothing maps it along `axis_name`.
    """
    check_loss(loss)
    check_sampling(sampling)
    takes_loss = _takes(optimizer.update, "value")

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, learning_rate: Float[Array, ""] | None = None
    ) -> tuple[TrainState, Metrics]:
        _check_mapped(axis_name)

        def trainable_loss(trainable: Any) -> tuple[Array, Metrics]:
            return loss_fn(
                merge(trainable, state.frozen),
                batch,
                _step_key(key, state.step),
                model=model,
                loss=loss,
                sampling=sampling,
                statistics=state.statistics,
                axis_name=axis_name,
            )

        # Under `check_vma`, gradients of parameters that all devices share would be summed before the mean below.
        gradient, metrics = jax.grad(trainable_loss, has_aux=True)(equally_varying(state.trainable, batch)[0])
        finite = jnp.isfinite(metrics["loss"])
        gradient, metrics = mean_over_devices((gradient, metrics), axis_name, fixed_order=fixed_order)
        if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
            metrics["finite"] = jax.lax.all_gather(finite, axis_name)
        if axis_name is not None:
            devices = jax.lax.axis_size(axis_name)
            metrics |= {kind: devices * metrics[kind] for kind in ("foreground", "background")}
        given = {} if learning_rate is None else {"learning_rate": learning_rate}
        if takes_loss:
            given["value"] = metrics["loss"]
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable, **given)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        new_state = state.replace(
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            opt_state=opt_state,
        )
        return new_state, metrics

    step.axis_name = axis_name
    return step


def _takes(function: Callable[..., Any], name: str) -> bool:
    """True for a function that has an argument of that name, or any named ones."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _check_mapped(axis_name: str | None) -> None:
    """Raises NameError if the function that is being traced is not mapped along the axis."""
    if axis_name is None:
        return
    try:
        jax.lax.axis_size(axis_name)
    except NameError as error:
        raise NameError(
            f"the step averages over the axis {axis_name!r}, along which nothing maps it: map it with "
            "frcnn_jax.map_train_step, or for one device under jax.jit give make_train_step axis_name=None"
        ) from error


def map_train_step(step: StepFunction, mesh: Mesh) -> StepFunction:
    """`step` over the devices of `mesh`: the batch is split by image, everything else is on each.

    The state is placed on the devices if it is not there, and donated, with the parameters that `create_state` took
    (it copies the statistics): use the returned one. The function is compiled once for each shape of a batch, and has
    `lower`, `trace`, `eval_shape` and `clear_cache` of `jax.jit`.

    Args:
        step: as `make_train_step` returns it, mapped along its `axis_name`; a function without this attribute is mapped
            along "data".
        mesh: has an axis of that name.

    Raises:
        TypeError: the mesh is none.
        ValueError: the step averages over no axis and there are several devices, which would learn different
            parameters; or the mesh has no axis of that name.
    """
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(
            f"map_train_step takes a mesh, as jax.make_mesh((jax.device_count(),), ({AXIS!r},)), not "
            f"{type(mesh).__name__}"
        )
    axis = getattr(step, "axis_name", AXIS)
    if axis is None and mesh.size > 1:
        raise ValueError(
            f"the step does not average over the {mesh.size} devices of the mesh, as its axis_name is None: give "
            f"make_train_step axis_name={mesh.axis_names[0]!r}"
        )
    if axis is not None and axis not in mesh.axis_names:
        raise ValueError(
            f"the step averages over the axis {axis!r}, and the mesh has {', '.join(map(repr, mesh.axis_names))}: give "
            f"make_train_step axis_name={mesh.axis_names[0]!r}, or a mesh with the axis {axis!r}"
        )
    if isinstance(mesh, Mesh):
        # The axes of `jax.make_mesh` are explicit, and would have to be stated in the types of all arguments.
        mesh = Mesh(mesh.devices, mesh.axis_names)
    everywhere, by_image = PartitionSpec(), PartitionSpec(axis)

    @wraps(step)
    def mapped(
        state: TrainState, batch: Batch, key: PRNGKeyArray, learning_rate: Float[Array, ""] | None = None
    ) -> tuple[TrainState, Metrics]:
        given = () if learning_rate is None else (learning_rate,)
        over_devices = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, by_image, everywhere, *[everywhere] * len(given)),
            out_specs=(everywhere, everywhere),
            # Gathered values, as "finite", are the same on all devices, which check_vma does not know.
            check_vma=False,
        )
        return over_devices(state, batch, key, *given)

    return _placing_state(jax.jit(mapped, donate_argnums=0), mesh)


def _placing_state(compiled: Any, mesh: Mesh | AbstractMesh) -> StepFunction:
    """A jitted function of a state, which is placed on the mesh first: from other devices it would compile twice."""
    if isinstance(mesh, AbstractMesh):
        return compiled
    everywhere = NamedSharding(mesh, PartitionSpec())

    @wraps(compiled)
    def call(state: TrainState, *inputs: Any, **named: Any) -> tuple[TrainState, Metrics]:
        arrays = jax.tree.leaves(state)
        placed = all(getattr(array, "sharding", None) == everywhere for array in arrays)
        if not placed and not any(map(is_traced, arrays)):
            state = on_every_device(state, mesh)
        return compiled(state, *inputs, **named)

    for name in ("lower", "trace", "eval_shape", "clear_cache", "_cache_size"):
        setattr(call, name, getattr(compiled, name))
    return call
