"""The peer in its own process: compared first, timed in turns with this package; its errors are reported."""

import json
import sys

import pytest

from tests.benchmark.fake_peer import write_peer


def test_peer_in_a_second_process_is_compared_and_timed(tmp_path, capsys, tiny_sizes, monkeypatch):
    import benchmark

    path = tmp_path / "result.json"
    monkeypatch.chdir(tmp_path)
    assert write_peer(tmp_path) == str(tmp_path / "python")
    benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", "./python", "--out", str(path)])
    document = json.loads(path.read_text())
    assert document["peer"] == {"torch": "0", "torchvision": "0"}
    assert [row["peer"]["samples"] for row in document["rows"]] == [[0.5, 1.5]] * 5
    assert [row["peer"]["median"] for row in document["rows"]] == [1.0] * 5
    assert document["rows"][0]["ratio"] == document["rows"][0]["ours"]["median"]
    assert "1000 (500-1500)" in capsys.readouterr().out


def test_peer_that_computes_something_else_is_an_error(tmp_path, tiny_sizes):
    import benchmark

    path = tmp_path / "result.json"
    peer = write_peer(tmp_path, error=1e-6)
    with pytest.raises(SystemExit, match="forward, 4 RoIs: pooled differs from the peer's"):
        benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", peer, "--out", str(path)])
    assert not path.exists()


def test_peer_that_ends_early_is_an_error_with_its_last_words(tmp_path, tiny_sizes):
    import benchmark

    peer = write_peer(tmp_path, last="forward, 2 images")
    with pytest.raises(SystemExit, match=r"benchmark\.py: the peer failed in topic roi_pool: the peer had enough"):
        benchmark.main(["--quick", "--only", "roi_pool", "--peer-python", peer])


def test_interpreter_without_torch_is_an_error_that_names_it(tmp_path):
    import benchmark

    with pytest.raises(SystemExit, match=r"benchmark\.py: .*nowhere: No such file"):
        benchmark.main(["--quick", "--peer-python", str(tmp_path / "nowhere")])
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('ModuleNotFoundError: no torch')\n")
    path.chmod(0o755)
    with pytest.raises(SystemExit, match="does not import torch and torchvision: ModuleNotFoundError: no torch"):
        benchmark.main(["--quick", "--peer-python", str(path)])


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('torchvision')", reason="needs torchvision")
def test_pytorch_as_the_peer(tmp_path):
    import benchmark

    path = tmp_path / "result.json"
    models = ["vgg16", "caffenet", "vgg_cnn_m_1024"]
    topics = ["roi_pool", "train_step", "test", "input"]
    benchmark.main(["--quick", "--only", *topics, "--models", *models, "--out", str(path)])
    assert all(row["peer"]["median"] > 0 for row in json.loads(path.read_text())["rows"])
