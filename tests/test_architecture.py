"""What the structure promises, beside the import contract (which `make check` runs)."""

from __future__ import annotations

import subprocess

import pytest


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("api.app", {"torch", "numpy", "worker", "celery.bin"}),
        ("store.jobs, store.queue", {"torch", "fastapi", "pruning"}),
        ("worker.supervisor", {"torch", "fastapi", "api"}),
        ("worker.sweeper", {"torch", "numpy", "fastapi", "api"}),
        ("migrations", {"torch", "numpy", "fastapi", "api", "pruning"}),
        ("pruning.recipe, pruning.strategies, pruning.schedules, pruning.selection", {"torch", "sqlalchemy"}),
        ("pruning.recommending, pruning.comparing", {"torch", "sqlalchemy"}),
    ],
)
def test_importing_one_part_leaves_others_out(python: str, imported: str, unwanted: set[str]) -> None:
    program = f"import sys, {imported}; print(*sys.modules)"
    loaded = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert imported.split(",")[0] in loaded
    assert unwanted.isdisjoint(loaded)
