"""What a training process says of the machine it runs on, and of running out; without a device of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from fleet import Fleet

from worker import machine
from worker.children import ENVIRONMENT

CPU = torch.device("cpu")


def test_the_class_of_machine_tells_what_decides_the_bits() -> None:
    found = machine.determinism_class(machine.start_device(None, 0.95))
    assert found["device"] == "cpu"
    assert {"model", "capability", "threads", "compiled", "torch"} <= found.keys()
    assert all(len(value) <= 200 for value in found.values() if isinstance(value, str))
    machine.try_out(CPU)


def test_errors_of_the_user_are_told_from_ours() -> None:
    """In torch's own words: the CPU's allocator, CUDA's, and the check for determinism."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    code, message = machine.explain(caught.value, CPU, 6 << 30) or ("", "")
    assert code == "out_of_memory"
    assert "6144 MiB of address space" in message
    assert "ESPALIER_CHILD_MEMORY_BYTES" in message
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) + torch.ones(3)
    assert machine.explain(shapes.value, CPU, 1) is None
    words = "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set ..."
    code, message = machine.explain(RuntimeError(words), torch.device("cuda", 0), 1) or ("", "")
    assert code == "nondeterministic_operator"
    assert message.startswith("adaptive_avg_pool2d_backward_cuda has no deterministic kernel on cuda")
    words = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported ..."
    code, message = machine.explain(RuntimeError(words), torch.device("cuda", 0), 1) or ("", "")
    assert code == "dataset_mismatch"
    assert "out of bounds on cuda; most likely the dataset's inputs" in message


def test_the_nursery_has_asked_cuda_nothing() -> None:
    """What CUDA_VISIBLE_DEVICES is when CUDA is first asked for devices stands for good; a child learns it later."""
    program = (
        "import torch; asked = []; "
        "[setattr(torch.cuda, name, lambda *_, name=name: asked.append(name)) for name in "
        "('device_count', 'is_available', '_lazy_init', '_device_count_nvml')]; "
        "import worker.runner; worker.runner.prepare(); "
        "assert asked == [], asked"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True, env=ENVIRONMENT)


def test_a_worker_whose_device_does_not_train_does_not_start(fleet: Fleet) -> None:
    """It would fail job after job. No machine has a device of this name."""
    environment = {
        **os.environ,
        "ESPALIER_DATA_DIR": str(fleet.settings.data_dir),
        "ESPALIER_BROKER_URL": fleet.settings.broker_url,
        "ESPALIER_WORKER_DEVICE": "cuda",
        "CUDA_VISIBLE_DEVICES": "GPU-00000000-0000-0000-0000-000000000000",
    }
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.tasks", "worker", "--pool", "threads"],
        env=environment,
        cwd=fleet.settings.data_dir,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert "CUDA device GPU-00000000-0000-0000-0000-000000000000 cannot be used" in done.stderr
    assert "Error" in done.stderr, "with the reason"
