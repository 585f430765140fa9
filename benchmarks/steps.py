"""The lottery ticket's training step: ours against a plain loop and against open_lth; what keeping masks costs."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.measure import Target, child, ratio

STEPS_A_TURN = 200
TARGETS = {"plain": Target(least=2), "open_lth": Target(least=4.5), "masks": Target(most=1.03)}


def report(turns: int, open_lth: Path | None) -> list[str]:
    times = measure(["ours", "ours, dense", "plain", *(["open_lth"] if open_lth else [])], turns, open_lth)
    lines = [
        f"Training step, LeNet-300-100, batch 60, Adam, a fifth of the weights kept; {turns} turns of {STEPS_A_TURN}"
    ]
    for way, seconds in times.items():
        median, least = (1000 * f(seconds) / STEPS_A_TURN for f in (statistics.median, min))
        lines.append(f"  {way:<24} {median:8.3f} ms   least {least:.3f} ms   {ratio(times, way, 'ours'):5.2f} x ours")
    for way in ("plain", "open_lth"):
        if way in times:
            found = ratio(times, way, "ours")
            lines.append(f"    ours is {found:.2f} x cheaper than {way}: {TARGETS[way].verdict(found)}")
    masks = ratio(times, "ours", "ours, dense")
    lines.append(f"    with masks {masks:.3f} x the step without: {TARGETS['masks'].verdict(masks)}")
    if open_lth is None:
        lines.append("    SKIPPED: open_lth; give --open-lth PATH, a checkout of facebookresearch/open_lth")
    return lines


def measure(ways: list[str], turns: int, open_lth: Path | None) -> dict[str, list[float]]:
    """CPU seconds of `STEPS_A_TURN` steps of each way, in turn, after a turn that does not count."""
    before = {"open_lth": [open_lth]} if open_lth else {}
    processes = {way: child("benchmarks.ways", way, STEPS_A_TURN, before=before.get(way, [])) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for turn in range(turns + 1):
            for way, process in processes.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                said = process.stdout.readline()
                if not said:
                    raise SystemExit(f"{way} ended; its error is above")
                if turn:
                    times[way].append(float(said))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return times
