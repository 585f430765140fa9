"""What the command ends with, and what it leaves on stdout and stderr: each promised code, against a real service."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from espalier import Client, Job
from espalier.cli.exits import Exit, of_conclusion

Begin = Callable[..., tuple[subprocess.Popen[str], Any]]


@pytest.fixture
def begin(espalier: Any, references: dict[str, str]) -> Begin:
    """Start `prune` in a pool of its own; (the process, the job that it has posted)."""

    def start(*arguments: str, **options: Any) -> tuple[subprocess.Popen[str], Any]:
        pool = f"pool-{secrets.token_hex(8)}"
        process = espalier.start(
            "prune", references["model"], references["dataset"], "--strategy", "lottery_ticket_reset",
            "--pool", pool, *arguments, **options,
        )  # fmt: skip
        line = process.stderr.readline()
        posted = re.fullmatch(r"posted (job_\w+)\n", line)
        assert posted, line + process.stderr.read()
        return process, {"id": posted[1], "pool": pool}

    return start


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What is left of its output, which is less than a pipe holds. (`communicate` would pass over what a `readline`
    has taken in already.)"""
    with process:
        err, out = process.stderr.read(), process.stdout.read()  # type: ignore[union-attr]
    assert "\x1b" not in out + err, "no orders to a terminal where there is none"
    assert "Traceback" not in err
    return process.returncode, out, err


def test_passed_is_0_with_the_results_in_a_folder(begin: Begin, worker: Any, tmp_path: Path) -> None:
    process, job = begin("--sparsity", "0.9", "--min-accuracy-ratio", "0.99", "--out", "results", "--output", "json")
    claimed = worker.claim(job)
    worker.store_round(claimed, 0, [b"the weights"])
    worker.complete(claimed)
    code, out, err = end(process)
    assert code == Exit.PASSED, err
    document = json.loads(out)
    assert (document["id"], document["conclusion"]) == (job["id"], "passed")
    assert (document["recipe"]["stop"]["sparsity"], document["recipe"]["stop"]["rounds"]) == (0.9, None)
    assert [(gate["metric"], gate["value"]) for gate in document["gates"]] == [
        ("sparsity", 0.895),
        ("accuracy_ratio", 0.99),
    ]
    files = {Path(file).name for file in document["files"]}
    assert (
        files
        == {"model.safetensors", "report.json", "rounds.csv", "plot.svg"}
        == {path.name for path in (tmp_path / "results").iterdir()}
    )
    assert (tmp_path / "results" / "model.safetensors").read_bytes() == b"the weights"
    assert "round 0: sparsity 0.0%, accuracy 0.9000" in err


def test_gate_failed_is_1(begin: Begin, worker: Any) -> None:
    process, job = begin("--gate", "accuracy >= 0.95")
    claimed = worker.claim(job)
    worker.store_round(claimed, 0, [b"the weights"])
    worker.complete(claimed, passed=False)
    code, out, _ = end(process)
    assert code == Exit.GATE_FAILED
    assert out == f"{job['id']}: gate_failed\nround 0: sparsity 0.0%, accuracy 0.9000 (dense 0.9000)\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("prune", "MODEL"), "Missing argument 'DATA'"),
        (("prune", "MODEL", "DATA"), "espalier strategies lists them"),
        (("prune", "MODEL", "DATA", "--strategy", "snap"), "there is no strategy 'snap'"),
        (("prune", "MODEL", "DATA", "--strategy", "snip", "--gate", "accuracy"), "accuracy >= 0.95"),
        (("prune", "MODEL", "DATA", "--strategy", "snip", "--set", "seed"), "training.steps=300"),
        (("prune", "MODEL", "DATA", "--strategy", "snip", "--sparsity", "1"), "0<x<1"),
        (("prune", "MODEL", "DATA", "--strategy", "snip", "--detach", "--out", "x"), "espalier download"),
        (("prune", "none.pt2", "DATA", "--strategy", "snip"), "no file here"),
        (("prune", "MODEL", "none.npz", "--strategy", "snip"), "no file here"),
        (("prune", "net.py:Net", "DATA", "--strategy", "snip"), "--input-shape"),
        (("prune", "MODEL", ".", "--strategy", "snip"), "espalier dataset --help"),
        (("jobs", "get", "job_none"), "404 not_found"),
        (("jobs", "retry", "QUEUED"), "this can be done: cancel, pause"),
        (("download", "QUEUED"), "has no results: it is queued"),
        (("frobnicate",), "No such command"),
        (("jobs", "get", "job_none", "--output", "yaml"), "'yaml'"),
    ],
)
def test_usage_is_2_and_says_what_to_do(
    espalier: Any, client: Client, submit: Callable[..., Job], references: dict[str, str],
    arguments: tuple[str, ...], word: str,
) -> None:  # fmt: skip
    known = {"MODEL": references["model"], "DATA": references["dataset"]}
    if "QUEUED" in arguments:
        known["QUEUED"] = submit()["id"]
    ended = espalier(*(known.get(argument, argument) for argument in arguments))
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, "")
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_failed_job_is_3_with_its_reason(begin: Begin, worker: Any) -> None:
    process, job = begin("--output", "json")
    worker.fail(worker.claim(job), "diverged", "the loss of round 1 is not finite at step 3")
    code, out, err = end(process)
    assert code == Exit.JOB_FAILED
    assert "diverged: the loss of round 1 is not finite at step 3" in err
    assert json.loads(out)["error"]["code"] == "diverged"


def test_canceled_is_4(begin: Begin, client: Client) -> None:
    process, job = begin()
    client.cancel(job["id"])
    code, out, _ = end(process)
    assert (code, out) == (Exit.CANCELED, f"{job['id']}: canceled\n")


def test_timed_out_is_4_too() -> None:
    assert of_conclusion("timed_out") == Exit.CANCELED


def test_an_interrupt_cancels_where_that_was_asked_for(begin: Begin, client: Client) -> None:
    process, job = begin("--cancel-on-interrupt")
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == Exit.CANCELED, err
    assert client.job(job["id"])["status"] == "canceled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_5_and_leaves_the_job(begin: Begin, client: Client, number: signal.Signals) -> None:
    process, job = begin()
    process.send_signal(number)
    code, out, err = end(process)
    assert (code, out) == (Exit.GAVE_UP, f"{job['id']}\n")
    assert f"{job['id']} goes on. Watch it: espalier watch {job['id']}" in err
    assert client.job(job["id"])["status"] == "queued"


def test_a_wait_that_is_over_is_5_and_leaves_the_job(begin: Begin, client: Client) -> None:
    process, job = begin("--timeout", "0.2", "--output", "json")
    code, out, err = end(process)
    assert code == Exit.GAVE_UP
    assert json.loads(out)["id"] == job["id"]
    assert f"espalier watch {job['id']}" in err
    assert client.job(job["id"])["status"] == "queued"


def test_who_detaches_gets_the_id(begin: Begin, client: Client) -> None:
    process, job = begin("--detach", "--label", "sha=1a2b", "--seed", "7", "--set", "training.steps=300")
    code, out, _ = end(process)
    assert (code, out) == (Exit.PASSED, f"{job['id']}\n")
    made: Any = client.job(job["id"])
    assert (made["metadata"], made["recipe"]["seed"], made["recipe"]["training"]["steps"]) == ({"sha": "1a2b"}, 7, 300)


def test_the_service_or_the_key_is_6(espalier: Any) -> None:
    refused = espalier("jobs", "ls", "--api-key", "esp_wrong", "--output", "json")
    assert refused.returncode == Exit.SERVICE
    assert "espalier login" in refused.stderr
    document = json.loads(refused.stdout)
    assert (document["object"], document["exit"], document["problem"]["code"]) == ("error", 6, "unauthorized")
    away = espalier("jobs", "ls", "--url", "http://127.0.0.1:9", "--patience", "0")
    assert (away.returncode, away.stdout) == (Exit.SERVICE, "")
    assert "is the service running" in away.stderr
