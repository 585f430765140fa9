"""`espalier compare`: what it asks for, what it ends with, and what it shows, against a real service."""

from __future__ import annotations

import io
import json
import re
import secrets
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from espalier import Client
from espalier.cli.comparison_tables import picture
from espalier.cli.exits import Exit
from rich.console import Console

Begin = Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]


@pytest.fixture
def begin(espalier: Any, client: Client, references: dict[str, str]) -> Begin:
    """Start `compare` of two strategies in a pool of its own; (the process, what it has posted)."""

    def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        process = espalier.start(
            "compare", references["model"], references["dataset"], "--strategy", "lottery_ticket_reset",
            "--strategy", "lottery_ticket_continue", "--pool", f"pool-{secrets.token_hex(8)}", *arguments,
        )  # fmt: skip
        line = process.stderr.readline()
        posted = re.fullmatch(r"posted (cmp_\w+): \d+ jobs\n", line)
        assert posted, line + process.stderr.read()
        return process, client.comparison(posted[1])

    return start


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        err, out = process.stderr.read(), process.stdout.read()  # type: ignore[union-attr]
    assert "\x1b" not in out + err, "no orders to a terminal where there is none"
    assert "Traceback" not in err
    return process.returncode, out, err


def as_claimed(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Its parts in the order in which a worker gets their jobs: by id, which is by chance in one millisecond."""
    return sorted(comparison["parts"], key=lambda part: part["job"])


def run_all(client: Client, worker: Any, comparison: dict[str, Any], num_rounds: int = 2) -> None:
    for part in as_claimed(comparison):
        claimed = worker.claim(client.job(part["job"]))
        for position in range(num_rounds):
            worker.store_round(claimed, position, [f"{part['recipe']} {position}".encode()])
        worker.complete(claimed)


def test_passed_is_0_with_the_recommended_round_in_a_folder(
    begin: Begin, client: Client, worker: Any, tmp_path: Path
) -> None:
    process, posted = begin("--out", "compared", "--output", "json")
    run_all(client, worker, posted)
    code, out, err = end(process)
    assert code == Exit.PASSED, err
    document = json.loads(out)
    assert (document["id"], document["conclusion"], document["recommendation"]["round"]) == (posted["id"], "passed", 1)
    assert {row["recipe"] for row in document["table"]["data"]} == {"lottery_ticket_reset", "lottery_ticket_continue"}
    names = {"model.safetensors", "table.csv", "plot.svg", "summary.md"}
    assert names == {Path(file).name for file in document["files"]}
    assert names == {path.name for path in (tmp_path / "compared").iterdir()}
    chosen = document["recommendation"]["recipe"]
    assert (tmp_path / "compared" / "model.safetensors").read_bytes() == f"{chosen} 1".encode()
    assert (
        "![accuracy against what remains, for all recipes](plot.svg)"
        in (tmp_path / "compared" / "summary.md").read_text()
    )
    assert f"{posted['id']}: succeeded, passed\n" in err


def test_where_a_gate_fails_it_is_1_and_the_table_is_shown(
    espalier: Any, begin: Begin, client: Client, worker: Any
) -> None:
    process, posted = begin("--gate", "accuracy >= 0.95")
    run_all(client, worker, posted)
    code, out, _ = end(process)
    assert code == Exit.GATE_FAILED
    head, *rows, verdict = out.splitlines()
    assert head.split("\t") == ["recipe", "round", "sparsity", "accuracy", "seeds", "time", ""]
    assert ["lottery_ticket_continue", "1", "20.0%", "0.9000", "1"] in [row.split("\t")[:5] for row in rows]
    assert [row for row in rows if "recommended" in row.split("\t")[-1]] != []
    assert verdict.startswith(f"{posted['id']}: gate_failed. ")
    shown = espalier("summary", posted["id"])
    assert (shown.returncode, shown.stdout.startswith("### Comparison did not pass\n")) == (0, True)
    assert shown.stdout == client.comparison_summary(posted["id"])


def test_failed_jobs_are_3_and_named(begin: Begin, client: Client, worker: Any) -> None:
    process, posted = begin()
    for part in as_claimed(posted):
        worker.fail(worker.claim(client.job(part["job"])), "diverged", "the loss is not finite")
    code, _, err = end(process)
    assert code == Exit.JOB_FAILED
    assert f"lottery_ticket_reset, seed 0, {posted['parts'][0]['job']}: failed, error\n" in err


def test_canceled_is_4(espalier: Any, begin: Begin) -> None:
    process, posted = begin()
    assert espalier("jobs", "cancel", posted["id"]).stdout == f"{posted['id']}: canceled, canceled\n"
    assert end(process)[0] == Exit.CANCELED


def test_an_interrupt_cancels_where_that_was_asked_for(begin: Begin, client: Client) -> None:
    process, posted = begin("--cancel-on-interrupt")
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == Exit.CANCELED, err
    assert client.comparison(posted["id"])["status"] == "canceled"


@pytest.mark.parametrize("interrupted", [True, False])
def test_who_gives_up_waiting_gets_5_and_it_goes_on(begin: Begin, client: Client, interrupted: bool) -> None:
    process, posted = begin(*([] if interrupted else ["--timeout", "0.2"]))
    if interrupted:
        process.send_signal(signal.SIGTERM)
    code, out, err = end(process)
    assert (code, out) == (Exit.GAVE_UP, f"{posted['id']}\n")
    assert f"{posted['id']} goes on. Watch it: espalier watch {posted['id']}" in err
    assert client.comparison(posted["id"])["status"] == "queued"


def test_all_that_was_asked_for_is_posted(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"strategy": "lottery_ticket_reset"}))
    process, made = begin(
        "--recipe", "mine.json", "--seed", "3", "--seed", "4", "--sparsity", "0.8", "--set", "training.batch_size=16",
        "--steps-per-round", "50", "--control", "random_mask", "--keep-accuracy-ratio", "0.9", "--min-removed", "0.3",
        "--label", "sha=1a2b", "--detach",
    )  # fmt: skip
    assert end(process)[:2] == (Exit.PASSED, f"{made['id']}\n")
    names = ["lottery_ticket_reset", "lottery_ticket_continue", "mine"]
    assert ([recipe["name"] for recipe in made["recipes"]], made["seeds"]) == (names, [3, 4])
    for recipe in made["recipes"]:
        assert recipe["recipe"]["stop"]["sparsity"] == 0.8
        assert (recipe["recipe"]["training"]["batch_size"], recipe["recipe"]["training"]["steps"]) == (16, 50)
    assert (made["budget"], made["controls"]) == ({"steps_per_round": 50}, ["random_mask"])
    assert (made["goal"]["keep_ratio"], made["goal"]["min_removed"], made["metadata"]) == (0.9, 0.3, {"sha": "1a2b"})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "espalier strategies lists them"),
        (("--strategy", "snip", "--steps", "5", "--seconds", "5"), "give one budget"),
        (("--strategy", "snip", "--detach", "--out", "x"), "espalier download"),
        (("--strategy", "snip", "--set", "seed=3"), "the seeds of a comparison are its own"),
        (("--strategy", "snip", "--gate", "sparsity >= 0.5"), "do not measure sparsity"),
    ],
)
def test_usage_is_2_and_says_what_to_do(
    espalier: Any, references: dict[str, str], arguments: tuple[str, ...], word: str
) -> None:
    ended = espalier("compare", references["model"], references["dataset"], *arguments)
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, "")
    assert word in ended.stderr


def test_a_terminal_sees_the_parts_that_go_on_first() -> None:
    parts = [
        {"recipe": "snip", "seed": seed, "job": f"job_{seed}", "status": status, "conclusion": None, "fraction": done}
        for seed, status, done in [(0, "succeeded", 1.0), (1, "running", 0.25), (2, "queued", 0.0), (3, "queued", 0.0)]
    ]
    progress = {"jobs": 4, "done": 1, "fraction": 0.3125, "eta_seconds": 70.0}
    comparison = {
        "id": "cmp_1", "status": "running", "done": False, "conclusion": None, "progress": progress, "parts": parts,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=100, height=9)
    console.print(picture(comparison, 100, 9))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].rstrip() == "cmp_1  running, 1 of 4 jobs done  about 1 min 10 s left"
    assert [line.split() for line in lines[-3:]] == [
        ["snip", "1", "job_1", "running", "25.0%"], ["snip", "2", "job_2", "queued", "0.0%"],
        ["snip", "3", "job_3", "queued", "0.0%"],
    ]  # fmt: skip
