"""Fine-tuning of a linear layer: rates, going on after a kill, the end by windows that are held out."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.checkpoint import CheckpointMetadata, Checkpoints
from frcnn_jax.comparison.record import Record
from frcnn_jax.comparison.settings import FineTuningConfig
from frcnn_jax.comparison.stages import fine_tuning
from frcnn_jax.comparison.stages.fine_tuning import Task, fine_tune
from frcnn_jax.comparison.stages.step_clock import StepClock
from frcnn_jax.config import Config, InputConfig
from frcnn_jax.models.pixels import CENTERED_PIXELS
from frcnn_jax.ops.losses import cross_entropy

CONFIG = Config(input=InputConfig(workers=0))
SETTINGS = FineTuningConfig(
    steps=8, learning_rate=0.1, drops=(5,), momentum=0.5, weight_decay=0.01, checkpoint_every=3, classifier_rate=10
)
RANDOM = np.random.default_rng(0)
INPUTS, LABELS = RANDOM.normal(size=(40, 4, 3)).astype(np.float32), RANDOM.integers(0, 2, (40, 4)).astype(np.int32)


EVENTS = []  # of the clock, and measurements


class Source:
    """Batches of four rows, without flips."""

    def __init__(self, steps, first=0):
        self.steps, self.first = steps, first

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        return INPUTS[self.first + step], LABELS[self.first + step], np.zeros(4, bool)


class Clock(StepClock):
    """A clock that notes its starts and stops, and ends the training after some steps."""

    def __init__(self, folder, stop_after):
        super().__init__(Record(folder / "record.json", system="rcnn", model="tiny"))
        self.made, self.stop_after = 0, stop_after

    def start(self):
        EVENTS.extend(["start"] * (not self.is_running))
        super().start()

    def stop(self):
        EVENTS.extend(["stop"] * self.is_running)
        super().stop()

    def add_step(self):
        super().add_step()
        self.made += 1
        if self.made == self.stop_after:
            raise ZeroDivisionError


def params():
    return {
        "body": {"kernel": jnp.eye(3), "bias": jnp.array([0.5, -0.5, 1.0])},
        "head": {
            "scores": {"kernel": jnp.array([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]]), "bias": jnp.array([0.5, -1.0])}
        },
    }


def logits(params, inputs, key):
    x = inputs @ params["body"]["kernel"] + params["body"]["bias"][None]
    if key is not None:
        x = x * jax.random.bernoulli(key, 0.5, x.shape)
    return x @ params["head"]["scores"]["kernel"] + params["head"]["scores"]["bias"][None]


def run(
    folder,
    settings=SETTINGS,
    source=None,
    held_out=None,
    stop_after=None,
    logits=logits,
    load=jnp.asarray,
    at_once=None,
):
    clock = Clock(folder, stop_after)
    EVENTS.clear()
    done = fine_tune(
        folder,
        Task(params(), "head/scores", load, logits, CENTERED_PIXELS, at_once),
        source or Source(settings.steps),
        held_out,
        config=CONFIG,
        settings=settings,
        describe=lambda config: CheckpointMetadata(("cat",), CENTERED_PIXELS, config, "data"),
        clock=clock,
    )
    return done, clock.made


def test_steps_by_hand(tmp_path):
    """Rate 0.1, a tenth from the third step on, ten times that for the classifier, twice for biases; decay on kernels
    alone; half of the step before is added.
    """
    settings = dataclasses.replace(SETTINGS, steps=3, drops=(2,))
    without_dropout = lambda params, inputs, key: logits(params, inputs, None)  # noqa: E731
    done, _ = run(tmp_path, settings, logits=without_dropout)
    rates = {"body": {"kernel": 0.1, "bias": 0.2}, "head": {"scores": {"kernel": 1.0, "bias": 2.0}}}
    decays = {"body": {"kernel": 0.01, "bias": 0.0}, "head": {"scores": {"kernel": 0.01, "bias": 0.0}}}

    def loss(params, step):
        return cross_entropy(logits(params, INPUTS[step], None), jnp.asarray(LABELS[step])).mean()

    expected, before = params(), jax.tree.map(jnp.zeros_like, params())
    for step, drop in enumerate((1.0, 1.0, 0.1)):
        gradient = jax.grad(loss)(expected, step)
        before = jax.tree.map(
            lambda v, p, g, rate, decay, drop=drop: 0.5 * v + drop * rate * (g + decay * p),
            before, expected, gradient, rates, decays,
        )  # fmt: skip
        expected = jax.tree.map(jnp.subtract, expected, before)
    assert (done.steps, done.chosen, done.losses) == (3, 3, ())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), done.params, expected)


def test_windows_are_mirrored_left_to_right(tmp_path):
    """A batch with flips, and the mirrored windows without."""
    mirrored = np.array([True, False, True, True])
    windows = INPUTS[0].reshape(4, 1, 3, 1)
    flat = lambda params, inputs, key: logits(params, inputs[:, 0, :, 0], None)  # noqa: E731
    found = []
    for name, inputs, flips in (
        ("flips", windows, mirrored),
        ("mirrored", np.where(mirrored[:, None, None, None], windows[:, :, ::-1], windows), np.zeros(4, bool)),
    ):
        batch = (inputs, LABELS[0], flips)
        done, _ = run(tmp_path / name, dataclasses.replace(SETTINGS, steps=1), source=[batch], logits=flat)
        found.append(done.params)
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert not np.allclose(windows, windows[:, :, ::-1])


def test_dropout_differs_from_step_to_step(tmp_path):
    """Two small steps with the same batch: without dropout they would be equal."""
    settings = dataclasses.replace(SETTINGS, learning_rate=1e-4, momentum=0.0, weight_decay=0.0, classifier_rate=1.0)
    batch = (INPUTS[0], LABELS[0], np.zeros(4, bool))
    one, two = (
        run(tmp_path / str(steps), dataclasses.replace(settings, steps=steps), source=[batch] * steps)[0].params
        for steps in (1, 2)
    )
    first, second = (
        np.asarray(after["head"]["scores"]["kernel"] - before["head"]["scores"]["kernel"])
        for before, after in ((params(), one), (one, two))
    )
    assert np.abs(second - first).max() > 0.1 * np.abs(first).max()


@pytest.mark.parametrize(("at_once", "size"), [(1, 1), (3, 2), (4, 4), (9, 4)])
def test_parts_of_a_batch_follow_one_another(tmp_path, at_once, size):
    """Equal parts of at most so many inputs, whose mean is the batch's loss and gradient, also of held-out windows."""
    seen = set()

    def watched(params, inputs, key):
        seen.add(inputs.shape)
        return logits(params, inputs, None)

    settings = dataclasses.replace(SETTINGS, steps=4, held_out=0.5, measure_every=2, least_steps=0)
    whole, _ = run(tmp_path / "whole", settings, held_out=Source(1, first=30), logits=watched)
    assert seen == {(4, 3)}
    seen.clear()
    parts, _ = run(tmp_path / "parts", settings, held_out=Source(1, first=30), logits=watched, at_once=at_once)
    assert seen == {(size, 3)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


def test_parts_of_a_batch_have_dropout_of_their_own(tmp_path):
    """A batch of two halves that are equal: one mask for both would give the step of a half."""
    settings = dataclasses.replace(SETTINGS, steps=1)
    half = (INPUTS[0][:2], LABELS[0][:2], np.zeros(2, bool))
    batch = jax.tree.map(lambda x: np.concatenate([x, x]), half)
    masks = []

    def watched(params, inputs, key):
        if key is not None:
            jax.debug.callback(lambda mask: masks.append(tuple(np.ravel(mask))), jax.random.bernoulli(key, 0.5, (16,)))
        return logits(params, inputs, key)

    run(tmp_path, settings, source=[batch], logits=watched, at_once=2)
    jax.effects_barrier()
    assert len(masks) == len(set(masks)) == 2


def test_going_on_after_a_kill_changes_nothing(tmp_path):
    whole, ticks = run(tmp_path / "whole")
    assert ticks == 8
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "killed", stop_after=5)  # the newest checkpoint is of step 3
    killed, ticks = run(tmp_path / "killed")
    assert (ticks, killed.steps) == (5, 8)
    jax.tree.map(np.testing.assert_array_equal, whole.params, killed.params)
    again, ticks = run(tmp_path / "killed")
    assert ticks == 0
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)


@pytest.mark.parametrize("moment", ["in the step", "after the step", "in the checkpoint", "in the measurement"])
def test_a_signal_loses_no_step(tmp_path, monkeypatch, moment):
    """Whenever it comes, the steps that were made are in the newest checkpoint."""
    signals, made, save, compile_ = [], [], fine_tuning.Checkpoints.save, fine_tuning._compile

    def step(inputs):
        made.append(moment)
        signals.extend([0] * (moment == "in the step" and len(made) == 5))
        return jnp.asarray(inputs)

    def saving(*arguments, **named):
        save(*arguments, **named)
        signals.extend([0] * (moment == "in the checkpoint"))

    def measure(params):
        signals.extend([0] * (moment == "in the measurement"))
        return 1.0

    @contextlib.contextmanager
    def deferred():
        yield lambda: bool(signals)

    def add_step(self):
        StepClock.add_step(self)
        signals.extend([0] * (moment == "after the step" and len(made) == 2))

    monkeypatch.setattr(Clock, "add_step", add_step)
    monkeypatch.setattr(fine_tuning.Checkpoints, "save", saving)
    monkeypatch.setattr(fine_tuning, "deferred_signals", deferred)
    monkeypatch.setattr(fine_tuning, "_compile", lambda *arguments: (compile_(*arguments)[0], measure))
    settings = dataclasses.replace(SETTINGS, measure_every=4, held_out=0.5, checkpoint_every=100)
    done, _ = run(tmp_path, settings, held_out=Source(1), load=step)
    assert done.params is None
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.latest == done.steps == len(made)
    assert len(made) == {"in the step": 5, "after the step": 3}.get(moment, 4)


def test_no_steps(tmp_path):
    done, _ = run(tmp_path, dataclasses.replace(SETTINGS, steps=0))
    assert done.steps == 0
    jax.tree.map(np.testing.assert_array_equal, done.params, params())


@pytest.fixture
def losses(monkeypatch):
    """Scripted losses on held-out windows, in the order in which they are measured."""
    script, compile_ = [], fine_tuning._compile

    def measure(params):
        EVENTS.append("measure")
        return script.pop(0)

    monkeypatch.setattr(fine_tuning, "_compile", lambda *a: (compile_(*a)[0], measure))
    return script


def test_it_ends_when_the_loss_on_held_out_windows_does_not_fall(tmp_path, losses, monkeypatch):
    restore = Checkpoints.restore
    monkeypatch.setattr(Checkpoints, "restore", lambda *a: (EVENTS.append("read"), restore(*a))[1])
    settings = dataclasses.replace(SETTINGS, steps=40, held_out=0.5, measure_every=2, patience=2, least_steps=0)
    losses += [3.0, 1.0, 2.0, 1.5, 0.1]
    done, _ = run(tmp_path, settings, held_out=Source(1))
    assert (done.steps, done.chosen) == (8, 4)
    assert done.losses == ((2, 3.0), (4, 1.0), (6, 2.0), (8, 1.5))
    assert losses == [0.1]
    measured = ["stop", "measure", "start"]
    checkpoint = ["stop", "start"]  # after step 3
    assert ["start", *measured, *checkpoint, *measured * 3, "stop", "read"] == EVENTS
    # The parameters are those of the best measurement.
    four, _ = run(tmp_path / "four", dataclasses.replace(settings, steps=4, held_out=0.0), source=Source(4))
    jax.tree.map(np.testing.assert_array_equal, done.params, four.params)
    again, ticks = run(tmp_path, settings, held_out=Source(1))
    assert (ticks, again.steps, again.chosen, again.losses) == (0, 8, 4, done.losses)


@pytest.mark.parametrize(("at_eight", "steps", "chosen"), [(0.5, 10, 8), (4.0, 8, 2)])
def test_it_makes_the_least_steps(tmp_path, losses, at_eight, steps, chosen):
    settings = dataclasses.replace(SETTINGS, steps=12, held_out=0.5, measure_every=2, patience=1, least_steps=8)
    losses += [1.0, 2.0, 3.0, at_eight, 0.6, 0.7]
    done, _ = run(tmp_path, settings, held_out=Source(1))
    assert (done.steps, done.chosen) == (steps, chosen)


def test_the_loss_is_that_of_the_held_out_windows_without_dropout(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=2, held_out=0.5, measure_every=2)
    done, _ = run(tmp_path, settings, held_out=Source(2, first=20))
    expected = np.mean(
        [cross_entropy(logits(done.params, INPUTS[i], None), jnp.asarray(LABELS[i])).mean() for i in (20, 21)]
    )
    np.testing.assert_allclose(done.losses[0][1], expected, rtol=1e-5)


def test_a_loss_that_is_not_finite(tmp_path):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 3: give a lower fine_tuning.learning_rate"):
        run(tmp_path, settings)
