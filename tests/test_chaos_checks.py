"""Every check of the fault suite finds what it is there for: each is shown what a service that fails would leave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, text

from chaos.checks import CHECKS, judge
from chaos.evidence import SAME, Evidence, digests_of
from store import intake, jobs
from store.blobs import BlobStore, refer
from store.database import Database
from store.settings import Settings
from store.tables import Dataset, Job, Model
from store.transitions import Trigger


@pytest.fixture
def evidence(settings: Settings, database: Database, blobs: BlobStore, project: str) -> Evidence:
    """What is left of a job that lost one worker, of one that its user canceled, and of a model and a dataset."""
    file = blobs.put([b"a file"], 100)
    with database.transaction() as session:
        dataset = intake.add_dataset(session, project_id=project, name="d", format="npz", blob=file).id
        model = intake.add_model(session, project_id=project, name="m", format="safetensors", spec={}, blob=file).id
        for entity, row in ((Dataset, dataset), (Model, model)):
            claimed = intake.claim(session, "w", 60)
            assert claimed is not None
            assert claimed.id == row
            intake.accept(session, entity, row, claimed.attempt, {})
    job, canceled = (_submit(database, project, model, dataset, key) for key in ("one", "two"))
    with database.transaction() as session:
        jobs.order(session, project, canceled, Trigger.CANCEL)
        first = jobs.claim(session, "p", "w", 60)
    _store(database, blobs, first, 0)
    with database.transaction() as session:
        jobs.lose(session, job, 1, "it went silent")
        second = jobs.claim(session, "p", "w", 60)
    _store(database, blobs, second, 1)
    with database.transaction() as session:
        jobs.complete(session, job, 2, 1, passed=True)
    return Evidence(
        database,
        settings.blob_dir,
        settings.work_dir,
        posted={job: "a recipe", canceled: "a recipe"},
        expected={"a recipe": digests_of(database, job)},
        canceled={canceled},
        keys={job: "one", canceled: "two"},
        keys_count=True,
        uploaded={dataset: file.digest},
    )


def _submit(database: Database, project: str, model: str, dataset: str, key: str) -> str:
    columns = {"project_id": project, "model_id": model, "dataset_id": dataset, "recipe": {}, "gates": []}
    columns |= {"select": "smallest_passing", "artifacts": list(SAME), "pool": "p", "planned_rounds": 1}
    with database.transaction() as session:
        return jobs.submit(session, **columns, options={"metadata": {"post": key, "recipe": "a recipe"}}).id


def _store(database: Database, blobs: BlobStore, job: Job | None, position: int) -> None:
    assert job is not None
    stored = {kind: blobs.put([f"{kind} {position}".encode()], 100) for kind in SAME}
    with database.transaction() as session:
        for blob in stored.values():
            refer(session, blob)
        artifacts = [jobs.NewArtifact(kind, "f", "n", blob) for kind, blob in stored.items()]
        entry = {"position": position, "number": position, "sparsity": 0.0, "report": {}, "artifacts": artifacts}
        jobs.record_round(session, job, **entry, lease_seconds=60)


def test_nothing_is_wrong_with_what_is_right(evidence: Evidence) -> None:
    assert {claim: wrong for claim, wrong in judge(evidence).items() if wrong} == {}


ONE = "(SELECT id FROM jobs WHERE attempt = 2)"
TWO = "(SELECT id FROM jobs WHERE attempt = 0)"
EVENT = "INSERT INTO events (job_id, sequence, at, type, data)"
BLOB = "INSERT INTO blobs (digest, size_bytes, touched_at, name, suspect)"
ROWS = [
    ("no job is lost", f"DELETE FROM jobs WHERE id = {ONE}", "no such row"),
    ("no job is lost", f"UPDATE jobs SET status = 'queued' WHERE id = {ONE}", "still queued"),
    ("no upload is lost", "DELETE FROM datasets", "no such row"),
    ("no upload is lost", "UPDATE datasets SET blob_digest = (SELECT max(digest) FROM blobs)", "was told to be"),
    ("no upload is lost", "UPDATE models SET status = 'validating'", "not validated"),
    ("no upload is lost", "UPDATE models SET status = 'invalid'", "was found invalid"),
    ("each job ends once", f"{EVENT} SELECT id, num_events + 1, 0, 'job.succeeded', '{{}}' FROM jobs", "is succeeded"),
    ("each job ends once", f"DELETE FROM events WHERE job_id = {ONE} AND sequence = 1", "7 events, numbered"),
    ("each job ends once", f"UPDATE jobs SET status = 'failed' WHERE id = {ONE}", "is failed"),
    ("each job ends once", "UPDATE jobs SET conclusion = NULL", "neither a time nor a conclusion"),
    ("no stale write is accepted", "UPDATE rounds SET attempt = 1 WHERE position = 1", "2 held the job"),
    ("no stale write is accepted", "DELETE FROM rounds WHERE position = 0", "after position -1"),
    ("no stale write is accepted", "UPDATE jobs SET last_position = 5", "last position 5"),
    ("no stale write is accepted", "DELETE FROM events WHERE type = 'job.queued' AND sequence > 1", "held by 1"),
    ("no stale write is accepted", "DELETE FROM events WHERE type = 'job.running'", "None held the job"),
    ("no stale write is accepted", "UPDATE events SET type = 'job.pausing' WHERE sequence = 1", "nobody to obey"),
    ("no stale write is accepted", f"UPDATE jobs SET attempt = 3 WHERE id = {ONE}", "told up to 2"),
    ("attempts are closed", "UPDATE attempts SET ended_at = NULL WHERE number = 2", "never ended"),
    ("attempts are closed", "UPDATE attempts SET started_at = 1 WHERE number = 2", "began before"),
    ("attempts are closed", "DELETE FROM attempts WHERE number = 1", "there are [2]"),
    ("attempts are closed", "UPDATE jobs SET lease_until = 1", "still held"),
    ("results are the same", "UPDATE artifacts SET blob_digest = (SELECT max(digest) FROM blobs)", "digests differ"),
    ("results are the same", "DELETE FROM artifacts WHERE position = 1", "4 digests differ"),
    ("results are the same", f"UPDATE jobs SET status = 'canceled' WHERE id = {ONE}", "nobody canceled it"),
    ("results are the same", f"UPDATE jobs SET status = 'failed' WHERE id = {TWO}", "canceled by its user, failed"),
    ("rounds are whole", "DELETE FROM artifacts WHERE kind = 'masks'", "without masks"),
    ("rounds are whole", "DELETE FROM rounds WHERE position = 1", "files of no entry"),
    ("posts are stored once", "UPDATE jobs SET options = '{}'", "bears None"),
    ("references hold", f"DELETE FROM jobs WHERE id = {ONE}", "refer to none of jobs"),
    ("references hold", "DELETE FROM blobs", "refer to none of blobs"),
    ("bytes match digests", f"{BLOB} VALUES ('{'e' * 64}', 1, 0, 'e', {{false}})", "a row, no file"),
    ("bytes match digests", "UPDATE blobs SET size_bytes = 1", "another content"),
    ("no blob is without use", f"{BLOB} VALUES ('{'e' * 64}', 1, 0, 'e', {{false}})", "nothing refers to"),
    ("no blob is without use", "DELETE FROM blobs", "without a row"),
    ("no blob is without use", "INSERT INTO discarded_copies (name) VALUES ('e')", "never removed"),
]


@pytest.mark.parametrize(("claim", "statement", "words"), ROWS)
def test_broken_rows_are_found(evidence: Evidence, settings: Settings, claim: str, statement: str, words: str) -> None:
    careless = Database(settings.database, foreign_keys=False)
    with careless.transaction() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys
        session.execute(text(statement.replace("{false}", "false").replace(":", r"\:")))
    careless.close()
    assert any(words in wrong for wrong in CHECKS[claim](evidence))


def spoil(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().upper())


def some_blob(evidence: Evidence) -> Path:
    return min(evidence.blob_dir.glob("??/*"))


REST: list[tuple[str, Callable[[Evidence], object]]] = [
    ("bytes match digests", lambda evidence: spoil(some_blob(evidence))),
    ("bytes match digests", lambda evidence: some_blob(evidence).unlink()),
    ("no folder is left", lambda evidence: (evidence.work_dir / "job_1-1").mkdir(parents=True)),
    ("posts are stored once", lambda evidence: evidence.keys.update({min(evidence.keys): "another"})),
    ("nothing was refused", lambda evidence: evidence.refused.append("422")),
    ("no process is left", lambda evidence: evidence.strays.append("17: python")),
    ("no blob is without use", lambda evidence: (some_blob(evidence).parent / ("e" * 64)).touch()),
]


@pytest.mark.parametrize(("claim", "spoils"), REST)
def test_other_damage_is_found(evidence: Evidence, claim: str, spoils: Callable[[Evidence], object]) -> None:
    check = CHECKS[claim]
    assert check(evidence) == []
    spoils(evidence)
    assert check(evidence) != []


def test_a_post_that_is_stored_twice_is_found(evidence: Evidence, project: str) -> None:
    with evidence.database.reading() as session:
        model, dataset = session.scalars(select(Model.id)).one(), session.scalars(select(Dataset.id)).one()
    again = _submit(evidence.database, project, model, dataset, "one")
    assert CHECKS["posts are stored once"](evidence) == ["one: stored 2 times"]
    assert CHECKS["no job is lost"](evidence) == [f"{again}: still queued"]
    evidence.keys_count = False
    assert CHECKS["posts are stored once"](evidence) == []


def test_each_check_is_shown_something_that_it_finds() -> None:
    assert {claim for claim, *_ in (*ROWS, *REST)} == set(CHECKS)


def test_a_process_whose_parent_died_is_found(python: str) -> None:
    program = """
import subprocess, sys, chaos.fleet, chaos.processes as p
p.adopt_orphans()
known = subprocess.Popen(["sleep", "60"])
subprocess.run(["sh", "-c", "sleep 60 & sleep 60 &"])
found = chaos.fleet.strays({known.pid}, 0.2)
print(*(p.command_of(pid) for pid in found), sep=",")
for pid in (known.pid, *found):
    p.kill(pid)
"""
    found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "sleep 60,sleep 60"
