"""What webhooks are told is written with what it tells, claimed by one sender at a time, and tried for days."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from store import deliveries, jobs, webhooks
from store.addresses import is_public
from store.database import Database, now
from store.deliveries import Claimed, Outcome
from store.tables import Delivery, Job, Project, Webhook
from store.transitions import Trigger

Submit = Callable[..., Job]
OK = Outcome(200, 5, None)
AWAY = Outcome(None, 5, "no connection")
DAY = 24 * 3600.0


def add(database: Database, project: str, *events: str, **columns: Any) -> str:
    with database.transaction() as session:
        url = columns.pop("url", "https://example.com/")
        return webhooks.add(session, project, url, events or ("*",), "", enabled=columns.pop("enabled", True)).id


def told(database: Database, webhook_id: str) -> list[Delivery]:
    with database.reading() as session:
        return list(session.scalars(select(Delivery).where(Delivery.webhook_id == webhook_id).order_by(Delivery.id)))


def types(database: Database, webhook_id: str) -> list[str]:
    return sorted(row.type for row in told(database, webhook_id))


def claim(database: Database, *busy: str) -> Claimed | None:
    with database.transaction() as session:
        return deliveries.claim(session, busy)


def settle(database: Database, claimed: Claimed, outcome: Outcome) -> str | None:
    with database.transaction() as session:
        return deliveries.settle(session, claimed, outcome)


def age(database: Database, entity: Any, **seconds: float) -> None:
    """Set times to so many seconds ago."""
    with database.transaction() as session:
        session.execute(update(entity).values(**{name: now() - ago for name, ago in seconds.items()}))


def test_each_hears_what_it_listens_to(database: Database, project: str, submit: Submit) -> None:
    with database.transaction() as session:
        session.add(Project(id="prj_other", name="other", created_at=1.0))
    every = add(database, project)
    ends = add(database, project, "job.failed", "job.canceled")
    rounds = add(database, project, "round.stored")
    nothing = [add(database, project, enabled=False), add(database, "prj_other")]
    job = submit()
    with database.transaction() as session:
        claimed = jobs.claim(session, "cpu", "worker", 60)
        assert claimed is not None
        entry = {"position": 0, "number": 0, "sparsity": 0.0, "report": {}, "artifacts": [], "lease_seconds": 60}
        jobs.record_round(session, claimed, **entry)
        jobs.order(session, project, job.id, Trigger.CANCEL)
        jobs.give_back(session, job.id, claimed.attempt, Trigger.STOP, "stopped")
    assert types(database, every) == ["job.canceled", "job.canceling", "job.queued", "job.running", "round.stored"]
    assert types(database, ends) == ["job.canceled"]
    [round_] = told(database, rounds)
    assert round_.data == {"job": job.id, "project": project, "status": "running", "conclusion": None, "round": 0}
    assert [told(database, webhook) for webhook in nothing] == [[], []]
    ended = told(database, ends)[0]
    assert ended.data == {"job": job.id, "project": project, "status": "canceled", "conclusion": "canceled"}
    assert ended.id in [row.id for row in told(database, every)], "one message, whoever hears it"


def test_what_is_rolled_back_is_not_told(database: Database, project: str, submit: Submit) -> None:
    webhook, job = add(database, project), submit()
    with pytest.raises(RuntimeError), database.transaction() as session:
        jobs.order(session, project, job.id, Trigger.CANCEL)
        raise RuntimeError
    assert types(database, webhook) == ["job.queued"]


@pytest.mark.parametrize("deleted", [True, False])
def test_a_job_outlives_a_webhook_that_is_deleted_at_its_end(
    database: Database, project: str, submit: Submit, deleted: bool
) -> None:
    """The job waits for the deletion, and finds nobody to tell; it is told where the deletion did not happen."""
    job, webhook = submit(), add(database, project)

    def cancel() -> None:
        with database.transaction() as session:
            jobs.order(session, project, job.id, Trigger.CANCEL)

    with ThreadPoolExecutor(1) as thread:
        with database.transaction() as session:
            assert webhooks.remove(session, project, webhook)
            canceled = thread.submit(cancel)
            threading.Event().wait(0.3)
            assert not canceled.done()
            if not deleted:
                session.rollback()
        canceled.result(20)
    assert types(database, webhook) == ([] if deleted else ["job.canceled"])
    with database.reading() as session:
        assert session.get_one(Job, job.id).status == "canceled"


def test_a_message_is_claimed_by_one(database: Database, project: str, submit: Submit) -> None:
    for _ in range(3):
        add(database, project)
    submit(), submit(), submit()

    def take() -> list[Claimed]:
        return [claimed for _ in range(9) if (claimed := claim(database)) is not None]

    with ThreadPoolExecutor(4) as threads:
        taken = [one for each in [threads.submit(take) for _ in range(4)] for one in each.result()]
    while (claimed := claim(database)) is not None:  # each may have passed by what another had locked
        taken.append(claimed)
    assert len({(each.webhook_id, each.id) for each in taken}) == len(taken) == 9


def test_a_dead_senders_message_is_taken_up_and_its_late_word_ignored(
    database: Database, project: str, submit: Submit
) -> None:
    webhook = add(database, project)
    submit()
    first = claim(database)
    assert first is not None
    assert claim(database) is None, "it is held"
    age(database, Delivery, next_attempt_at=0.0)
    second = claim(database)
    assert second is not None
    assert (second.id, second.attempt) == (first.id, 2)
    assert settle(database, first, Outcome(410, 5, "it answered 410")) is None
    with database.reading() as session:
        assert session.get_one(Webhook, webhook).enabled
    assert settle(database, second, OK) == "delivered"
    [row] = told(database, webhook)
    assert (row.status, row.next_attempt_at, [a["status_code"] for a in row.attempts]) == ("delivered", None, [200])


def test_failures_are_retried_by_the_schedule_and_then_given_up(
    database: Database, project: str, submit: Submit
) -> None:
    webhook = add(database, project)
    submit()
    waits = []
    for _ in range(20):
        claimed = claim(database)
        assert claimed is not None
        status = settle(database, claimed, AWAY)
        if status == "failed":
            break
        with database.reading() as session:
            waits.append(session.scalars(select(Delivery.next_attempt_at - now())).one())
        age(database, Delivery, next_attempt_at=0.0)
    schedule = [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert len(waits) == len(schedule)
    for wait, least in zip(waits, schedule, strict=True):
        assert least - 3 < wait <= 1.1 * least
    assert claim(database) is None
    with database.transaction() as session:
        again = deliveries.redeliver(session, webhook, claimed.id)
        assert again is not None
        assert (again.status, again.failures, len(again.attempts)) == ("pending", 0, 10)
    redelivered = claim(database)
    assert redelivered is not None
    assert redelivered.id == claimed.id
    assert settle(database, redelivered, OK) == "delivered"
    with database.reading() as session:
        assert session.get_one(Webhook, webhook).failing_since is None


def test_a_webhook_that_is_gone_or_fails_for_days_is_disabled(database: Database, project: str, submit: Submit) -> None:
    webhook = add(database, project)
    submit(), submit(), submit()
    for outcome, since, reason in [
        (Outcome(410, 5, "it answered 410"), None, "it answered 410 Gone"),
        (AWAY, 4.9 * DAY, None),
        (AWAY, 5.1 * DAY, "every attempt failed for 5 days; the last: no connection"),
    ]:
        if since is not None:
            age(database, Webhook, failing_since=since)
        claimed = claim(database)
        assert claimed is not None
        settle(database, claimed, outcome)
        with database.reading() as session:
            row = session.get_one(Webhook, webhook)
        assert (row.enabled, row.disabled_reason) == (reason is None, reason)
        if reason is not None:
            assert claim(database) is None
            with database.transaction() as session:
                changed = webhooks.change(session, project, webhook, enabled=True)
            assert changed is not None
            assert (changed.disabled_reason, changed.failing_since) == (None, None)


def test_healthy_webhooks_go_first(database: Database, project: str, submit: Submit) -> None:
    failing, healthy = add(database, project), add(database, project)
    submit()
    with database.transaction() as session:
        session.execute(update(Webhook).where(Webhook.id == failing).values(failing_since=1.0))
        session.execute(update(Delivery).where(Delivery.webhook_id == failing).values(next_attempt_at=1.0))
    order = [claim(database), claim(database)]
    assert [each.webhook_id for each in order if each] == [healthy, failing]


def test_what_is_old_or_has_nobody_to_hear_it_is_cleared(database: Database, project: str, submit: Submit) -> None:
    webhook = add(database, project)
    submit()
    with database.transaction() as session:
        webhooks.change(session, project, webhook, enabled=False)
        assert deliveries.clear(session) == 0
    assert [row.status for row in told(database, webhook)] == ["failed"]
    age(database, Delivery, created_at=29 * DAY)
    with database.transaction() as session:
        assert deliveries.clear(session) == 0
    age(database, Delivery, created_at=31 * DAY)
    with database.transaction() as session:
        assert deliveries.clear(session) == 1
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0


def test_secrets_differ_by_service_webhook_and_rotation() -> None:
    made = {
        secret
        for service in (b"a", b"b")
        for webhook in ("wh_1", "wh_10")
        for rotation in (0, 1, 10)
        for secret in webhooks.secrets_of(service, webhook, rotation, None, 0.0)
    }
    assert len(made) == 12
    [old] = webhooks.secrets_of(b"a", "wh_1", 0, None, 1000.0)
    new = webhooks.secrets_of(b"a", "wh_1", 1, 1000.0, 1000.0 + DAY - 1)
    assert new[1:] == [old]
    assert webhooks.secrets_of(b"a", "wh_1", 1, 1000.0, 1000.0 + DAY + 1) == new[:1]


PRIVATE = """
0.0.0.0 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.1.2.3 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192
192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
168.63.129.16
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe ::ffff:0:127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::7f00:1
64:ff9b:1::a00:1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:5db8:d822:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
fe80::1%eth0 fec0::1 ff02::1 not-a-number 0x7f.1
""".split()  # noqa: SIM905
PUBLIC = "1.1.1.1 93.184.216.34 172.32.0.1 2606:4700:4700::1111 ::ffff:1.1.1.1 64:ff9b::1.1.1.1".split()  # noqa: SIM905


def test_addresses() -> None:
    assert [address for address in PRIVATE if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []
