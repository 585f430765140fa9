"""Workers with CUDA devices: children locked in, one device a slot. Skipped, visibly, where there is none."""

from __future__ import annotations

import os
import signal
from io import BytesIO

import numpy as np
import pytest
import torch
from fleet import SMALL, Fleet

from chaos.processes import descendants_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing of this has been run"),
]
LONG = {**SMALL, "training": {**SMALL["training"], "steps": 1_000_000}}
MIB = 1 << 20


def with_gpus(fleet: Fleet, **changes: object) -> int:
    """The worker's process."""
    fleet.settings = fleet.settings.model_copy(update={"worker_device": "cuda", **changes})
    return fleet.start("worker").pid


def test_a_locked_in_job_trains_on_the_gpu_and_repeats_itself(fleet: Fleet) -> None:
    assert fleet.settings.sandbox == "on"
    with_gpus(fleet, worker_slots=1)
    model, dataset = fleet.ready(fleet.add_model()), fleet.ready(fleet.add_dataset())
    ended = [fleet.finished(fleet.submit(model, dataset), 180) for _ in range(2)]
    assert [(job.status, job.conclusion, job.error) for job in ended] == [("succeeded", "passed", None)] * 2
    assert ended[0].determinism["device"] == "cuda"
    assert ended[0].determinism["model"] == torch.cuda.get_device_name(0)
    assert fleet.digests(ended[0]) == fleet.digests(ended[1])


def test_a_killed_job_goes_on_to_the_same_bits(fleet: Fleet) -> None:
    worker = with_gpus(fleet, worker_slots=1)
    model, dataset = fleet.ready(fleet.add_model()), fleet.ready(fleet.add_dataset())
    slow = {**SMALL, "training": {**SMALL["training"], "steps": 3000}}
    expected = fleet.digests(fleet.finished(fleet.submit(model, dataset, slow), 180))
    job = fleet.submit(model, dataset, slow)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.last_position >= 1)
    for child in descendants_of(worker):
        os.kill(child, signal.SIGKILL)
    ended = fleet.finished(job, 180)
    assert (ended.status, ended.attempt) == ("succeeded", 2)
    assert fleet.digests(ended) == expected


def test_a_job_too_large_for_its_share_of_the_device_fails_with_the_remedy(fleet: Fleet) -> None:
    with_gpus(fleet, worker_slots=1, gpu_memory_fraction=150 * MIB / torch.cuda.mem_get_info(0)[1])
    shape, targets = (3, 256, 256), np.arange(60) % 10
    images, file = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8), BytesIO()
    np.savez(file, **{"train.inputs": images, "train.targets": targets})
    model = fleet.ready(fleet.add_model(input_shape=list(shape)))  # its first layer alone takes 225 MiB
    dataset = fleet.ready(fleet.add_dataset(file.getvalue()))
    small_batches = {**SMALL, "training": {"steps": 10, "batch_size": 10}}
    job = fleet.finished(fleet.submit(model, dataset, small_batches), 180)
    assert job.error["code"] == "out_of_memory"
    assert "MiB of GPU memory" in job.error["message"]
    assert "lower training.batch_size" in job.error["message"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_two_slots_use_two_devices(fleet: Fleet) -> None:
    free_before = [torch.cuda.mem_get_info(device)[0] for device in (0, 1)]
    with_gpus(fleet, worker_slots=2)
    model, dataset = fleet.ready(fleet.add_model()), fleet.ready(fleet.add_dataset())
    jobs = [fleet.submit(model, dataset, LONG) for _ in range(2)]
    fleet.wait(lambda: [fleet._fetch(job).progress for job in jobs], all, 120)
    free = [torch.cuda.mem_get_info(device)[0] for device in (0, 1)]
    assert all(before - now > 50 * MIB for before, now in zip(free_before, free, strict=True)), "a context on each"
