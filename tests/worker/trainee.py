"""Trains a few steps and prints the digest of what came out: `trainee.py FOLDER free,locked,cuda UID THREADS`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path

import inmate
import numpy as np
import torch
from torch import nn

from pruning.formats.datasets import read_dataset
from pruning.formats.results import read_masks, write_masks, write_sparse, write_state
from pruning.formats.weights import read_state_dict
from worker import runner, sandbox


def train(folder: Path) -> str:
    dataset = read_dataset(folder / "in" / "dataset", "npz")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(dataset.train.inputs), dataset.train.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state, masks = model.state_dict(), {"4.weight": model[4].weight.detach() > 0}
    out = folder / "out"
    write_state(out / "model", state)
    write_masks(out / "masks", masks)
    write_sparse(out / "sparse", state, masks)
    assert read_state_dict(out / "model").keys() == state.keys()
    assert read_masks(out / "masks").keys() == masks.keys()
    return hashlib.sha256(b"".join((out / name).read_bytes() for name in ("model", "masks", "sparse"))).hexdigest()


def dataset() -> bytes:
    generator, file = np.random.default_rng(0), io.BytesIO()
    inputs = generator.standard_normal((512, 1, 8, 8)).astype("float32")
    np.savez_compressed(file, **{"train.inputs": inputs, "train.targets": np.arange(512) % 10})
    return file.getvalue()


def main(folder: Path, mode: str, uid: int, threads: int) -> dict[str, object]:
    if uid != os.getuid():
        # An interpreter in a home that others may not enter: what is imported late must have been imported before.
        train(folder)
        clear(folder / "out")
    inmate.become(uid)
    lock_ms = 0.0
    if mode != "free":
        sandbox.limit(6 << 30, 1 << 30, mode == "cuda")
        started = time.perf_counter()
        sandbox.lock(folder, mode == "cuda")
        lock_ms = 1000 * (time.perf_counter() - started)
    torch.set_num_threads(threads)
    return {"digest": train(folder), "lock_ms": lock_ms}


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    runner.prepare()
    for mode in sys.argv[2].split(","):  # each in a process of its own, forked as the nursery forks
        if os.fork() == 0:
            print(json.dumps(main(folder, mode, int(sys.argv[3]), int(sys.argv[4]))), flush=True)
            os._exit(0)
        if os.wait()[1] != 0:
            sys.exit(1)
        clear(folder / "out")
