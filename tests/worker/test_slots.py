"""Slots: uploads and jobs never wait for each other, and no message is lost between a last claim and a freed slot."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from fleet import SMALL, Fleet
from pydantic import ValidationError

from chaos.processes import descendants_of, is_alive
from store.queue import INTAKE, Bell
from store.settings import Settings
from store.tables import IntakeStatus
from worker.devices import NoDevice, cuda_devices, job_slots
from worker.slots import Slot, Slots

LONG = {**SMALL, "training": {**SMALL["training"], "steps": 100_000}}


@pytest.fixture
def two_slots(fleet: Fleet) -> Fleet:
    fleet.settings = fleet.settings.model_copy(update={"worker_slots": 2})
    return fleet


def at_work(fleet: Fleet, *jobs: object) -> bool:
    return all(fleet._fetch(job).progress is not None for job in jobs)


def test_an_upload_is_validated_while_a_job_runs(fleet: Fleet) -> None:
    fleet.start("worker")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    job = fleet.submit(model, dataset, LONG)
    fleet.wait(lambda: at_work(fleet, job), bool)
    fleet.submit(model, dataset)  # and another one waits behind it
    assert fleet.ready(fleet.add_dataset()).status == IntakeStatus.READY
    assert fleet.ready(fleet.add_model()).status == IntakeStatus.READY
    assert fleet._fetch(job).status == "running"


def test_two_slots_run_two_jobs_at_once_and_give_both_back(two_slots: Fleet) -> None:
    fleet = two_slots
    worker = fleet.start("worker")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    jobs = [fleet.submit(model, dataset, LONG) for _ in range(3)]
    fleet.wait(lambda: at_work(fleet, *jobs[:2]), bool)
    assert fleet._fetch(jobs[2]).status == "queued"
    assert fleet.ready(fleet.add_dataset()).status == IntakeStatus.READY, "both slots taken, and uploads have their own"

    children = descendants_of(worker.pid)
    worker.terminate()
    assert worker.wait(15) == 0
    after = [fleet._fetch(job) for job in jobs]
    assert [(job.status, job.failures, job.attempt) for job in after] == [("queued", 0, 1)] * 2 + [("queued", 0, 0)]
    assert not any(is_alive(child) for child in children)


@pytest.mark.timeout(240)
def test_a_burst_of_messages_loses_nothing(two_slots: Fleet) -> None:
    """No sweeper runs: what a lost message told of would wait for ever. Messages without work harm nobody."""
    fleet = two_slots
    fleet.start("worker")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    short = {**SMALL, "stop": {"rounds": 1}, "training": {**SMALL["training"], "steps": 5}}
    bell = Bell(fleet.settings.broker_url)
    jobs = []
    for number in range(6):
        jobs.append(fleet.submit(model, dataset, short))
        fleet.add_model()
        for _ in range(number):
            bell.ring(INTAKE)
            bell.ring(fleet.settings.worker_pool)
    for _ in range(6):
        bell.ring(INTAKE)
    bell.close()
    ended = [fleet.finished(job, 180) for job in jobs]
    assert [job.status for job in ended] == ["succeeded"] * 6
    assert [job.attempt for job in ended] == [1] * 6
    assert fleet.ready(fleet.add_model()).status == IntakeStatus.READY


@pytest.mark.parametrize("seed", range(20))
def test_each_row_is_served_whatever_the_timing(seed: int) -> None:
    """Rows come with one message each, to threads that do as the supervisor does, in random order and haste."""
    chance = random.Random(seed)
    slots, lock = Slots([Slot()] * chance.choice([1, 2, 3])), threading.Lock()
    waiting: list[int] = []
    served: list[int] = []
    busy, most_busy = 0, 0

    def claim() -> int | None:
        with lock:
            return waiting.pop() if waiting else None

    def on_message(pause: float) -> None:
        nonlocal busy, most_busy
        while (slot := slots.take()) is not None:
            with lock:
                busy += 1
                most_busy = max(most_busy, busy)
            while (row := claim()) is not None:
                time.sleep(pause)
                served.append(row)
            with lock:
                busy -= 1
            if not slots.give_back(slot):
                return

    threads = []
    for row in range(60):
        with lock:
            waiting.append(row)
        threads.append(threading.Thread(target=on_message, args=(chance.choice([0, 0, 0.001]),)))
        threads[-1].start()
        if chance.random() < 0.3:
            time.sleep(chance.choice([0, 0.0005, 0.002]))
    for thread in threads:
        thread.join()
    assert sorted(served) == list(range(60))
    assert most_busy <= len(slots)


def test_word_that_is_left_makes_the_holder_look_again() -> None:
    slots = Slots([Slot()])
    slot = slots.take()
    assert slot is not None
    assert [slots.take() for _ in range(5)] == [None] * 5
    assert slots.give_back(slot) is True
    assert slots.take() is slot
    assert slots.give_back(slot) is False, "five messages are answered by one look"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["0", "1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ["0", "1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "5,7"}, ["0", "1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["1"]),
        ({"CUDA_VISIBLE_DEVICES": "3, 1,3"}, ["3", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["1"]),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        (
            {"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c,MIG-GPU-8932f937/1/2", "NVIDIA_VISIBLE_DEVICES": "all"},
            ["GPU-8932f937-d72c", "MIG-GPU-8932f937/1/2"],
        ),
    ],
)
def test_devices_are_found_without_cuda(environment: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps", "nvme0"):
        (tmp_path / name).touch()
    assert cuda_devices(environment, tmp_path) == expected


def test_slots_are_dealt_to_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def dealt(**settings: object) -> list[str | None]:
        return [slot.cuda_device for slot in job_slots(Settings.model_validate(settings))]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert dealt() == [None]
    assert dealt(worker_slots=3) == [None] * 3
    assert dealt(worker_device="cuda") == ["0", "1"]
    assert dealt(worker_device="cuda", worker_slots=1) == ["0"]
    assert dealt(worker_device="cuda", worker_slots=3, gpu_memory_fraction=0.5) == ["0", "1", "0"]
    with pytest.raises(NoDevice, match=r"ESPALIER_GPU_MEMORY_FRACTION to 0\.5 or less"):
        dealt(worker_device="cuda", worker_slots=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NoDevice, match="nvidia-smi"):
        dealt(worker_device="cuda")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"gpu_memory_fraction": 0}, {"gpu_memory_fraction": 1.1}, {"worker_slots": 0}, {"worker_device": "tpu"}),
        *({"worker_pool": INTAKE}, {"default_pool": INTAKE}),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)
