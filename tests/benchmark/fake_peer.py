"""Peers without PyTorch: one of NumPy loops, which says how long it took, and one that makes up its losses."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Stands for an interpreter with PyTorch: answers the question for versions, pools with the reference's loops, and
# says 0.5 s and 1.5 s in turns where it is asked for its time.
PEER = """#!{python}
import itertools, json, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"torch": "0", "torchvision": "0", "cuda": False}}))
    sys.exit()
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from tests.ops.reference import roi_max_pool, roi_max_pool_gradient
folder = Path(sys.argv[3])
job, inputs, outputs = json.loads((folder / "job.json").read_text()), np.load(folder / "inputs.npz"), {{}}
for case in job["cases"] if job["topic"] == "roi_pool" else ():
    maps, rois = inputs[case + "/features"], inputs[case + "/rois"]
    pooled, argmax = zip(*(roi_max_pool(f, r, (7, 7), 1 / 16) for f, r in zip(maps, rois)))
    outputs[case + "/pooled"] = np.stack(pooled) + {error}
    if case + "/cotangent" in inputs:
        parts = zip(argmax, inputs[case + "/cotangent"])
        outputs[case + "/gradient"] = np.stack([roi_max_pool_gradient(a, c, maps[0].shape) for a, c in parts])
np.savez(folder / "outputs.npz", **outputs)
print(json.dumps({{"notes": {{}}, "facts": {{}}}}), flush=True)
for line, seconds in zip(sys.stdin, itertools.cycle([0.5, 1.5])):
    if "{last}" in line:
        sys.exit("the peer had enough")
    print(seconds, flush=True)
"""


def write_peer(folder: Path, error: float = 0.0, last: str = "no such case") -> str:
    path = folder / "python"
    path.write_text(PEER.format(python=sys.executable, root=str(ROOT), error=error, last=last))
    path.chmod(0o755)
    return str(path)


# Stands for one that trains: checks that the recording is there, and gives the losses that it was told to.
TRAINING_PEER = """#!{python}
import json, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"torch": "0", "torchvision": "0", "cuda": False}}))
    sys.exit()
from pathlib import Path
assert sys.argv[1:3] == ["-m", "bench.pytorch.training"]
folder, layout = Path(sys.argv[3]), sys.argv[4]
steps = json.loads((folder / "settings.json").read_text())["steps"]
for step in range({made}):
    assert (folder / f"step_{{step:06d}}.npz").exists()
    loss = {{"channels_last": 3.0, "NCHW": 3.3}}[layout] + step
    print(json.dumps({{"loss": loss, "classification": 2.0, "localization": 1.0 + step, "seconds": 0.5}}), flush=True)
{end}
"""


def write_training_peer(folder: Path, made: str = "steps", end: str = "") -> str:
    """Its losses are 3, 4 ... of which 2 are the class's; a tenth more of 3 in the second layout."""
    path = folder / "python"
    path.write_text(TRAINING_PEER.format(python=sys.executable, made=made, end=end))
    path.chmod(0o755)
    return str(path)
