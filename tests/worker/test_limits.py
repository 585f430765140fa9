"""A job that takes more than it may is told which limit it was and how far it went; its worker lives on."""

from __future__ import annotations

import io
import os
import queue
import re

import numpy as np
import pytest
from fleet import SMALL, Fleet

from worker import limits
from worker.children import Child, Exited
from worker.limits import OverLimit
from worker.messages import MAX_LINE_BYTES, NotExported, Validated
from worker.runner import Runner

MIB = 1 << 20
LARGE = {**SMALL, "stop": {"rounds": 1}, "training": {"steps": 10, "batch_size": 900, "evaluate_every_steps": 10}}


def examples(*shape: int) -> bytes:
    file, targets = io.BytesIO(), np.arange(1000) % 10
    np.savez(file, **{"train.inputs": np.zeros((1000, *shape), dtype=np.uint8), "train.targets": targets})
    return file.getvalue()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # the database has no part in it
def test_each_limit_ends_its_job_at_once_and_the_next_one_runs(fleet: Fleet) -> None:
    fleet.settings = fleet.settings.model_copy(update={"folder_max_bytes": 2 * MIB, "child_memory_bytes": 1024 * MIB})
    worker = fleet.start("worker")

    def error_of(architecture: str, *shape: int) -> str:
        model = fleet.given(fleet.add_model(architecture=architecture, input_shape=list(shape)))
        job = fleet.finished(fleet.submit(model, fleet.given(fleet.add_dataset(examples(*shape))), LARGE))
        assert (job.status, job.conclusion, job.attempt) == ("failed", "error", 1), "a second try would end alike"
        code, message = job.error["code"], job.error["message"]
        assert job.error["retryable"] is False
        return f"{code}: {message}"

    many_files = error_of("lenet_300_100", 1, 32, 32)  # each of 1.3 MiB
    assert re.match(r"out_of_disk: .* left \d\.\d MiB in its folder, more than its 2.0 MiB; .*", many_files), many_files
    one_file = error_of("lenet_300_100", 1, 48, 48)  # of 2.8 MiB
    assert re.match(r"out_of_disk: a file .* grew past its 2.0 MiB \(\d\.\d MiB .*", one_file), one_file
    memory = error_of("lenet5", 3, 96, 96)
    assert re.match(r"out_of_memory: .* its 1\d{3} MiB of address space \(peak so far: \d+ MiB resident\)", memory), (
        memory
    )
    assert worker.poll() is None
    small = fleet.submit(
        fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset()), {**SMALL, "stop": {"rounds": 1}}
    )
    assert fleet.finished(small).conclusion == "passed"


def test_a_message_past_its_limit_is_told_by_whoever_sends_it() -> None:
    read, write = os.pipe()
    runner = Runner.__new__(Runner)
    runner._pipe = os.fdopen(write, "wb")
    with pytest.raises(OverLimit, match=rf"may have {MAX_LINE_BYTES} bytes, and one was {MAX_LINE_BYTES + 53} bytes"):
        runner._say(Validated(report={"": "x" * MAX_LINE_BYTES}))
    runner._say(NotExported(kind="program", reason="x"))
    runner._pipe.close()
    with os.fdopen(read, "rb") as pipe:
        assert len(pipe.readlines()) == 1, "nothing of the long one was sent"


def test_a_message_past_its_limit_is_not_read_to_its_end() -> None:
    """Of a child that does not count its bytes."""
    child = Child.__new__(Child)
    child.messages = queue.Queue()
    child._read_messages(io.BytesIO(b"x" * (3 * MAX_LINE_BYTES)))
    told = child.messages.get(timeout=1)
    assert isinstance(told, OverLimit)
    assert told.code == "report_too_large"
    assert str(MAX_LINE_BYTES) in str(told)
    assert isinstance(child.messages.get(timeout=1), Exited)


def test_memory_that_ran_out_where_nobody_could_say_so_is_known_by_the_last_words() -> None:
    words = "the training process ended with killed by SIGABRT: terminate called after throwing 'std::bad_alloc'"
    told = limits.allocation_failed(words, 700 * MIB, 1024 * MIB)
    assert told is not None
    assert told.code == "out_of_memory"
    assert "its 1024 MiB of memory (peak: 700 MiB resident)" in str(told)
    assert limits.allocation_failed("the training process ended with exit code 1: KeyError", None, MIB) is None
