"""The README's training loop of one's own."""

import re

import numpy as np

from tests.training.runs import ROOT


def test_the_training_loop_of_the_readme(small, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "frcnn.create_state(" in block]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    step, loss = capsys.readouterr().out.split()
    assert int(step) == 20
    assert np.isfinite(float(loss))
    assert len(names["detections"].boxes) > 0
