"""Jobs: posted, listed over pages, canceled, followed and waited for, through a restart of the service."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from espalier import ApiError, Client, Job, JobFailed, Unreachable, WaitTimedOut

Submit = Callable[..., Job]
Later = Callable[..., None]


def test_a_job_is_what_was_asked_for(client: Client, references: dict[str, str]) -> None:
    model, dataset = client.model(references["model"]), client.dataset(references["dataset"])
    gates = [{"metric": "accuracy", "op": ">=", "value": 0.9}]
    recipe = {"strategy": "lottery_ticket_continue", "seed": 3}
    job = client.create_job(
        model=model, dataset=dataset, recipe=recipe, gates=gates, select="best", priority=7, metadata={"sha": "1a2b"}
    )
    assert (job["model"], job["dataset"], job["status"], job["done"]) == (model["id"], dataset["id"], "queued", False)
    assert (job["recipe"]["seed"], job["recipe"]["between_rounds"]["weights"]) == (3, "continue")
    assert job["gates"] == [{**gates[0], "split": "validation"}]
    assert (job["select"], job["priority"], job["metadata"]) == ("best", 7, {"sha": "1a2b"})
    assert client.job(job["id"]) == job
    client.cancel(job["id"])


def test_a_list_turns_its_pages(client: Client, worker: Any, submit: Submit) -> None:
    model = client.upload_model(b"", architecture="lenet5", format="architecture")
    made = [submit(model=model["id"])["id"] for _ in range(7)]
    submit()
    for limit in (1, 3, 7, 100):
        listed = [job["id"] for job in client.jobs(model=model["id"], limit=limit)]
        assert listed == sorted(made, reverse=True), "all of them once, newest first"
    client.cancel(made[2])
    client.cancel(made[5])
    open_ones = client.jobs(model=model["id"], status=["queued", "running"], limit=2)
    assert {job["id"] for job in open_ones} == set(made) - {made[2], made[5]}
    assert [job["id"] for job in client.jobs(model=model["id"], status="canceled")] == [made[5], made[2]]


def test_pages_are_asked_for_as_they_are_needed(client: Client, worker: Any, submit: Submit) -> None:
    model = client.upload_model(b"", architecture="lenet5", format="architecture")
    first, second, third = (submit(model=model["id"])["id"] for _ in range(3))
    listed = client.jobs(model=model["id"], status="queued", limit=2)
    assert next(listed)["id"] == third
    client.cancel(second)
    client.cancel(first)
    assert [job["id"] for job in listed] == [second], "the second page shows what is so by then"


def test_what_has_ended_is_retried(client: Client, submit: Submit) -> None:
    job = submit(metadata={"sha": "1a2b"})
    with pytest.raises(ApiError) as refused:
        client.retry(job["id"])
    assert (refused.value.status, refused.value.problem["allowed"]) == (409, ["cancel", "pause"])
    client.cancel(job["id"])
    retry = client.retry(job["id"])
    assert (retry["retried_from"], retry["status"], retry["metadata"]) == (job["id"], "queued", {"sha": "1a2b"})
    assert client.retry(job["id"]) == retry
    client.cancel(retry["id"])


def test_cancel_is_safe_to_repeat(client: Client, submit: Submit) -> None:
    job = submit()
    for _ in range(2):
        canceled = client.cancel(job["id"])
        assert (canceled["status"], canceled["conclusion"], canceled["done"]) == ("canceled", "canceled", True)


def test_what_has_ended_otherwise_cannot_be_canceled(client: Client, worker: Any, submit: Submit) -> None:
    job = submit()
    worker.fail(worker.claim(job), "diverged", "at step 3")
    with pytest.raises(ApiError) as caught:
        client.cancel(job["id"])
    assert (caught.value.status, caught.value.code) == (409, "invalid_transition")


def test_follow_shows_every_change_once(client: Client, worker: Any, submit: Submit, later: Later) -> None:
    job = submit()
    states = []
    for seen in client.follow(job["id"], interval_seconds=0.01):
        states.append((seen["status"], seen["progress"]["round"], seen["done"]))
        if len(states) == 1:
            claimed = worker.claim(job)
        elif len(states) == 2:
            later(0.1, worker.fail, claimed, "diverged", "at step 3")
    assert states == [("queued", None, False), ("running", None, False), ("failed", None, True)]


def test_what_time_alone_moves_is_no_change(client: Client, worker: Any, submit: Submit, later: Later) -> None:
    """`eta_seconds` is another at every look, here also without an ETag's help: the service forgets it."""
    job = submit()
    claimed = worker.claim(job)
    worker.store_round(claimed, 0, [b"weights"])
    later(1.0, worker.fail, claimed, "diverged", "at step 3")
    stream = client._twin._transport.stream

    @asynccontextmanager
    async def without_etag(*args: Any, **request: Any) -> AsyncIterator[Any]:
        async with stream(*args, **request) as response:
            response.headers.pop("ETag", None)
            yield response

    client._twin._transport.stream = without_etag  # type: ignore[method-assign]
    states = [seen["status"] for seen in client.follow(job["id"], interval_seconds=0.05)]
    assert states == ["running", "failed"]


def test_events_come_as_they_happen_and_through_a_restart(
    api: Any, client: Client, worker: Any, submit: Submit
) -> None:
    job = submit()
    seen = []
    for event in client.events(job["id"]):
        seen.append((event["sequence"], event["type"]))
        if event["type"] == "job.queued":
            claimed = worker.claim(job)
        elif event["type"] == "job.running":
            api.kill()
            worker.store_round(claimed, 0, [b"weights"])
            api.launch()
        elif event["type"] == "round.stored":
            worker.complete(claimed)
    assert seen == [(1, "job.queued"), (2, "job.running"), (3, "round.stored"), (4, "job.succeeded")]
    assert [event["sequence"] for event in client.events(job["id"], after=2)] == [3, 4]
    assert list(client.events(job["id"], after=4)) == []
    with pytest.raises(ApiError):
        next(client.events("job_0"))


def test_who_gives_up_does_so_while_the_service_is_down(api: Any, client: Client, submit: Submit) -> None:
    """In its own time, and not in that of the client's patience."""
    job = submit()
    api.kill()
    try:
        started = time.monotonic()
        with pytest.raises(WaitTimedOut, match=r"1\.5 s"):
            client.wait(job["id"], timeout_seconds=1.5)
        assert 1.4 <= time.monotonic() - started < 8
    finally:
        api.launch()
        api.wait_until_ready()


def test_a_job_that_is_sent_again_is_made_once(client: Client, worker: Any, submit: Submit) -> None:
    """The answer to the first sending is lost, when the job is made already."""
    model = client.upload_model(b"", architecture="lenet5", format="architecture")
    send, lost = client._twin._transport.send, []

    async def losing(method: str, path: str, **request: Any) -> Any:
        answer = await send(method, path, **request)
        if path == "/v1/jobs" and not lost:
            lost.append(answer["id"])
            raise Unreachable("the answer was lost")
        return answer

    client._twin._transport.send = losing  # type: ignore[method-assign]
    job = submit(model=model["id"])
    assert lost == [job["id"]] == [listed["id"] for listed in client.jobs(model=model["id"])]
    client.cancel(job["id"])


def test_labels_are_changed_and_looked_for(client: Client, submit: Submit) -> None:
    job = submit(metadata={"sha": "1a2b", "gone": "soon"})
    changed = client.update_job(job["id"], metadata={"gone": None, "seed": "7"}, priority=3)
    assert (changed["metadata"], changed["priority"]) == ({"sha": "1a2b", "seed": "7"}, 3)
    found = client.jobs(metadata={"sha": "1a2b", "seed": "7"}, status=["queued"])
    assert [listed["id"] for listed in found] == [job["id"]]
    client.cancel(job["id"])


def test_wait_gives_the_job_that_succeeded(client: Client, worker: Any, submit: Submit, later: Later) -> None:
    job = submit()
    claimed = worker.claim(job)
    worker.store_round(claimed, 0, [b"weights"])
    later(0.2, worker.complete, claimed)
    ended = client.wait(job["id"], interval_seconds=0.02)
    assert (ended["status"], ended["conclusion"], ended["selected_round"]) == ("succeeded", "passed", 0)


def test_wait_raises_what_failed_with_the_reason(client: Client, worker: Any, submit: Submit) -> None:
    job = submit()
    worker.fail(worker.claim(job), "diverged", "the loss of round 1 is not finite at step 3")
    with pytest.raises(JobFailed, match="failed: diverged: the loss of round 1 is not finite at step 3") as caught:
        client.wait(job["id"])
    assert (caught.value.job["id"], caught.value.job["conclusion"]) == (job["id"], "error")
    assert job["id"] in str(caught.value)


def test_wait_raises_what_was_canceled(client: Client, submit: Submit) -> None:
    job = submit()
    client.cancel(job["id"])
    with pytest.raises(JobFailed, match=f"{job['id']} canceled$"):
        client.wait(job["id"])


def test_who_gives_up_waiting_leaves_the_job_as_it_is(client: Client, submit: Submit) -> None:
    job = submit()
    started = time.monotonic()
    with pytest.raises(WaitTimedOut, match=r"0\.3 s") as caught:
        client.wait(job["id"], timeout_seconds=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert 0.3 <= time.monotonic() - started < 10
    assert client.job(job["id"]) == job


def test_wait_looks_once_more_before_it_gives_up(client: Client, submit: Submit, later: Later) -> None:
    """Whatever the interval is: a job that ended in time has ended."""
    job = submit()
    later(0.1, client.cancel, job["id"])
    started = time.monotonic()
    with pytest.raises(JobFailed):
        client.wait(job["id"], timeout_seconds=1.5, interval_seconds=30)
    assert time.monotonic() - started < 20


def test_follow_goes_on_through_a_restart(
    api: Any, client: Client, worker: Any, submit: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is killed and comes back on its port, while somebody watches."""
    job = submit()
    states = []
    with caplog.at_level(logging.WARNING, "espalier"):
        for seen in client.follow(job["id"], interval_seconds=0.05):
            states.append(seen["status"])
            if seen["status"] == "queued":
                api.kill()
                claimed = worker.claim(job)
                api.launch()  # it answers in a second or so
            elif seen["status"] == "running":
                worker.fail(claimed, "diverged", "at step 3")
    assert states == ["queued", "running", "failed"]
    assert "trying again" in caplog.text, "the watcher met a dead server"


def test_cancel_goes_on_through_a_restart(api: Any, client: Client, submit: Submit) -> None:
    job = submit()
    api.kill()
    api.launch()
    assert client.cancel(job["id"])["status"] == "canceled"


def test_a_write_after_a_restart_meets_no_dead_connection(api: Any, client: Client, submit: Submit) -> None:
    """Writes are sent once, so they must not go out on a connection that the old server left open."""
    before = submit()
    api.kill()
    api.launch()
    api.wait_until_ready()
    assert submit()["id"] > before["id"]


def test_what_is_not_needed_any_more_is_deleted(client: Client, worker: Any, submit: Submit) -> None:
    """Jobs before what they were made of; and again, for the answer to the first request may be lost."""
    model = client.upload_model(b"", architecture="lenet5", format="architecture")
    job = submit(model=model["id"])
    with pytest.raises(ApiError) as caught:
        client.delete_job(job["id"])
    assert (caught.value.status, caught.value.code) == (409, "invalid_transition")
    client.cancel(job["id"])
    with pytest.raises(ApiError) as caught:
        client.delete_model(model["id"])
    assert caught.value.code == "in_use"
    for _ in range(2):
        client.delete_job(job["id"])
        client.delete_model(model["id"])
    assert job["id"] not in [listed["id"] for listed in client.jobs(model=model["id"])]
    dataset = client.upload_dataset(b"PK\x03\x04", name="d", wait=False)
    client.delete_dataset(dataset["id"])
    with pytest.raises(ApiError) as caught:
        client.dataset(dataset["id"])
    assert caught.value.status == 404
