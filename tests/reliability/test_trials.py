"""The trials of kills and of load, in their short forms."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


def test_what_differs_is_named(scripts):
    differences = scripts("fault.compare").differences
    one = {"checkpoint 5: a": b"ab", "metrics.jsonl: line 1": "c", "best": "d"}
    assert differences(one, dict(one)) == []
    assert differences(one, one | {"best": "e", "metrics.jsonl: line 2": "f"}) == ["best", "metrics.jsonl: line 2"]
    assert differences(one, {}) == sorted(one)


def test_the_plan_has_its_kills(scripts):
    trial, places = scripts("fault_trial"), scripts("fault.places").PLACES
    kills = [place for plan in trial.PLAN for place, _ in plan]
    assert len(kills) == 20
    assert sum(places[place].saves for place in kills) >= 6
    assert {"search for proposals", "first compilation", "evaluation"} < set(kills)
    steps = [step for plan in trial.PLAN for place, step in plan if places[place].saves]
    assert all(step % 5 == 0 and step % 20 for step in steps)  # checkpoints, and not those that are measured


@pytest.mark.parametrize(
    ("grown", "names"), [(0, []), (1, ["memory in MB"]), (2, ["open files"]), (4, ["compiled programs"])]
)
def test_what_grows_is_named(scripts, grown, names):
    growth = scripts("load_trial").growth
    rows = [(second, second, 1000, 10, 20, 30) for second in range(100)]
    if grown:
        rows = [(*row[: grown + 1], row[grown + 1] * (1 + (row[1] > 75) / 5), *row[grown + 2 :]) for row in rows]
    found = growth(rows)
    assert len(found) == len(names)
    assert all(text.startswith(name) for text, name in zip(found, names, strict=True))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="places kills by strace")
def test_four_kills(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/fault_trial.py"), "--out", str(tmp_path / "trial"), "--short"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no bit differs" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_little_load(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/load_trial.py"), "--out", str(tmp_path / "load")]
    done = subprocess.run([*command, "--images", "2000", "--steps", "8000"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
