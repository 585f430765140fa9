"""Which devices this worker computes on, found without torch and without touching CUDA.

A CUDA context in this process would be one too many: it takes memory on the device, and children could not be told
which device is theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from store.settings import Settings
from worker.slots import Slot

_DEVICE_FILE = re.compile(r"nvidia(\d+)")


class NoDevice(Exception):
    """The settings ask for slots that this machine does not have; the message says what to do."""


def job_slots(settings: Settings) -> list[Slot]:
    """The worker's slots for jobs: as many as asked for, or one a CUDA device; more are dealt to the devices in turn.

    Raises:
        NoDevice: there is no CUDA device, or the slots of one would together take more than all of its memory.
    """
    if settings.worker_device == "cpu":
        return [Slot()] * (settings.worker_slots or 1)
    devices = cuda_devices(os.environ, Path("/dev"))
    if not devices:
        raise NoDevice(
            "ESPALIER_WORKER_DEVICE is cuda, but there is no /dev/nvidia0 or CUDA_VISIBLE_DEVICES leaves none; check "
            "that nvidia-smi lists a device here (in a container: that it was started with one)"
        )
    num_slots = settings.worker_slots or len(devices)
    num_on_one = -(-num_slots // len(devices))
    if num_on_one * settings.gpu_memory_fraction > 1:
        raise NoDevice(
            f"{num_slots} slots put {num_on_one} on one device, each with {settings.gpu_memory_fraction:g} of its "
            f"memory: lower ESPALIER_WORKER_SLOTS, or ESPALIER_GPU_MEMORY_FRACTION to {1 / num_on_one:.2g} or less"
        )
    return [Slot(devices[index % len(devices)]) for index in range(num_slots)]


def cuda_devices(environment: Mapping[str, str], dev: Path) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, one a device: its own entries where it is set, else 0, 1, 2, ...

    Device files are counted otherwise, those of `dev`. NVIDIA_VISIBLE_DEVICES speaks to the runtime that started this
    container and has the host's numbers: it has done its work when the files are there, except where it says none. Of
    a device that is cut into MIG instances CUDA itself takes the first; name them in CUDA_VISIBLE_DEVICES to use all.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        named = [entry.strip() for entry in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        ends = (index for index, entry in enumerate(named) if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", entry))
        return list(dict.fromkeys(named[: next(ends, len(named))]))  # CUDA, too, reads up to the first that is none
    if environment.get("NVIDIA_VISIBLE_DEVICES") in ("none", "void"):
        return []
    return [str(index) for index in range(len(device_files(dev)))]


def device_files(dev: Path) -> list[Path]:
    """/dev/nvidia0, /dev/nvidia1, ..."""
    return sorted(path for path in dev.glob("nvidia*") if _DEVICE_FILE.fullmatch(path.name))
