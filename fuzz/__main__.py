"""`make fuzz`: every reader for its share of the time, again with another seed after each finding; then what was found.

python -m fuzz --minutes 60 --seed 1 --keep FOLDER
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARES = {"program": 0.6, "npz": 0.15, "safetensors": 0.15, "weights": 0.1}
"""Of the time. A program has by far the most places where it can be wrong."""


def main() -> int:
    options = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--reader", choices=SHARES, help="this one alone")
    options.add_argument("--keep", type=Path, help="a folder for the corpus and the findings; it is gone on with")
    given = options.parse_args()
    shares = {given.reader: 1.0} if given.reader else SHARES
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        for reader, share in shares.items():
            runs, endings = _run(reader, folder, 60 * given.minutes * share, given.seed)
            print(f"{reader}: {runs} files read, {len(endings)} findings", flush=True)
            for ending in endings:
                print(ending, flush=True)
        found = sorted(folder.glob("*/found/*"))
        if found and given.keep is None:
            print("give --keep FOLDER to have the files")
    return 1 if found else 0


def _run(reader: str, folder: Path, seconds: float, seed: int) -> tuple[int, list[str]]:
    """(files read, what libFuzzer said at the end of each process that found something)."""
    until, runs, endings = time.monotonic() + seconds, 0, []
    while (left := int(until - time.monotonic())) > 0:
        command = [sys.executable, "-m", "fuzz.one", reader, str(folder), str(left), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stdout + done.stderr
        runs += sum(map(int, re.findall(r"number_of_executed_units: (\d+)", said)))
        if done.returncode:
            endings.append("\n".join(said.splitlines()[-40:]))
            if "number_of_executed_units" not in said:
                break  # it did not even begin: the same again would tell no more
        seed += 1000
    return runs, endings


if __name__ == "__main__":
    sys.exit(main())
