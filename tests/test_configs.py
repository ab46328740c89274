"""The experiments in configs/: which layers learn and how, what the paper prescribes, and every command they give."""

import argparse
import dataclasses
import re
import shlex
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from frcnn_jax.config import InputConfig, ModelConfig, OptimizerConfig, SamplingConfig, load_config, override
from frcnn_jax.data.batch_plan import plan_training, resized_size
from frcnn_jax.data.pipeline import training_buckets
from frcnn_jax.models.architectures import resolve_rules
from frcnn_jax.training.initial import abstract_state, build_model
from frcnn_jax.training.optimizer import create_optimizer, learning_rate_schedule, match_rules, parameter_paths
from frcnn_jax.training.step import make_train_step
from tests.training.cases import small_batch

FOLDER = Path(__file__).parents[1] / "configs"
PATHS = sorted(FOLDER.glob("*.py"))
SCALES = (480, 576, 688, 864, 1200)
VOC07, VOC12 = "voc/2007/trainval", "voc/2012/trainval"
HEAD = {"fc6", "fc7", "cls_score", "bbox_pred"}
S = M = {f"conv{i}" for i in range(2, 6)} | HEAD
L = {f"conv{stage}_{i}" for stage in (3, 4, 5) for i in (1, 2, 3)} | HEAD
# Network, layers that learn, training sets, steps, drops.
EXPERIMENTS = {
    "voc07_caffenet": ("caffenet", S, (VOC07,), 40_000, (30_000,)),
    "voc07_vgg_cnn_m_1024": ("vgg_cnn_m_1024", M, (VOC07,), 40_000, (30_000,)),
    "voc07_vgg16": ("vgg16", L, (VOC07,), 40_000, (30_000,)),
    "voc12_vgg16": ("vgg16", L, (VOC12,), 80_000, (60_000,)),
    "voc0712_vgg16": ("vgg16", L, (VOC07, VOC12), 100_000, (40_000, 80_000)),
    "voc07_vgg16_multiscale": ("vgg16", L, (VOC07,), 40_000, (30_000,)),
}


@cache
def config_of(name):
    return resolve_rules(load_config(FOLDER / f"{name}.py"))


@cache
def state_of(config):
    """Shapes of the network's state for the classes of VOC; an error if the rules do not cover every parameter."""
    return abstract_state(config, 21)


def layers(params):
    """Names of the layers that have a parameter in a tree."""
    return {path.split("/")[-2] for path in jax.tree.leaves(parameter_paths(params))}


def layers_in_backward_pass(config):
    """Names of the layers that have an operation in the backward pass of the train step, as it is lowered."""
    state = state_of(config)
    optimizer = create_optimizer(config.optimizer, state.params, config.train.steps)
    step = make_train_step(build_model(config, 21), optimizer, axis_name=None)
    lowered = jax.jit(step).lower(state, small_batch(), jax.random.key(0)).as_text(debug_info=True)
    backward = set(re.findall(r'"[^"]*transpose\(jvp[^"]*"', lowered))
    return {layer for layer in layers(state.params) if any(f"/{layer}/" in name for name in backward)}


def commands(path):
    """(config, settings) of each command to train or evaluate that a text gives, continued lines joined."""
    own = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("command", "--config", "--workdir", "--out", "--voc-results"):
        own.add_argument(option)
    own.add_argument("--settings", action="store_true")
    lines = map(str.strip, path.read_text().replace("\\\n", " ").splitlines())
    for line in lines:
        if line.startswith(("frcnn train", "frcnn evaluate")):
            options, settings = own.parse_known_args(shlex.split(line)[1:])
            yield options.config or Path(options.workdir).name, settings


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_rules_cover_every_parameter(path):
    config = config_of(path.stem)
    state = state_of(config)
    rules = jax.tree.leaves(match_rules(state.params, config.optimizer.rules))
    learned = [rule for rule in rules if rule.learning_rate is not None]
    assert len(rules) == len(jax.tree.leaves(state.params))
    assert len(learned) == len(jax.tree.leaves(state.trainable))
    momentum = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in momentum] == [leaf.shape for leaf in jax.tree.leaves(state.trainable)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_the_paper_prescribes(name):
    config = config_of(name)
    network, learned, train, steps, drops = EXPERIMENTS[name]
    assert config.model == ModelConfig(network, dropout=0.5)
    assert config.data.train == train
    assert config.data.test == "voc/2007/test"
    assert config.train.steps == steps
    assert config.evaluate.metric == ("voc10" if name == "voc12_vgg16" else "voc07")
    assert config.evaluate.nms_iou == 0.3
    assert config.evaluate.per_class == 100
    assert config.sampling == SamplingConfig(64, 0.25, 0.5, (0.1, 0.5), use_difficult=True)
    assert (config.loss.classification, config.loss.localization) == ("cross_entropy", "smooth_l1")
    assert config.loss.localization_weight == 1
    assert config.input.batch_size == 2
    assert config.input.flip
    assert config.optimizer == OptimizerConfig(1e-3, 0.9, 5e-4, drops=drops, rules=config.optimizer.rules)
    assert layers(state_of(config).trainable) == learned
    matched = match_rules(state_of(config).params, config.optimizer.rules)
    for path, rule in zip(*map(jax.tree.leaves, (parameter_paths(matched), matched)), strict=True):
        if rule.learning_rate is not None:
            expected = (2, 0) if path.endswith("/bias") else (1, 1)
            assert (rule.learning_rate, rule.weight_decay) == expected, path


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("voc07_caffenet", {0: 1e-3, 29_999: 1e-3, 30_000: 1e-4, 39_999: 1e-4}),
        ("voc12_vgg16", {0: 1e-3, 59_999: 1e-3, 60_000: 1e-4, 79_999: 1e-4}),
        ("voc0712_vgg16", {0: 1e-3, 39_999: 1e-3, 40_000: 1e-4, 79_999: 1e-4, 80_000: 1e-5, 99_999: 1e-5}),
    ],
)
def test_the_learning_rate_drops_where_the_paper_says(name, rates):
    config = config_of(name)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    np.testing.assert_allclose([schedule(step) for step in rates], list(rates.values()), rtol=1e-6)


@pytest.mark.parametrize("name", ["voc07_caffenet", "voc07_vgg16"])
def test_no_gradient_is_computed_for_frozen_layers(name):
    config = config_of(name)
    assert layers_in_backward_pass(config) == EXPERIMENTS[name][1]


def test_a_gradient_is_computed_for_every_layer_where_none_is_frozen():
    config = config_of("voc07_caffenet")
    everything = dataclasses.replace(config, optimizer=OptimizerConfig(rules=config.optimizer.rules[1:]))
    assert layers_in_backward_pass(everything) == layers(state_of(config).params)


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ("--optimizer.rules.0.pattern '^backbone/'", HEAD),
        ("--optimizer.rules.0.pattern '^backbone/conv1_'", L | {"conv2_1", "conv2_2"}),
        ("--optimizer.rules.0.pattern '^(?!head/bbox_pred/)'", {"bbox_pred"}),
    ],
)
def test_ablations_of_what_is_learned(settings, learned):
    config = override(config_of("voc07_vgg16"), shlex.split(settings))
    assert layers(state_of(config).trainable) == learned
    assert settings in (FOLDER / "README.md").read_text()


def test_no_gradient_is_computed_where_the_boxes_learn_alone():
    settings = ["--optimizer.rules.0.pattern", "^(?!head/bbox_pred/)"]
    assert layers_in_backward_pass(override(config_of("voc07_caffenet"), settings)) == {"bbox_pred"}


def test_multi_scale_draws_a_scale_for_each_image_and_bounds_the_longer_side():
    config = config_of("voc07_vgg16_multiscale").input
    assert config == InputConfig(scales=SCALES, max_size=2000, test_scales=SCALES, test_max_size=2000)
    # Of 375 x 500 pixels, and of 200 x 500, whose longer side reaches 2000 before the shorter one 864 or 1200.
    sizes = np.array([[375, 500]] * 30 + [[200, 500]] * 30)
    expected = {
        375: {1.28: (480, 640), 1.536: (576, 768), 688 / 375: (688, 917), 2.304: (864, 1152), 3.2: (1200, 1600)},
        200: {2.4: (480, 1200), 2.88: (576, 1440), 3.44: (688, 1720), 4.0: (800, 2000)},
    }
    plan = plan_training(
        sizes, 1000, 2, scales=config.scales, longest=config.max_size, buckets=training_buckets(config, 16),
        flip=True, flip_vertical=False, seed=0,
    )  # fmt: skip
    drawn = {height: [] for height in expected}
    for image, scale, bucket in zip(plan.images.ravel(), plan.scales.ravel(), plan.buckets.repeat(2, 0), strict=True):
        size = resized_size(sizes[image], scale)
        assert size == expected[sizes[image][0]][scale]
        assert (bucket >= size).all()
        drawn[sizes[image][0]].append(scale)
    for height, shares in ((375, [0.2] * 5), (200, [0.2, 0.2, 0.2, 0.4])):
        counts = [drawn[height].count(scale) for scale in expected[height]]
        np.testing.assert_allclose(np.divide(counts, len(drawn[height])), shares, atol=0.05)
    # Not one scale for an epoch, which has 30 batches or more: all nine occur.
    assert len(set(plan.scales[:30].ravel())) == 9
    of_one_image = {scale for scale, image in zip(plan.scales.ravel(), plan.images.ravel(), strict=True) if image == 0}
    assert len(of_one_image) == 5


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_commands_of_a_header_are_understood(path):
    found = list(commands(path))
    assert found
    for name, settings in found:
        assert name == path.stem
        override(config_of(name), settings)


def test_the_commands_of_the_ablations_are_understood():
    text = (FOLDER / "README.md").read_text()
    (base, settings), *others = commands(FOLDER / "README.md")
    assert settings[-1] == "SETTINGS"
    assert len(others) == 3
    for name, settings in others:
        assert override(config_of(name), settings) != config_of(name)
    rows = [shlex.split(row) for row in re.findall(r"`(--[^`]+)`", text)]
    assert len({override(config_of(base), row) for row in rows}) == len(rows) == 6
