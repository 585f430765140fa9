"""What a training process computes on: its device, the class of machines that compute its bits, and how it runs out."""

from __future__ import annotations

import platform
import re
import resource
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

MIB = 1 << 20
_CUDA_FULL = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


def start_device(cuda_device: str | None, memory_fraction: float) -> torch.device:
    """The CPU, or the one device that CUDA_VISIBLE_DEVICES leaves, with CUDA started on it.

    The variable must have been set before: CUDA reads it when it starts, and torch starts CUDA when it is first used,
    not when it is imported.
    """
    if cuda_device is None:
        return torch.device("cpu")
    device = torch.device("cuda", 0)
    torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
    # float32 means float32: convolutions would otherwise round their inputs to 10 bits, and differ from the CPU's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def determinism_class(device: torch.device) -> dict[str, str | int | bool]:
    """Two machines of one class compute the same bits."""
    shared: dict[str, str | int | bool] = {
        "threads": torch.get_num_threads(),
        "compiled": False,
        "torch": torch.__version__,
    }
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return {"device": "cpu", "model": _cpu_model(), "capability": capability, **shared}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": "cuda",
        "model": torch.cuda.get_device_name(device),
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
        **shared,
    }


def explain(error: BaseException, device: torch.device, memory_bytes: int) -> tuple[str, str] | None:
    """(code, message) of an error that is the user's, with the remedy; None where it is ours."""
    words = str(error)
    if device.type == "cuda" and (
        isinstance(error, torch.OutOfMemoryError) or any(full in words for full in _CUDA_FULL)
    ):
        limit = torch.cuda.get_per_process_memory_fraction(device) * torch.cuda.mem_get_info(device)[1]
        peak = torch.cuda.max_memory_allocated(device)
        return "out_of_memory", (
            f"the training process asked for more than its {limit / MIB:.0f} MiB of GPU memory (peak so far: "
            f"{peak / MIB:.0f} MiB allocated); lower training.batch_size, or use a pool whose devices have more"
        )
    if "device-side assert" in words:
        # CUDA tells no more, and in this process nothing runs on it any more. Nearly always it is an index.
        return "dataset_mismatch", (
            f"an operation found its input out of bounds on {device.type}; most likely the dataset's inputs hold a "
            "number that the model has no embedding for, or its labels one it has no output for; number both from 0, "
            "below the sizes of the model"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in words or "out of memory" in words:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        of_what = "address space" if device.type == "cpu" else "main memory"
        return "out_of_memory", (
            f"the training process asked for more than its {memory_bytes // MIB} MiB of {of_what} (peak so far: {peak} "
            "MiB resident); lower training.batch_size, or raise ESPALIER_CHILD_MEMORY_BYTES on the worker"
        )
    if operator := _NONDETERMINISTIC.search(words):
        # Not a warning: a resumed job would end with other weights, and nobody could tell.
        return "nondeterministic_operator", (
            f"{operator[1]} has no deterministic kernel on {device.type}, so two runs of it would not end alike; "
            "use a pool of CPU workers, or another layer (adaptive average pooling to 1x1 is deterministic, for one)"
        )
    return None


def try_out(device: torch.device) -> None:
    """A training step of all that networks are made of, to find out before a job does that the device cannot."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 2)
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    loss = cross_entropy(network(torch.ones(8, 1, 8, 8).to(device)), torch.zeros(8, dtype=torch.int64).to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if not bool(torch.isfinite(loss)):
        raise RuntimeError(f"a training step on {device} gave {loss.item()}")


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1][:200] if found else platform.machine()
