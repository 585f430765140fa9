"""Each family in a process of its own, with a limit on its time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from typing import Any

from zoo.packages import OFFLINE

_SWITCHES = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def try_family(name: str, most_seconds: float, most_gib: float, quick: bool = False) -> dict[str, Any]:
    """What the trial found, or why it did not come to its end."""
    limit = int(most_gib * (1 << 30))

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "zoo.trial", name, folder, *["quick"] * quick],
                env=os.environ | OFFLINE | _SWITCHES,
                capture_output=True,
                text=True,
                timeout=most_seconds,
                preexec_fn=confine,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"family": name, "failed": {"all": f"took more than {most_seconds:g} s"}}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
    return {"family": name, "failed": {"all": f"ended with {ended.returncode}: {last}"}}
