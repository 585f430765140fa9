"""`make chaos`, short: its command as users give it, a dozen faults of different kinds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from chaos.checks import CHECKS
from chaos.faults import KINDS
from chaos.schedule import Planned, schedule


@pytest.mark.timeout(180)
def test_a_dozen_faults_and_nothing_is_lost(python: str, tmp_path: Path) -> None:
    options = ["--faults", "12", "--seed", "3", "--database", "sqlite", "--workers", "2", "--jobs", "4"]
    command = [python, "-m", "chaos", *options, "--pace", "0.3", "--json", tmp_path / "figures.json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [figures] = json.loads((tmp_path / "figures.json").read_text())
    assert figures["checks"] == {claim: [] for claim in CHECKS}
    assert sum(figures["struck"].values()) == 12
    assert len(figures["struck"]) >= 10, "of different kinds"
    assert figures["jobs"]["succeeded"] > 4, "more than ran undisturbed"
    assert figures["attempts"] >= sum(figures["jobs"].values())


def test_a_seed_gives_one_schedule_and_decks_leave_no_kind_out() -> None:
    def first(seed: int) -> list[Planned]:
        return [planned for planned, _ in zip(schedule(seed, list(KINDS)), range(2 * len(KINDS)), strict=False)]

    assert first(1) == first(1) != first(2)
    assert sorted(planned.fault.kind for planned in first(1)) == sorted([*KINDS, *KINDS])
