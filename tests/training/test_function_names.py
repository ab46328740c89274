"""A function's name: one line, the same in every process, and another where it computes something else."""

import functools
import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.config import LossConfig
from frcnn_jax.ops import losses
from frcnn_jax.training.losses import MultiTaskLoss, name_loss
from frcnn_jax.training.losses.function_names import function_name
from tests.training.runs import ROOT


def outer(value):
    def inner(x, *, more=3):
        return [x * value + more for _ in range(2)]

    return inner


def wrapped(function, value):
    @functools.wraps(function)
    def call(x):
        return function(x) * value

    return call


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by

    def times(self, x):
        return x * self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by


class Hidden(Slotted):
    """With a slot of its own beside its parent's, whose name Python changes."""

    __slots__ = "__more"

    def __init__(self, by, more):
        super().__init__(by)
        self.__more = more


class Named(NamedTuple):
    by: float

    def __call__(self, x):
        return x * self.by


class Other(Named):
    """Another function of the same items."""

    def __call__(self, x):
        return x + self.by


def focal(gamma):
    return functools.partial(losses.focal, gamma=gamma)


DOUBLE = lambda x: 2 * x  # noqa: E731
DIFFERENT = {
    "lambdas": (lambda x: x + 1, lambda x: x + 2, lambda x: x - 1, lambda x: jnp.abs(x), lambda x: jnp.exp(x)),
    "lambdas inside": (lambda x: (lambda y: y + 1)(x), lambda x: (lambda y: y + 2)(x)),
    "defaults": (lambda x, a=1: x, lambda x, a=2: x, lambda x, *, a=1: x, lambda x, *, a=2: x),
    "enclosed values": (outer(1), outer(2), outer(np.zeros(3)), outer(np.ones(3))),
    "enclosed functions": (outer(lambda x: x), outer(lambda x: -x)),
    "wrapped": (wrapped(DOUBLE, 1), wrapped(DOUBLE, 2), wrapped(lambda x: 3 * x, 1), DOUBLE),
    "jitted": (jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)),
    "settings": (focal(1.0), focal(2.0), focal("2.0")),
    "long arrays": (
        focal(np.arange(5000.0)),
        focal(np.where(np.arange(5000) == 2500, 0.0, np.arange(5000.0))),
        focal(np.arange(5000)),
    ),
    "JAX arrays": (focal(jnp.zeros(3)), focal(jnp.ones(3)), focal(jnp.zeros((3, 1)))),
    "random keys": (
        outer(jax.random.key(0)),
        outer(jax.random.key(1)),
        outer(jax.random.key(0, impl="rbg")),
        outer(jax.random.split(jax.random.key(0))),
        outer(jax.random.key_data(jax.random.key(0))),
        focal(jax.random.key(0)),
    ),
    "lists of arrays": (focal([np.zeros(3)]), focal([np.ones(3)]), focal((np.ones(3),))),
    "texts": (focal("a\nb"), focal("a\nc"), focal("a" * 500), focal("a" * 501)),
    "objects": (Scaled(1), Scaled(2), Scaled(np.zeros(2))),
    "slots": (Slotted(1), Slotted(2), Hidden(1, 1), Hidden(2, 1), Hidden(1, 2)),
    "named tuples": (Named(1), Named(2), Other(1)),
    "slots and named tuples as settings": (focal(Slotted(1)), focal(Slotted(2)), focal(Named(1)), focal(Other(1))),
    "methods": (Scaled(1).times, Scaled(2).times),
    "functions as settings": (focal(lambda x: x), focal(lambda x: -x), focal(outer), focal(Scaled(1))),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_computes_something_else_has_another_name(kind):
    names = [function_name(function) for function in DIFFERENT[kind]]
    assert len(set(names)) == len(names)
    for name in names:
        assert "\n" not in name
        assert len(name) < 160
        LossConfig(localization=name)  # which takes it


def test_the_same_again_has_the_same_name():
    for make in (lambda: outer(2), lambda: focal(np.arange(3000)), lambda: Scaled(3), lambda: lambda x: {"b", "a"} & x):
        assert function_name(make()) == function_name(make())
    assert function_name(outer) == f"{__name__}:outer"
    assert function_name(focal(2.0)) == "frcnn_jax.ops.losses:focal(gamma=2.0)"


def test_a_function_that_calls_itself():
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert function_name(factorial).startswith(f"{__name__}:test_a_function_that_calls_itself.<locals>.factorial#")


def test_collections_that_contain_themselves():
    def nested(value):
        items, table = [value], {"value": value}
        items.append((items, {"items": items}))
        table["table"] = [table]
        return outer((items, table))

    def shared(value):
        return outer((value, value))

    assert function_name(nested(1)) == function_name(nested(1)) != function_name(nested(2))
    assert function_name(shared([1])) == function_name(outer(([1], [1])))


def test_the_same_in_another_process():
    code = (
        "from tests.training.test_function_names import *\n"
        "print(*(function_name(f) for fs in DIFFERENT.values() for f in fs), sep='\\n')\n"
        "print(function_name(lambda x: x in {'a', 'b', 'c'}))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == 1 + sum(map(len, DIFFERENT.values()))


def test_a_loss_is_recorded_by_it():
    one, two = (name_loss(MultiTaskLoss(f, f)) for f in (lambda *x: x[0], lambda *x: x[1]))
    assert one.classification != two.classification
    assert one.localization != two.localization
    assert name_loss(MultiTaskLoss()) == LossConfig()
