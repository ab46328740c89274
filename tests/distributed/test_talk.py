"""Messages between processes, and which one writes to disk; threads take the places of processes."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from frcnn_jax.distributed import disk, talk
from frcnn_jax.distributed.disk import first_on_disk
from frcnn_jax.training import loop


def test_all_learn_the_values_of_all_in_their_order(in_processes):
    def tell(index):
        time.sleep(0.05 * (2 - index))
        return talk.gather(index), talk.gather([index, "b"]), talk.from_first(lambda: {"from": index})

    assert in_processes(3, tell) == [([0, 1, 2], [[0, "b"], [1, "b"], [2, "b"]], {"from": 0})] * 3
    assert talk.gather(7) == [7]  # of a process that is alone


def test_one_process_gets_what_several_get(in_processes):
    value = {"sizes": (1, 2), 3: None}
    exchange = lambda _: (talk.gather(value)[0], talk.from_first(lambda: value))  # noqa: E731
    assert exchange(0) == in_processes(2, exchange)[1] == ({"sizes": [1, 2], "3": None},) * 2
    with pytest.raises(TypeError, match="not JSON serializable"):
        talk.gather(object())


def test_texts_that_differ_name_the_processes(in_processes):
    texts = "abac"
    results = in_processes(4, lambda index: talk.same("other data", texts[index], "give the same"))
    assert {str(error) for error in results} == {"processes 1, 3 have other data than process 0: give the same"}
    (error, _) = in_processes(2, lambda index: talk.same("other data", texts[index], "give the same"))
    assert str(error) == "process 1 has other data than process 0: give the same"
    assert in_processes(3, lambda _: talk.same("other data", "a", "")) == [None] * 3


@pytest.mark.parametrize("wait", [talk.gather, lambda value: talk.from_first(lambda: value)])
def test_waiting_ends_with_the_reason_to_end(wait, in_processes):
    def wait_or_end(index):
        if index == 0:
            time.sleep(0.1)
            talk.must_end("process 0 was lost")
            talk.must_end("and another thing")  # the first reason counts
        else:
            wait(1)

    _, error = in_processes(2, wait_or_end)
    assert isinstance(error, talk.ProcessLostError)
    assert str(error) == "process 0 was lost"


def test_other_data_or_proposals_are_an_error(in_processes):
    def compare(index, fingerprints, proposals):
        record = type("Record", (), {"fingerprint": fingerprints[index]})
        loop.compare_data(record, [proposals[index]])

    same, other = [[1.0, 2, 3, 4]], [[1.0, 2, 3, 5]]
    for fingerprints, proposals, message in (
        ("ab", (same, same), "process 1 has other training data than process 0"),
        ("aa", (same, other), "process 1 has other proposals than process 0"),
    ):
        errors = in_processes(2, lambda index, f=fingerprints, p=proposals: compare(index, f, p))
        assert [str(error).partition(":")[0] for error in errors] == [message] * 2
    assert in_processes(2, lambda index: compare(index, "aa", (same, same))) == [None] * 2


def test_one_makes_what_is_on_a_disk_that_all_see(in_processes, tmp_path):
    order, lock = [], threading.Lock()

    def make(index):
        with first_on_disk(tmp_path / "shared"):
            time.sleep(0.1 if index == 0 else 0)
            with lock:
                order.append(index)

    assert in_processes(3, make) == [None] * 3
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]
    assert not list((tmp_path / "shared").iterdir())  # the mark is gone


def test_a_host_with_a_disk_of_its_own_waits_for_no_other(in_processes, tmp_path):
    inside = threading.Barrier(2)

    def make(index):
        with first_on_disk(tmp_path / f"disk_of_{index}"):
            inside.wait(timeout=60)  # both are in the block at once

    assert in_processes(2, make) == [None] * 2


def refuse_files(monkeypatch, number):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "touch", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_only_be_read_is_used_by_all_at_once(in_processes, tmp_path, monkeypatch, number):
    refuse_files(monkeypatch, number)
    inside = threading.Barrier(2)

    def read(_):
        with first_on_disk(tmp_path):
            inside.wait(timeout=60)

    assert in_processes(2, read) == [None] * 2


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    refuse_files(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/"):
        disk._mark(tmp_path)
