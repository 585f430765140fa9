"""`make bench`: the measured claims, told with their targets. It never fails for time.

python -m benchmarks [--turns 3] [--large] [--open-lth PATH]
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch

from benchmarks import api_speed, round_cache, scores, selection, steps, table_sizes, uploads, warm_start


def main() -> None:
    parser = argparse.ArgumentParser(description="the measured claims; medians of CPU time with one thread")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--large", action="store_true", help="selection over 1e8 weights (6 GB of memory) and a million jobs, too"
    )
    parser.add_argument("--open-lth", type=Path, help="a checkout of facebookresearch/open_lth, to compare with")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}; CPU time, one thread")
    started = time.monotonic()
    say(selection.report(10_000_000, given.turns))
    if given.large:
        say(selection.report(100_000_000, min(given.turns, 3)))
    say(steps.report(4 * given.turns, given.open_lth))
    say(scores.report(given.turns))
    say(warm_start.report(5 * given.turns))
    say(round_cache.report(given.turns))
    say(uploads.report(256 << 20, given.turns))
    say(api_speed.report(1000, 3 * given.turns))
    say(table_sizes.report([1_000, 1_000_000 if given.large else 100_000], 15))
    print(f"\n{time.monotonic() - started:.0f} s")


def say(lines: list[str]) -> None:
    print("", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
