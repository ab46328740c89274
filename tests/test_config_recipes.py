"""The configs in configs/ load, and differ from one another and from the defaults as they say."""

import dataclasses
from pathlib import Path

import pytest

from frcnn_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    FaultPolicy,
    changed_settings,
    from_json,
    load_config,
    override,
    to_json,
)
from frcnn_jax.models.architectures import resolve_rules

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_load(path):
    config = load_config(path)
    assert from_json(to_json(config)) == config
    assert override(config, ["--train.steps", "1"]).train.steps == 1
    assert f"--config {path.stem} " in path.read_text()  # the command that runs it


def test_there_are_configs():
    assert {"bccd", "demo", "voc07_vgg16"} <= {path.stem for path in CONFIGS}


def test_photographs_are_trained_as_anything_else_but_from_imagenet():
    photographs, scratch = (load_config(CONFIGS[0].parent / f"{name}.py") for name in ("folder", "folder_scratch"))
    changed = {name.partition(".")[0] for name in changed_settings(scratch, photographs)}
    assert changed == {"model", "input", "sampling", "optimizer", "train", "evaluate"}
    assert photographs.model.weights == "imagenet"
    assert photographs.optimizer.rules == ()
    assert photographs.train.steps is None
    assert photographs.optimizer.warmup < 1


def test_voc_is_trained_as_other_photographs_and_tested_at_the_papers_threshold():
    voc07, photographs = (load_config(CONFIGS[0].parent / f"{name}.py") for name in ("voc07_photos", "folder"))
    changed = {name.rpartition(".")[0] for name in changed_settings(photographs, voc07)}
    assert changed == {"data", "data.faults", "train", "evaluate"}
    assert voc07.data == DataConfig(faults=FaultPolicy(tolerance=0))
    both = {name: getattr(photographs.evaluate, name) for name in ("box_voting", "second_pass", "flip", "per_class")}
    assert both == {"box_voting": 0.5, "second_pass": 128, "flip": True, "per_class": 300}
    assert voc07.evaluate == EvalConfig(**both)


def test_what_the_recipes_for_tiny_change():
    folder, bccd, demo = (
        load_config(path) for stem in ("folder_scratch", "bccd", "demo") for path in CONFIGS if path.stem == stem
    )
    assert {name: now for name, (_, now) in changed_settings(folder, bccd).items()} == {
        "data.root": "~/data/BCCD",
        "data.faults.degenerate_box": "drop",
        "proposals.method": "selective_search_quality",
        "proposals.segment_scale": 75,
        "input.flip_vertical": True,
        "input.cache_decoded": True,
        "train.steps": 1000,
        "evaluate.per_class": 600,
        "evaluate.score_threshold": 0.02,
    }
    assert demo.optimizer == dataclasses.replace(folder.optimizer, warmup=50)
    assert (demo.evaluate.score_threshold, folder.evaluate.score_threshold) == (0.05, 0.05)
    methods = [config.proposals.method for config in (folder, bccd, demo)]
    assert methods == ["selective_search_mutual", "selective_search_quality", "selective_search_fast"]
    assert bccd.proposals.max_side == 320
    assert (demo.proposals.max_side, demo.proposals.segment_scale, demo.proposals.max_count) == (160, 50, 400)
    assert (demo.sampling.rois_per_image, demo.train.steps, demo.evaluate.per_class) == (64, 420, 100)


def test_the_defaults_are_the_papers_experiment():
    (vgg16,) = [path for path in CONFIGS if path.stem == "voc07_vgg16"]
    strict = FaultPolicy(tolerance=0)  # by default a handful of faults is tolerated: in other people's data
    assert load_config(vgg16) == resolve_rules(Config(data=DataConfig(faults=strict)))
    paper = [path for path in CONFIGS if path.stem.startswith("voc") and path.stem != "voc07_photos"]
    assert len(paper) == 6
    assert all(load_config(path).data.faults == strict for path in paper)
    assert Config().evaluate == EvalConfig(0.3, 0.0, 100, True, None, 0, "voc07")
