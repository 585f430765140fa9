"""How things are measured here.

CPU time is user plus system time of the process with one thread: on a machine that others use too, it says more than
the clock. Ways that are compared take turns within one run, and what is told is the median, of times and of the ratios
of each turn. Extra memory is what a child process's resident peak (VmHWM, set back after the weights are made) rises
to: what was there before does not count, masks that come out do.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Times = Mapping[str, Sequence[float]]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Target:
    """What was promised of a figure. It is told, never enforced: a busy machine is no failure."""

    least: float | None = None
    most: float | None = None

    def verdict(self, measured: float) -> str:
        wanted = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        met = measured >= self.least if self.least is not None else measured <= (self.most or 0)
        return f"{'met' if met else 'MISSED'} ({wanted})"


def cpu_seconds() -> float:
    return time.process_time()


def take_turns(ways: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each way, turn by turn, after one turn that does not count. A way returns its own measure."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, measure in ways.items():
            seconds = measure()
            if turn:
                times[name].append(seconds)
    return times


def ratio(times: Times, way: str, base: str) -> float:
    """The median of way / base over the turns."""
    return statistics.median(a / b for a, b in zip(times[way], times[base], strict=True))


def child(module: str, *arguments: object, before: Sequence[Path] = ()) -> subprocess.Popen[str]:
    """`python -m module arguments`, with one thread; `before` goes before this repository on its path."""
    path = os.pathsep.join(map(str, (*before, ROOT)))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def output_of(module: str, *arguments: object) -> str:
    with child(module, *arguments) as process:
        out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{module} {' '.join(map(str, arguments))} failed")
    return out


def reset_peak() -> int:
    """Sets the process's resident peak back to what is resident now, and returns it in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
