"""Statements of provenance: what they say, and that only the service's key makes them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from espalier import NotVerified, verify
from espalier.cli import main
from pydantic import SecretStr
from starlette.testclient import TestClient

from api.statements import SigningKey, canonical_json
from store import jobs, retention
from store.blobs import refer
from store.settings import Settings
from store.tables import Dataset, Job, Model

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]


def statement_in(envelope: dict[str, Any]) -> dict[str, Any]:
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return statement


def artifact_of(client: TestClient, job_id: str, round_: Any, kind: str) -> dict[str, Any]:
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    [artifact] = [a for a in artifacts if (a["round"], a["kind"]) == (round_, kind)]
    found: dict[str, Any] = artifact
    return found


def test_it_says_where_an_artifact_comes_from(client: TestClient, posted: Posted, bench: Any) -> None:
    document = posted(artifacts=["model", "program"])
    job_id, determinism = document["id"], {"device": "cpu", "torch": "2.13.0"}
    job = bench.claim()
    with bench.database.transaction() as session:
        jobs.record_determinism(session, job_id, job.attempt, determinism)
    for position in range(2):
        bench.store_round(job, position, 0.9, 0.2 * position)
    program = bench.blobs.put([b"program"], 100)
    with bench.database.transaction() as session:
        refer(session, program)
        jobs.attach(session, job, 1, jobs.NewArtifact("program", "exported_program", "model.pt2", program))
        model = session.get_one(Model, document["model"]).blob_digest
        dataset = session.get_one(Dataset, document["dataset"]).blob_digest
    contents = [f"{kind} {position}" for kind in ("model", "masks") for position in (0, 1)]
    digests = {content: hashlib.sha256(content.encode()).hexdigest() for content in contents}
    recipe = hashlib.sha256(canonical_json(document["recipe"])).hexdigest()
    inputs = [("model", model), ("dataset", dataset), ("recipe", recipe)]
    before = [("previous round: model", digests["model 0"]), ("previous round: masks", digests["masks 0"])]
    this = [("this round: model", digests["model 1"]), ("this round: masks", digests["masks 1"])]
    for round_, kind, parents in [(0, "model", []), (1, "model", before), (1, "program", before + this)]:
        artifact = artifact_of(client, job_id, round_, kind)
        envelope = client.get(f"/v1/artifacts/{artifact['id']}/provenance").json()
        assert envelope["payloadType"] == "application/vnd.in-toto+json"
        statement = statement_in(envelope)
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
        assert statement["subject"] == [{"name": artifact["filename"], "digest": {"sha256": artifact["sha256"]}}]
        definition, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
        assert definition["externalParameters"]["recipe"] == document["recipe"]
        assert definition["internalParameters"]["determinism"] == determinism
        found = [(d["name"], d["digest"]["sha256"]) for d in definition["resolvedDependencies"]]
        assert found == inputs + parents
        assert run["builder"]["version"] == {"espalier": "0.1.0"}
        assert run["metadata"]["invocationId"] == f"urn:espalier:{job_id}:attempt:1"


def test_each_round_tells_the_class_of_machine_of_its_own_attempt(
    client: TestClient, posted: Posted, bench: Any
) -> None:
    job_id = posted()["id"]
    for attempt in (1, 2):
        job = bench.claim()
        with bench.database.transaction() as session:
            jobs.record_determinism(session, job_id, attempt, {"threads": attempt})
        bench.store_round(job, attempt - 1, 0.9, 0.0)
        with bench.database.transaction() as session:
            jobs.lose(session, job_id, attempt, "gone")
    for round_ in (0, 1):
        artifact = artifact_of(client, job_id, round_, "model")
        statement = statement_in(client.get(f"/v1/artifacts/{artifact['id']}/provenance").json())
        said = statement["predicate"]["buildDefinition"]["internalParameters"]["determinism"]
        assert said == {"threads": round_ + 1}


def test_it_stays_the_same_when_the_round_before_is_dropped(client: TestClient, job_id: str, bench: Any) -> None:
    artifact = artifact_of(client, job_id, 2, "model")
    before = client.get(f"/v1/artifacts/{artifact['id']}/provenance").content
    with bench.database.transaction() as session:
        retention.drop(session, session.get_one(Job, job_id), [0, 1], "kept: selected")
    assert client.get(f"/v1/artifacts/{artifact['id']}/provenance").content == before


@pytest.fixture
def downloaded(client: TestClient, job_id: str, tmp_path: Path) -> dict[str, Path]:
    """Files as a user keeps them: file, statement, key; and another artifact of the job with its statement."""
    paths = {}
    for name, round_ in (("", 2), ("other_", 3)):
        artifact = artifact_of(client, job_id, round_, "model")
        for part, path in (("file", "content"), ("statement", "provenance")):
            paths[name + part] = tmp_path / (name + part)
            paths[name + part].write_bytes(client.get(f"/v1/artifacts/{artifact['id']}/{path}").content)
    del client.headers["Authorization"]
    paths["key"] = tmp_path / "key.pem"
    paths["key"].write_bytes(client.get("/.well-known/espalier-key").content)
    return paths


def run(paths: dict[str, Path]) -> int:
    return main(["verify", str(paths["file"]), "--statement", str(paths["statement"]), "--key", str(paths["key"])])


def test_what_was_downloaded_is_verified_offline(
    downloaded: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = verify(downloaded["file"], downloaded["statement"], downloaded["key"])
    assert said["subject"][0]["digest"]["sha256"] == hashlib.sha256(b"model 2").hexdigest()
    as_read = json.loads(downloaded["statement"].read_bytes()), downloaded["key"].read_bytes()
    assert verify(str(downloaded["file"]), *as_read) == said
    assert run(downloaded) == 0
    assert "previous round: model" in capsys.readouterr().out


def other_key() -> tuple[Ed25519PrivateKey, bytes]:
    key = Ed25519PrivateKey.generate()
    return key, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_what_is_tampered_with_is_not_verified(
    downloaded: dict[str, Path], capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests, settings: Settings
) -> None:
    envelope = json.loads(downloaded["statement"].read_bytes())
    whole = {name: path.read_bytes() for name, path in downloaded.items()}
    forged = statement_in(envelope)
    forged["subject"][0]["digest"]["sha256"] = hashlib.sha256(b"evil").hexdigest()
    payload = base64.b64encode(canonical_json(forged)).decode()
    forger, their_key = other_key()
    theirs = SigningKey(forger).enveloped(forged)
    ours = SigningKey.of(settings)
    other_type = ours.enveloped(statement_in(envelope) | {"predicateType": "https://example.com/other/v1"})
    untyped = ours.enveloped({"subject": []})

    def changed(**members: Any) -> bytes:
        return json.dumps(envelope | members).encode()

    for what, files, reason in [
        ("file", {"file": b"model 3"}, "is not what the statement is about"),
        ("file that is empty", {"file": b""}, "is not what the statement is about"),
        ("wrong artifact", {"statement": whole["other_statement"]}, "is not what the statement is about"),
        ("statement", {"file": b"evil", "statement": changed(payload=payload)}, "not signed by this key"),
        ("payload type", {"statement": changed(payloadType="text/plain")}, "holds 'text/plain'"),
        ("no signature", {"statement": changed(signatures=[])}, "not signed by this key"),
        ("signature", {"statement": changed(signatures=[{"sig": "AAAA"}])}, "not signed by this key"),
        ("no base64", {"statement": changed(payload="\u00fc")}, "no DSSE envelope"),
        ("no envelope", {"statement": b"[1]"}, "no DSSE envelope"),
        ("no JSON", {"statement": b"\xff"}, "no JSON"),
        ("nested", {"statement": b"[" * 200_000}, "no JSON"),
        ("forger", {"file": b"evil", "statement": json.dumps(theirs).encode()}, "not signed by this key"),
        ("wrong key", {"key": their_key}, "not signed by this key"),
        ("no key", {"key": b"nonsense"}, "no public key"),
        ("another statement", {"statement": json.dumps(other_type).encode()}, "no provenance"),
        ("no statement", {"statement": json.dumps(untyped).encode()}, "no statement"),
    ]:
        with subtests.test(what=what):
            for name, content in {**whole, **files}.items():
                downloaded[name].write_bytes(content)
            with pytest.raises(NotVerified, match=reason):
                verify(downloaded["file"], downloaded["statement"], downloaded["key"])
            assert run(downloaded) == 1
            assert reason in capsys.readouterr().err
    for name, content in whole.items():
        downloaded[name].write_bytes(content)
    assert run(downloaded) == 0
    assert run(downloaded | {"file": Path("/nonexistent")}) == 2


def test_the_key_derives_from_the_secret(settings: Settings) -> None:
    key, again = SigningKey.of(settings), SigningKey.of(settings.model_copy())
    assert (key.public_pem, key.id) == (again.public_pem, again.id)
    assert settings.secret() not in key.public_pem
    secrets = [SecretStr(f"{n} is the secret of other machines") for n in (1, 1, 2)]
    elsewhere = [settings.model_copy(update={"secret_key": secret}) for secret in secrets]
    assert [SigningKey.of(elsewhere[0]).id == SigningKey.of(s).id for s in (*elsewhere, settings)] == [
        True, True, False, False,
    ]  # fmt: skip
