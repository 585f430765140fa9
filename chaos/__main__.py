"""`make chaos`: python -m chaos [--faults 200] [--seed 1] [--database sqlite|postgresql|both] [--json FILE]

Ends with 1 where a claim did not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from chaos.drill import Dialect, NotReady, Options, run


def main() -> None:
    parser = argparse.ArgumentParser(description="the real service under faults, then a check of all that it left")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--json", type=Path, help="a file for the figures of all runs")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--sweepers", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=8, help="how many are kept unfinished")
    parser.add_argument("--pace", type=float, default=1.0, help="stretches the gaps between faults")
    given = parser.parse_args()
    databases: list[Dialect] = ["sqlite", "postgresql"] if given.database == "both" else [given.database]
    runs = []
    for database in databases:
        say = partial(_say, database, time.monotonic())
        try:
            figures = run(
                Options(database, given.seed, given.faults, given.workers, given.sweepers, given.jobs, given.pace, say)
            )
        except NotReady as error:
            raise SystemExit(f"chaos on {database}: {error}") from error
        print(*figures.lines(), sep="\n", flush=True)
        runs.append(figures)
        if given.json is not None:
            given.json.write_text(json.dumps([figures.to_json() for figures in runs], indent=1) + "\n")
    sys.exit(1 if any(figures.violations for figures in runs) else 0)


def _say(database: str, since: float, line: str) -> None:
    print(f"{time.monotonic() - since:6.1f} s  {database}: {line}", flush=True)


if __name__ == "__main__":
    main()
