"""Start of several processes, the share of each, and results that do not depend on the number of devices."""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax._src.lib import _jax
from tqdm import tqdm

from frcnn_jax.config import Config, DistributedConfig, changed_settings, from_json, replace, to_json
from frcnn_jax.distributed import arrays, launch, start
from frcnn_jax.distributed.output import NumberedLines
from frcnn_jax.models.dropout import dropout_by_image

SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
ADDRESS = "10.0.0.1:1234"


@pytest.fixture
def arguments(monkeypatch):
    """Arguments of `jax.distributed.initialize` for settings and an environment, on a machine without TPUs."""
    monkeypatch.setattr(start, "_on_tpu_host", lambda: False)
    for name in (*SLURM, *OPEN_MPI):
        monkeypatch.delenv(name, raising=False)

    def find(environment=None, **settings):
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        return start._arguments(DistributedConfig(**settings))

    return find


def test_a_process_is_alone_unless_something_says_otherwise(arguments):
    assert arguments() is None
    assert arguments(SLURM | {"SLURM_NTASKS": "1"}) is None
    assert arguments(SLURM, processes=1) is None


def test_clusters_are_found_by_jax(arguments, monkeypatch):
    assert arguments(SLURM) == {}
    for name in SLURM:
        monkeypatch.delenv(name)
    assert arguments(OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:3"}) == {}
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    with pytest.raises(ValueError, match=r"Open MPI has started 2 processes, but .* give --distributed\.coordinator"):
        arguments()  # as Open MPI 5 does
    found = arguments(coordinator=ADDRESS)
    assert found == {"coordinator_address": ADDRESS, "num_processes": 2, "process_id": 1}


def test_settings_take_the_place_of_a_cluster(arguments):
    found = arguments(coordinator="127.0.0.1:99", processes=3, process=2)
    address = "127.0.0.1:99"
    assert found == {
        "coordinator_address": address,
        "num_processes": 3,
        "process_id": 2,
        "cluster_detection_method": "deactivate",
        "coordinator_bind_address": address,  # nothing listens beyond it
    }
    with pytest.raises(ValueError, match=r"give --distributed\.process too"):
        arguments(coordinator=ADDRESS, processes=2)
    with pytest.raises(ValueError, match=r"give --distributed\.coordinator HOST:PORT too"):
        arguments(process=0)


@pytest.fixture
def initialized(place, monkeypatch):
    """Arguments that `start` gives `jax.distributed.initialize`, and how it has gloo listen."""
    monkeypatch.setattr(start, "_on_tpu_host", lambda: False)
    monkeypatch.setattr(_jax, "make_gloo_tcp_collectives", lambda **options: options)
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)

    def initialize(**settings):
        found = {}
        monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: found.update(arguments))
        start.start(DistributedConfig(**settings))
        assert changed == {"jax_enable_preemption_service": False}  # which would take SIGTERM
        return found, _jax.make_gloo_tcp_collectives()

    return initialize


def test_processes_of_one_machine_listen_to_it_alone(initialized):
    settings = {"processes": 2, "process": 1, "heartbeat": 30, "start_timeout": 7}
    found, gloo = initialized(coordinator=ADDRESS, **settings)
    assert "coordinator_bind_address" not in found
    assert gloo == {}
    assert (found["initialization_timeout"], found["heartbeat_timeout_seconds"]) == (7, 70)
    found, gloo = initialized(coordinator="127.0.0.1:99", **settings)
    assert found["coordinator_bind_address"] == "127.0.0.1:99"
    assert gloo == {"hostname": "127.0.0.1"}


def test_a_start_without_the_others_names_the_settings(place, monkeypatch):
    def initialize(**_):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: barrier\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    message = (
        r"process 1 did not find all 2 processes by way of 10\.0\.0\.1:1234 within 5 s "
        r"\(distributed\.start_timeout\): DEADLINE_EXCEEDED: barrier$"
    )
    with pytest.raises(ConnectionError, match=message):
        start.start(DistributedConfig(coordinator=ADDRESS, processes=2, process=1, start_timeout=5))


def test_an_error_of_a_collective_operation_is_that_of_the_process_that_was_lost(monkeypatch):
    reasons = iter(["process 2 was lost", None])
    monkeypatch.setattr(start, "current_watch", lambda: SimpleNamespace(wait_for_reason=lambda: next(reasons)))
    broken = ValueError("INTERNAL: Gloo all-reduce failed: Connection closed by peer\nmore")
    assert str(start._named(broken)) == "process 2 was lost"
    assert str(start._named(broken)).startswith("the connection to another process broke: INTERNAL: Gloo")
    assert start._named(ValueError("input.batch_size must be at least 1")) is None
    assert start._named(FloatingPointError("Gloo")) is None
    assert [start._exit_code(error) for error in (KeyboardInterrupt(), SystemExit(2), ValueError())] == [130, 2, 1]
    assert start._why(KeyboardInterrupt()) == "was stopped by a signal"
    assert start._why(ValueError("a\nb")) == "stopped: a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "host"}, r"distributed\.coordinator must be HOST:PORT, not 'host'"),
        ({"coordinator": "host:99999"}, r"must be HOST:PORT"),
        ({"processes": 2, "process": 2}, r"distributed\.process must be below distributed\.processes = 2, not 2"),
        ({"heartbeat": 1}, r"distributed\.heartbeat must be at least 5"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DistributedConfig(**settings)


def test_no_run_is_compared_by_the_processes_that_made_it():
    config = replace(Config(), distributed={"coordinator": ADDRESS, "processes": 2, "process": 1})
    assert changed_settings(Config(), config) == {}
    assert ADDRESS not in to_json(config)
    assert from_json(to_json(config)) == Config()


@dataclasses.dataclass(frozen=True)
class Device:
    process_index: int
    id: int


def test_each_process_reads_the_images_of_its_devices(monkeypatch):
    monkeypatch.setattr(arrays, "process_count", lambda: 2)
    devices = [Device(process, number) for number, process in enumerate((1, 0, 1, 0))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(arrays, "Mesh", lambda devices, axes: type("Mesh", (), {"devices": devices, "size": 4}))
    mesh = arrays.data_mesh()
    assert [(device.process_index, device.id) for device in mesh.devices] == [(0, 1), (0, 3), (1, 0), (1, 2)]
    shares = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares += range(8)[arrays.local_places(mesh, 8)]
    assert shares == list(range(8))
    with pytest.raises(ValueError, match=r"input\.batch_size 6 cannot be shared by 4 devices: .* a multiple of 4"):
        arrays.local_places(mesh, 6)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    with pytest.raises(ValueError, match="process 2 has no device among the 4 of the mesh"):
        arrays.local_places(mesh, 8)
    devices[0] = Device(0, 0)
    with pytest.raises(ValueError, match="the processes have 3, 1 devices"):
        arrays.data_mesh()


class Layers(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(x)  # of maps
        x = x.reshape(-1, 6)  # several vectors of each image
        return nn.Dropout(0.3)(x, deterministic=False)


def test_an_image_draws_the_same_dropout_wherever_it_is():
    x, key = jnp.ones((4, 5, 6)), jax.random.key(3)

    def apply(places):
        with dropout_by_image(jnp.asarray(places)):
            return Layers().apply({}, x[: len(places)], rngs={"dropout": key}).reshape(-1, 5, 6)

    whole = apply([0, 1, 2, 3])
    np.testing.assert_array_equal(np.concatenate([apply([0, 1]), apply([2, 3])]), whole)
    assert len({image.tobytes() for image in np.asarray(whole)}) == 4
    assert 0.2 < np.mean(np.asarray(whole) > 0) < 0.5
    np.testing.assert_allclose(np.unique(whole), [0, 1 / 0.5 / 0.7], rtol=1e-6)


def test_other_processes_print_whole_lines_with_their_number():
    stream = io.StringIO()
    lines = NumberedLines(stream, 2)
    for text in ("one", " line\ntwo", "\n", "\r 3% done", "\r 9% done\n", "three\n"):
        lines.write(text)
    assert stream.getvalue() == "[2] one line\n[2] two\n[2] three\n"


def test_a_message_after_a_progress_bar_is_printed():
    stream = io.StringIO()
    lines = NumberedLines(stream, 2)
    for end in (lambda bar: bar.close(), lambda bar: lines.write("Traceback\n") and bar.close(), tqdm.clear):
        end(tqdm(range(3), "Hashing", file=lines, leave=False, mininterval=0))
        print("message", file=lines)
    for _ in tqdm(range(3), "Hashing", file=lines, mininterval=0):  # a bar that stays
        tqdm.write("beside it", file=lines)
    lines.write("\r     \rone write\n\r 9%\nof Windows\r\n\n")
    messages = ["message", "Traceback", *["message"] * 2, *["beside it"] * 3, "one write", "of Windows", ""]
    assert stream.getvalue().splitlines() == [f"[2] {message}" for message in messages]


def test_the_last_line_is_printed_without_a_break_and_a_progress_bar_is_not():
    for last, shown in (("last words", "[2] last words\n"), ("\r 9% done", ""), ("", "")):
        for end in (NumberedLines.end_line, NumberedLines.close):
            stream = io.StringIO()
            lines = NumberedLines(stream, 2)
            lines.write(last)
            lines.flush()  # between two parts of a line
            assert stream.getvalue() == ""
            end(lines)
            assert stream.getvalue() == shown
            assert not stream.closed


def test_numbered_lines_are_a_text_stream():
    stream = io.StringIO()
    with NumberedLines(stream, 2) as lines:
        assert isinstance(lines, io.TextIOBase)
        assert lines.writable()
        assert (lines.encoding, lines.errors) == (stream.encoding, stream.errors)
        lines.writelines(["a\n", "b"])
    assert stream.getvalue() == "[2] a\n[2] b\n"
    assert lines.closed
    with pytest.raises(ValueError, match="closed"):
        lines.write("c\n")


def test_a_process_that_ends_prints_its_last_line():
    code = (
        "import sys\nfrom frcnn_jax.distributed.output import mark_output\n"
        "mark_output(1)\nprint('last words', end='', file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("", "[1] last words\n")


def test_gpus_are_shared_out():
    eight = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert [launch.share_of_gpus(index, 2, eight)["CUDA_VISIBLE_DEVICES"] for index in (0, 1)] == ["0,1,2,3", "4,5,6,7"]
    assert launch.share_of_gpus(0, 2, {"CUDA_VISIBLE_DEVICES": ""}) == {}
    with pytest.raises(ValueError, match=r"3 processes cannot share 8 GPUs: .* divides 8, .* by JAX_PLATFORMS=cpu$"):
        launch.share_of_gpus(0, 3, eight)


def test_gpus_that_jax_does_not_use_are_not_shared_out(monkeypatch):
    files = [Path(f"/dev/nvidia{number}") for number in range(3)]
    monkeypatch.setattr(launch.Path, "glob", lambda self, pattern: files)
    for environment in (
        {"JAX_PLATFORMS": "cpu"},
        {"JAX_PLATFORMS": "rocm"},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        {"CUDA_VISIBLE_DEVICES": "-1,0,1"},
    ):
        assert launch.share_of_gpus(0, 2, environment) == {}
    assert launch.share_of_gpus(1, 2, {"CUDA_VISIBLE_DEVICES": "2, 0,-1,1"}) == {"CUDA_VISIBLE_DEVICES": "0"}
    for platforms in ("", "cuda", "cpu,gpu", "CUDA, cpu"):
        with pytest.raises(ValueError, match="2 processes cannot share 3 GPUs"):
            launch.share_of_gpus(0, 2, {"JAX_PLATFORMS": platforms})


def test_dropout_by_image_takes_an_input_by_name():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5)(inputs=x, deterministic=False)

    x = jnp.ones((2, 64))
    with dropout_by_image(jnp.arange(2)):
        dropped = Layer().apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped).tolist()) == {0.0, 2.0}
