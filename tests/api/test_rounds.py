"""What each round of a job shows, beside the dense network."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from starlette.testclient import TestClient

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]


def test_a_round_has_every_promised_field(client: TestClient, job_id: str, bench: Any) -> None:
    page = client.get(f"/v1/jobs/{job_id}/rounds").json()
    assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", False, None)
    promised = {
        "number", "sparsity", "num_parameters", "num_nonzero", "num_parameters_total", "num_nonzero_total", "layers",
        "metrics", "early_stopping", "delta", "size_bytes", "macs", "latency_ms", "seconds", "pareto", "artifacts",
    }  # fmt: skip
    for round_ in page["data"]:
        assert promised <= round_.keys()
        assert round_["object"] == "round"
    assert [round_["number"] for round_ in page["data"]] == [0, 1, 2, 3, None]
    assert [round_["final"] for round_ in page["data"]] == [False] * 4 + [True]
    assert [round_["selected"] for round_ in page["data"]] == [False, False, True, False, False]
    second = page["data"][1]
    assert second["metrics"]["validation"] == {"accuracy": 0.95, "loss": pytest.approx(0.05)}
    assert second["delta"]["validation"] == {"accuracy": pytest.approx(0.05), "loss": pytest.approx(-0.05)}
    assert second["latency_ms"]["conditions"] == {"threads": 1}
    assert page["data"][0]["delta"]["train"] == {"accuracy": 0, "loss": 0}
    assert page["data"][4]["delta"] == {}
    # An untrained entry has no accuracy to stand for; round 3 is as sparse as round 2 and worse; round 1 beats 0.
    assert [round_["pareto"] for round_ in page["data"]] == [False, True, True, False, False]


def test_further_fields_of_a_report_are_passed_on(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    bench.store_round(bench.claim(), 0, 0.9, 0.0, num_units=40, num_units_kept=32, object="odd", pareto="odd")
    [round_] = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert (round_["num_units"], round_["num_units_kept"]) == (40, 32)
    assert (round_["object"], round_["pareto"]) == ("round", True)


def test_where_there_is_no_accuracy_the_front_is_of_the_loss(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id, job = posted()["id"], bench.claim()
    for position, (loss, sparsity) in enumerate([(0.3, 0.0), (0.2, 0.2), (0.25, 0.36), (0.3, 0.3)]):
        measured = {"validation": {"loss": loss, "mae": loss, "r2": 1 - loss}}
        bench.store_round(job, position, None, sparsity, metrics=measured)
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert [round_["pareto"] for round_ in rounds] == [False, True, True, False]
    assert rounds[1]["delta"]["validation"] == {
        name: pytest.approx(d) for name, d in {"loss": -0.1, "mae": -0.1, "r2": 0.1}.items()
    }


def test_a_report_is_the_job_and_its_rounds_in_one(client: TestClient, job_id: str, refused: Refused) -> None:
    report = client.get(f"/v1/jobs/{job_id}/report").json()
    assert report["object"] == "report"
    assert report["job"] == client.get(f"/v1/jobs/{job_id}").json()
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert report["rounds"] == rounds
    assert (report["dense"], report["selected"]) == (rounds[0], rounds[2])
    for position, round_ in enumerate(rounds):
        contents = {kind: f"{kind} {position}".encode() for kind in ("masks", "model", "sparse")}
        proof = {kind: sha256(content).hexdigest() for kind, content in contents.items()}
        assert round_["digests"] == proof, "the masks, too, which this job does not offer"
    assert report["steps"] == sum(round_["steps"] for round_ in rounds) > 0
    assert report["seconds"] == {
        phase: pytest.approx(sum(round_["seconds"].get(phase, 0) for round_ in rounds))
        for phase in rounds[0]["seconds"]
    }
    assert "multiply-add" in report["conventions"]["macs"]
    refused(client.get("/v1/jobs/job_none/report"), 404, "not_found")


def test_a_report_of_nothing_yet(client: TestClient, posted: Posted) -> None:
    report = client.get(f"/v1/jobs/{posted()['id']}/report").json()
    assert (report["dense"], report["selected"], report["rounds"], report["steps"]) == (None, None, [], 0)


def test_one_round(client: TestClient, job_id: str, refused: Refused) -> None:
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    for name, round_ in zip(("0", "1", "2", "3", "final"), rounds, strict=True):
        assert client.get(f"/v1/jobs/{job_id}/rounds/{name}").json() == round_
    for name in ("4", "-1", "null", "None", "01"):
        refused(client.get(f"/v1/jobs/{job_id}/rounds/{name}"), 404, "not_found")


def test_no_rounds_yet(client: TestClient, posted: Posted, refused: Refused) -> None:
    job_id = posted()["id"]
    assert client.get(f"/v1/jobs/{job_id}/rounds").json()["data"] == []
    assert client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []
    refused(client.get(f"/v1/jobs/{job_id}/rounds/0"), 404, "not_found")
