"""Lengths in the settings: epochs and steps of a training, shares of it, and which of them replaces which."""

import dataclasses

import pytest

from frcnn_jax.config import (
    Config,
    InputConfig,
    OptimizerConfig,
    TrainConfig,
    from_json,
    in_steps,
    override,
    replace,
    to_json,
    with_steps,
)


@pytest.mark.parametrize(
    ("epochs", "images", "batch_size", "steps"),
    [(20, 172, 4, 860), (1, 5, 2, 3), (0.1, 30, 1, 3), (0.5, 1, 8, 1), (1e-5, 10, 2, 1), (2.5, 10, 2, 13)],
)
def test_epochs_in_steps(epochs, images, batch_size, steps):
    config = Config(train=TrainConfig(epochs=epochs), input=InputConfig(batch_size=batch_size))
    assert config.train.steps is None
    counted = with_steps(config, images)
    assert (counted.train.steps, counted.train.epochs) == (steps, epochs)
    assert with_steps(counted, images) == counted == from_json(to_json(counted))
    with pytest.raises(ValueError, match=rf"^train\.steps = {steps} and train\.epochs = .* give one of the two$"):
        with_steps(counted, images * 3 + 10 * batch_size * 100_000)


@pytest.mark.parametrize(("images", "steps"), [(30, 100), (400, 100), (404, 101)])
def test_epochs_come_to_a_least_number_of_steps(images, steps):
    config = Config(train=TrainConfig(epochs=0.5, min_steps=100))
    assert with_steps(config, images).train.steps == steps
    with pytest.raises(ValueError, match=r"^train\.min_steps = 5 is for a length in epochs: leave it out, or give"):
        TrainConfig(steps=7, min_steps=5)


def test_another_length_takes_the_place_of_the_least_number_of_steps():
    config = Config(train=TrainConfig(epochs=3, min_steps=100))
    assert override(config, ["--train.seed", "1"]).train.min_steps == 100
    for arguments, length in (
        (["--train.steps", "12"], (12, None, 0)),
        (["--train.epochs", "3"], (None, 3, 0)),
        (["--train.epochs=3", "--train.min_steps=9"], (None, 3, 9)),
        (["--train.min-steps", "9"], (None, 3, 9)),
    ):
        train = override(config, arguments).train
        assert (train.steps, train.epochs, train.min_steps) == length
    assert replace(config, train={"epochs": 4, "min_steps": 9}).train == TrainConfig(epochs=4, min_steps=9)


def test_without_epochs_the_steps_are_those_given_or_the_papers():
    assert TrainConfig().steps == TrainConfig(steps=None, epochs=None).steps == 40_000
    assert with_steps(Config(train=TrainConfig(steps=7)), 10).train.steps == 7


@pytest.mark.parametrize("before", [TrainConfig(steps=7), TrainConfig(epochs=3), TrainConfig(steps=12, epochs=3.0)])
def test_epochs_and_steps_take_each_others_place(before):
    config = Config(train=before)
    for changed in (override(config, ["--train.epochs", "20"]), replace(config, train={"epochs": 20})):
        assert (changed.train.steps, changed.train.epochs) == (None, 20)
    for changed in (override(config, ["--train.steps=12"]), replace(config, train={"steps": 12})):
        assert (changed.train.steps, changed.train.epochs) == (12, None)
    assert override(config, ["--train.seed", "1"]).train == dataclasses.replace(before, seed=1)
    assert replace(config, train={"seed": 1}).train == dataclasses.replace(before, seed=1)
    message = r"^train\.steps and train\.epochs exclude each other: give one of the two$"
    with pytest.raises(ValueError, match=message):
        override(config, ["--train.steps", "5", "--train.epochs", "20"])
    with pytest.raises(ValueError, match=message):
        replace(config, train={"steps": 5, "epochs": 20})


def test_a_rate_need_not_drop():
    assert OptimizerConfig(drops=()).drops == ()


def test_lengths_below_one_are_shares():
    assert [in_steps(length, 860) for length in (0, 1, 100, 0.1, 0.75, 0.0001)] == [0, 1, 100, 86, 645, 1]
    assert in_steps(100, None) == 100
    with pytest.raises(ValueError, match=r"0\.1 is a share of the training, whose number of steps is needed"):
        in_steps(0.1, None)
    config = override(Config(), ["--optimizer.drops", "0.5", "0.75", "--optimizer.warmup", "0.1"])
    assert (config.optimizer.drops, config.optimizer.warmup) == ((0.5, 0.75), 0.1)
    config = override(config, ["--optimizer.drops", "30000", "40000", "--optimizer.warmup", "500"])
    assert all(type(length) is int for length in (*config.optimizer.drops, config.optimizer.warmup))
    assert not Config().optimizer.follows_length
    for settings in ({"schedule": "cosine"}, {"drops": (0.5,)}, {"warmup": 0.1}):
        assert OptimizerConfig(**settings).follows_length
