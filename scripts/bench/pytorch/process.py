"""The peer's process, started as `python -m bench.pytorch.process FOLDER`.

Reads FOLDER/job.json and inputs.npz, computes with PyTorch, writes outputs.npz and says so on standard output; then
each line of its input names a case, and it answers with the seconds of one sample. Needs torch, torchvision and NumPy,
and only those modules of this repository that import nothing else.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from bench.pytorch import depthwise, fast_rcnn, functions
from bench.sizes import decode_sizes
from bench.timing import Sampler

_TOPICS = {
    "rates": functions.prepare_rates,
    "roi_pool": functions.prepare_roi_pool,
    "depthwise": depthwise.prepare_depthwise,
    "input": functions.prepare_input,
    "gradient": fast_rcnn.prepare_gradient,
    "train_step": fast_rcnn.prepare_train_step,
    "test": fast_rcnn.prepare_test,
}


def main() -> None:
    # The pipe carries only answers: output of libraries goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    sizes, device = decode_sizes(job["sizes"]), torch.device(job["device"])
    torch.set_num_threads(job["cores"])
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: stored[name] for name in stored.files}
    prepared = _TOPICS[job["topic"]](job["cases"], inputs, device, sizes, Path(job["folder"]))
    np.savez(folder / "outputs.npz", **prepared.arrays)
    facts = {"threads": torch.get_num_threads(), **prepared.facts}
    print(json.dumps({"notes": prepared.notes, "facts": facts}), file=answers)

    def wait(result: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    samplers: dict[str, Sampler] = {}
    for line in sys.stdin:
        case = json.loads(line)
        if case not in samplers:
            samplers[case] = Sampler(prepared.runs[case], wait, sizes.effort)
        print(json.dumps(samplers[case]()), file=answers)


if __name__ == "__main__":
    main()
