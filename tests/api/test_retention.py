"""What goes when a job has ended, and what stays: rounds that are kept, expiry, deletion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from starlette.testclient import TestClient

from api.app import create_app
from store import collection
from store.blobs import BlobStore
from store.database import Database
from store.settings import Settings
from store.sweeps import expire_leases
from store.tables import Artifact, Attempt, Base, Blob, Event, Job, Round
from worker.retention import drop_artifacts

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]

# accuracy, sparsity: 1 beats 0; 2 is sparser; 3 is as sparse as 2 and worse; 4 is the sparsest.
ROUNDS = [(0.9, 0.0), (0.95, 0.2), (0.85, 0.4), (0.8, 0.4), (0.3, 0.8)]
DAY = 24 * 3600


@pytest.fixture
def swept(database: Database) -> Callable[[], int]:
    def sweep() -> int:
        with database.transaction() as session:
            return drop_artifacts(session)

    return sweep


def offered(client: TestClient, job_id: str) -> list[int | str]:
    """Rounds that have artifacts."""
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert len(rounds) == 6
    assert all(round_["macs"] for round_ in rounds)
    assert rounds[1]["metrics"]["validation"]["accuracy"] == 0.95
    return ["final" if r["final"] else r["number"] for r in rounds if r["artifacts"]]


def past(database: Database, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(update(Job).values(expires_at=Job.expires_at - seconds, sweep_at=Job.sweep_at - seconds))


@pytest.mark.parametrize(
    ("keep_rounds", "kept"),
    [("all", [0, 1, 2, 3, 4, "final"]), ("pareto", [1, 2, 3, 4, "final"]), ("selected", [3, "final"])],
)
def test_rounds_that_are_not_kept_lose_their_artifacts_at_the_end(
    client: TestClient, posted: Posted, bench: Any, swept: Callable[[], int], keep_rounds: str, kept: list[int | str]
) -> None:
    """All are there as long as it runs: a resume may need them."""
    posted_job = posted(keep_rounds=keep_rounds, artifacts=["model"])
    assert posted_job["keep_rounds"] == keep_rounds
    path = f"/v1/jobs/{posted_job['id']}"
    job = bench.claim()
    for position, (accuracy, sparsity) in enumerate(ROUNDS):
        bench.store_round(job, position, accuracy, sparsity)
    bench.store_round(job, 5, None, 0.9, final=True)
    swept()
    assert offered(client, posted_job["id"]) == [0, 1, 2, 3, 4, "final"]
    bench.complete(job, 3)
    before = client.get(path)
    assert swept() == 3 * (6 - len(kept)), "masks and sparse go, too"
    assert swept() == 0
    assert offered(client, posted_job["id"]) == kept
    front = [r["number"] for r in client.get(f"{path}/rounds").json()["data"] if r["pareto"]]
    assert front == [1, 2, 4]
    after = client.get(path)
    assert (after.headers["etag"] == before.headers["etag"]) == (keep_rounds == "all")
    assert after.json()["expires_at"] is None
    told = [e["data"] for e in client.get(f"{path}/events").json()["data"] if e["type"] == "artifacts.dropped"]
    if keep_rounds != "all":
        assert told == [{"reason": f"keep_rounds: {keep_rounds}", "count": 3 * (6 - len(kept))}]


def test_a_job_that_selected_nothing_keeps_its_completed_rounds(
    client: TestClient, posted: Posted, bench: Any, swept: Callable[[], int]
) -> None:
    job_id = posted(keep_rounds="selected")["id"]
    bench.store_round(bench.claim(), 0, 0.9, 0.0)
    client.post(f"/v1/jobs/{job_id}/cancel")
    with bench.database.transaction() as session:
        session.execute(text("update jobs set lease_until = 1"))
    with bench.database.transaction() as session:
        expire_leases(session)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
    assert swept() == 0
    assert len(client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]) == 2


def test_artifacts_expire_and_all_else_stays(
    client: TestClient,
    posted: Posted,
    bench: Any,
    database: Database,
    blobs: BlobStore,
    refused: Refused,
    swept: Callable[[], int],
) -> None:
    job_id = posted(expires_in_seconds=DAY, keep_rounds="pareto", artifacts=["model"])["id"]
    path = f"/v1/jobs/{job_id}"
    job = bench.claim()
    for position, (accuracy, sparsity) in enumerate(ROUNDS):
        bench.store_round(job, position, accuracy, sparsity)
    bench.store_round(job, 5, None, 0.9, final=True)
    assert client.get(path).json()["expires_at"] is None, "it counts from the end"
    bench.complete(job, 4)
    ended = client.get(path).json()
    assert ended["expires_in_seconds"] == DAY
    assert ended["expires_at"] > ended["finished_at"]
    swept()
    [artifact, *_] = client.get(f"{path}/artifacts").json()["data"]
    past(database, DAY - 60)
    assert swept() == 0
    assert client.get(f"/v1/artifacts/{artifact['id']}/content").content == b"model 1"
    past(database, 120)
    assert swept() == 12
    assert swept() == 0
    assert offered(client, job_id) == []
    assert client.get(f"{path}/artifacts").json()["data"] == []
    for gone in (f"/v1/artifacts/{artifact['id']}", f"/v1/artifacts/{artifact['id']}/content"):
        assert "expires_at" in refused(client.get(gone), 404, "not_found")["detail"]
    still = client.get(path).json()
    assert {**still, "expires_at": None} == {**ended, "expires_at": None}
    assert client.get(f"{path}/report").json()["selected"]["number"] == 4
    # And so is the content, but for that of model and dataset.
    with database.transaction() as session:
        session.execute(update(Blob).values(touched_at=1.0))
    for shard in collection.SHARDS:
        collection.collect(database, blobs, shard)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Blob)) == 2
        assert session.scalars(select(Job.sweep_at)).one() is None


def test_a_service_keeps_artifacts_for_as_long_as_it_is_told(
    settings: Settings, database: Database, body: dict[str, Any]
) -> None:
    assert settings.api_key is not None
    key = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    with TestClient(create_app(settings.model_copy(update={"retention_days": 30})), headers=key) as client:
        usual, own = (client.post("/v1/jobs", json={**body, **more}) for more in ({}, {"expires_in_seconds": 60}))
    assert (usual.json()["expires_in_seconds"], own.json()["expires_in_seconds"]) == (30 * DAY, 60)


def test_a_job_is_deleted_once_it_has_ended(
    client: TestClient, posted: Posted, bench: Any, database: Database, refused: Refused, other: dict[str, str]
) -> None:
    job = posted()
    path = f"/v1/jobs/{job['id']}"
    assert refused(client.delete(path), 409, "invalid_transition")["allowed"] == ["cancel", "pause"]
    claimed = bench.claim()
    bench.store_round(claimed, 0, 0.9, 0.0)
    problem = refused(client.delete(path), 409, "invalid_transition")
    assert "cancel it first" in problem["detail"]
    refused(client.delete(f"/v1/models/{job['model']}"), 409, "in_use")
    bench.complete(claimed, 0)
    kept = posted()["id"]
    refused(client.delete(path, headers=other), 404, "not_found")
    assert client.delete(path).status_code == 204
    for method in ("GET", "DELETE"):
        refused(client.request(method, path), 404, "not_found")
    with database.reading() as session:
        for entity in (Round, Artifact, Attempt):
            assert session.scalar(select(func.count()).select_from(entity)) == 0
        assert session.scalars(select(Event.job_id)).all() == [kept]
    client.post(f"/v1/jobs/{kept}/cancel")
    assert client.delete(f"/v1/jobs/{kept}").status_code == 204
    assert client.delete(f"/v1/models/{job['model']}").status_code == 204
    assert client.delete(f"/v1/datasets/{job['dataset']}").status_code == 204


def test_what_belongs_to_a_job_goes_with_it() -> None:
    """A new table that refers to jobs says what becomes of its rows, else no job of it could be deleted."""
    jobs = Base.metadata.tables["jobs"]
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_keys:
            if key.column.table is jobs:
                assert key.ondelete in ("CASCADE", "SET NULL"), f"{table.name}.{key.parent.name}"
