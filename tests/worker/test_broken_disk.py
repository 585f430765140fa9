"""A blob folder that nobody can write to: a worker says so and ends, a sweeper goes on with what needs no disk."""

from __future__ import annotations

import pytest
from fleet import Fleet

from store.settings import Settings
from worker import tasks


def test_a_worker_without_a_blob_folder_does_not_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stayed without its supervisor would take messages and do nothing."""
    settings.blob_dir.mkdir(parents=True)
    (settings.blob_dir / "incoming").touch()
    monkeypatch.setattr(tasks, "settings", settings)
    with pytest.raises(SystemExit, match="FileExistsError"):
        tasks._open()
    assert tasks._supervisor is None


def test_a_sweeper_goes_on_without_a_blob_folder(fleet: Fleet) -> None:
    """Leases run out on a day when a disk is broken, too."""
    sweeper = fleet.start("sweeper")
    fleet.wait(lambda: (fleet.settings.data_dir / "swept").exists(), bool)
    incoming = fleet.settings.blob_dir / "incoming"
    incoming.rmdir()
    incoming.touch()
    fleet.wait(lambda: fleet.log("sweeper"), lambda log: log.count("Not a directory") > 1)
    assert sweeper.poll() is None
