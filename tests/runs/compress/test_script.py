"""The script: its figures before and after, settings of the evaluation, and refusals in one line."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from frcnn_jax.commands import compress
from tests.runs.compress.reading import contents

SCRIPT = Path(__file__).parents[3] / "scripts" / "compress.py"


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_test_set_without_objects_has_no_map(capsys):
    figures = {"parameters": 1e6, "multiply_adds_of_an_roi": 2e6, "map": None}
    compress.print_table({"before": figures, "after": figures})
    assert capsys.readouterr().out.splitlines()[-1].split() == ["mAP", "no", "objects", "no", "objects"]


def test_script(workdir, tmp_path, monkeypatch, capsys):
    out, before = tmp_path / "out", contents(workdir)
    options = ["--fc6", "6", "--fc7", "3", "--images", "2", "--evaluate.metric", "voc10"]
    arguments = ["--workdir", workdir, "--out", out, *options]
    script(monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "Compressed in " in printed
    figures = json.loads((out / "compression.json").read_text())
    assert (figures["fc6_rank"], figures["fc7_rank"], figures["step"]) == (6, 3, 4)
    # 144 * 32 + 32 * 16 + 16 * 3 + 16 * 12, and 6 * (144 + 32) + 3 * (32 + 16) in place of the first two.
    assert figures["before"]["multiply_adds_of_an_roi"] == 5360
    assert figures["after"]["multiply_adds_of_an_roi"] == 1440
    assert figures["before"]["parameters"] - figures["after"]["parameters"] == 5360 - 1440
    for name, report in (("before", "eval_before"), ("after", "eval")):
        metrics = json.loads((out / report / "metrics.json").read_text())
        assert (metrics["map"], metrics["metric"]) == (figures[name]["map"], "voc10")
        assert figures[name]["milliseconds"] > 0
        row = next(line.split() for line in printed.splitlines() if line.startswith("mAP"))
        assert f"{figures[name]['map']:.4f}" in row
    assert contents(workdir) == before

    with pytest.raises(SystemExit, match=r"^compress\.py: model\.dropout, train\.steps: not a setting of"):
        script(
            *(monkeypatch, "--workdir", workdir, "--out", tmp_path / "new", "--fc6", 6, "--no-evaluate"),
            *("--train.steps", 9, "--model.dropout", 0.1),
        )
    assert not (tmp_path / "new").exists()
    script(monkeypatch, *arguments, "--no-evaluate")
    assert "already holds this compression" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^compress\.py: .*out holds another run, its settings are not those"):
        script(monkeypatch, "--workdir", workdir, "--fc6", 5, "--out", out)
    with pytest.raises(SystemExit, match=r"^compress\.py: no rank is given"):
        script(monkeypatch, "--workdir", workdir)
    with pytest.raises(SystemExit, match="2"):
        script(monkeypatch, "--workdir", workdir, "--fc6", -5)
    assert "argument --fc6: must be at least 0, not -5" in capsys.readouterr().err
