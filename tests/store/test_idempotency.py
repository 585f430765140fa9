"""A key's row: taken, answered, given again, lost, taken over when its time is past."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from store import idempotency
from store.database import Database
from store.idempotency import Answer, InProgress, Key, Lost, Mismatch
from store.tables import IdempotencyKey

ANSWER = Answer(201, {"location": "/v1/jobs/job_1"}, '{"id": "job_1"}', None)


@pytest.fixture
def key(project: str) -> Key:
    return Key(project, "POST /jobs", "k1", "a" * 64, "req_1")


def in_transaction(database: Database, do: Callable[..., Any], *args: Any) -> Any:
    with database.transaction() as session:
        return do(session, *args)


def test_the_answer_is_given_again(database: Database, key: Key) -> None:
    with database.transaction() as session:
        assert idempotency.enter(session, key) is None
        idempotency.answer(session, key, ANSWER)
    again = replace(key, holder="req_2")
    assert in_transaction(database, idempotency.enter, again) == ANSWER
    with pytest.raises(Mismatch):
        in_transaction(database, idempotency.enter, replace(again, fingerprint="b" * 64))
    for other in (replace(again, key="k2"), replace(again, route="POST /models")):
        assert in_transaction(database, idempotency.enter, other) is None


def test_what_was_rolled_back_was_not_asked(database: Database, key: Key) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        idempotency.enter(session, key)
        raise ZeroDivisionError
    assert in_transaction(database, idempotency.enter, replace(key, fingerprint="b" * 64)) is None


def test_the_second_waits_for_the_first(database: Database, key: Key) -> None:
    with ThreadPoolExecutor(1) as thread:
        with database.transaction() as session:
            idempotency.enter(session, key)
            second = thread.submit(in_transaction, database, idempotency.enter, replace(key, holder="req_2"))
            with pytest.raises(TimeoutError):
                second.result(0.5)
            idempotency.answer(session, key, ANSWER)
        assert second.result(10) == ANSWER


def test_who_waits_too_long_is_told(database: Database, key: Key, dialect: str) -> None:
    if dialect == "sqlite":
        pytest.skip("there the whole transaction waits, before its first statement")

    def impatient(session: Any) -> None:
        session.execute(text("SET LOCAL lock_timeout = '100ms'"))
        idempotency.enter(session, replace(key, holder="req_2"))

    with database.transaction() as session:
        idempotency.enter(session, key)
        with ThreadPoolExecutor(1) as thread, pytest.raises(InProgress):
            thread.submit(in_transaction, database, impatient).result(10)


def test_a_reservation_is_held_lost_and_taken_over(database: Database, key: Key) -> None:
    second = replace(key, holder="req_2", fingerprint="b" * 64)
    in_transaction(database, idempotency.enter, key)
    with pytest.raises(InProgress):
        in_transaction(database, idempotency.enter, replace(key, holder="req_2"))
    with pytest.raises(Mismatch):
        in_transaction(database, idempotency.enter, second)
    assert in_transaction(database, idempotency.renew, key)
    with database.transaction() as session:
        session.execute(update(IdempotencyKey).values(expires_at=1.0))
    assert in_transaction(database, idempotency.enter, second) is None
    assert not in_transaction(database, idempotency.renew, key)
    in_transaction(database, idempotency.release, key)
    with pytest.raises(Lost):
        in_transaction(database, idempotency.answer, key, ANSWER)
    in_transaction(database, idempotency.answer, second, ANSWER)
    in_transaction(database, idempotency.release, second)
    assert in_transaction(database, idempotency.enter, second) == ANSWER, "what is answered is not released"


def test_the_sweeper_deletes_what_is_past_its_time(database: Database, key: Key) -> None:
    in_transaction(database, idempotency.enter, key)
    with database.transaction() as session:
        idempotency.enter(session, replace(key, key="k2"))
        session.execute(update(IdempotencyKey).where(IdempotencyKey.key == "k2").values(expires_at=1.0))
    assert in_transaction(database, idempotency.expire) == 1
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1
