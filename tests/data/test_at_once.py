"""Several processes that prepare the same data at once: one does, the others wait and take what it made."""

import subprocess
import sys
from pathlib import Path

from frcnn_jax.data.prepared.builder import CheckedVoc
from tests.data.voc_files import archive

ROOT = Path(__file__).parents[2]
PREPARE = """
import sys
from frcnn_jax.config import DataConfig
from frcnn_jax.data.dataset import open_dataset
from frcnn_jax.data.prepared import load, prepare
from frcnn_jax.data.prepared.builder import CheckedVoc

name, root, tfds_dir, url = sys.argv[1:]
CheckedVoc.base_url, CheckedVoc.verify_archives = url, False
print("ready", flush=True)
sys.stdin.readline()
loads = []
prepare.load_images = lambda *rest, **more: loads.append(1) or load.load_images(*rest, **more)
dataset = open_dataset(name, DataConfig(root=root or None, tfds_dir=tfds_dir))
print(len(loads), dataset.directory, dataset.fingerprint, dataset.read_image(0).shape)
"""


def prepare_at_once(count, *arguments):
    """Number of checks and data set that each process prints; they start when all are ready."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, *map(str, arguments)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    return [out.split(maxsplit=1) for out, _ in outputs]


def test_one_of_three_prepares_a_folder(config):
    printed = prepare_at_once(3, "folder/train", config.root, config.tfds_dir, "")
    assert sorted(loads for loads, _ in printed) == ["0", "0", "1"]
    assert len({rest for _, rest in printed}) == 1


def test_one_of_two_downloads_and_prepares_a_year(tmp_path, server):
    archive(tmp_path, "2007", "trainval")
    archive(tmp_path, "2007", "test")
    printed = prepare_at_once(2, "voc/2007/train", "", tmp_path / "tfds", CheckedVoc.base_url)
    assert printed[0] == printed[1]
    assert len(server) == 2, "each archive once"
