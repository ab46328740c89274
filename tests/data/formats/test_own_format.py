"""A custom format in a plug-in: prepared, searched, corrected and opened by other processes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from frcnn_jax.config import Config
from tests.data.voc_files import pixels

ROOT = Path(__file__).parents[3]
MODULE = ROOT / "tests/data/csv_format.py"
ROWS = ["split,image,class,x,y,w,h,kind", "train,a.jpg,cat,1,1,40,30,", "train,a.jpg,ant,5.123456789,6.1,9.3,7.7,",
        "train,b.jpg,,,,,,", "test,c.jpg,ant,3,4,20,15,"]  # fmt: skip
CONFIG = """
from frcnn_jax.config import Config, DataConfig, ProposalConfig

def get_config():
    return Config(
        plugins=("my_csv",),
        data=DataConfig(train=("folder/train",), test="folder/test", root={root!r}, tfds_dir={tfds!r}),
        proposals=ProposalConfig(method="selective_search_fast", min_side=4.0, max_side=0),
    )
"""
OPEN = """
import json, sys
from frcnn_jax.config import load_config
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.proposals.source import open_proposals
from frcnn_jax.plugins import load_plugins

config = load_config(sys.argv[1])
load_plugins(config.plugins)
dataset = open_dataset("folder/train", config.data)
proposals = open_proposals(dataset, config.proposals, progress=False)
print(json.dumps([dataset.classes, dataset.image_ids, dataset.fingerprint, proposals.computed,
                  [truth.boxes.tolist() for truth in dataset.annotations], [len(boxes) for boxes in proposals]]))
"""

pytestmark = pytest.mark.skipif(
    "plugins" not in {field.name for field in dataclasses.fields(Config)}, reason="configs name no plug-ins"
)


def run(folder, *arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder, *rows):
    (folder / "set/labels.csv").write_text("\n".join(rows) + "\n")


def test_a_format_in_one_file(tmp_path):
    text = MODULE.read_text()
    assert text.count("\n") < 60
    (tmp_path / "my_csv.py").write_text(text)
    (tmp_path / "set").mkdir()
    for seed, name in enumerate("abcd"):
        cv2.imwrite(str(tmp_path / f"set/{name}.jpg"), pixels(seed))
    write(tmp_path, *ROWS)
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(root=str(tmp_path / "set"), tfds=str(tmp_path / "tfds")))

    printed = run(tmp_path, ROOT / "scripts/proposals.py", "--config", config)
    assert "folder/train: 2 images" in printed
    assert "computed 2 in " in printed
    assert "computed 1 in " in printed
    classes, ids, fingerprint, computed, boxes, counts = json.loads(run(tmp_path, "-c", OPEN, config))
    assert (classes, ids, computed) == (["ant", "cat"], ["a.jpg", "b.jpg"], 0)
    x, y = 5.123456789 - 1, 6.1 - 1
    assert np.float32(boxes[0]).tolist() == [[0, 0, 40, 30], np.float32([x, y, x + 9.3, y + 7.7]).tolist()]
    assert boxes[1] == []
    assert min(counts) > 0

    # A corrected label, a class under another name and a new image: proposals of the new image alone are searched.
    write(tmp_path, ROWS[0], ROWS[1].replace("cat", "cow"), *ROWS[3:], "train,d.jpg,ant,2,2,9,9,")
    printed = run(tmp_path, ROOT / "scripts/proposals.py", "--config", config)
    assert printed.count("computed") == 1
    assert "folder/train: 3 images" in printed
    assert "computed 1 in " in printed
    after = json.loads(run(tmp_path, "-c", OPEN, config))
    assert (after[0], after[1]) == (["ant", "cow"], ["a.jpg", "b.jpg", "d.jpg"])
    assert after[2] != fingerprint
    assert after[5][:2] == counts
