"""A query that many ask at a time, from one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import bindparam, select, text

from store.database import Database
from store.keys import add_key
from store.prepared import Query, prepared
from store.tables import ApiKey

WANTED = select(ApiKey.name, ApiKey.operator, ApiKey.scopes, ApiKey.last_used_at.is_(None)).where(
    ApiKey.id == bindparam("id")
)


@pytest.fixture
def key_ids(database: Database, project: str) -> list[str]:
    with database.transaction() as session:
        return [
            add_key(session, project_id=project, name=f"é {i}", scopes=["read", "ops"], operator=i == 7)[0].id
            for i in range(20)
        ]


def run(database: Database, ask: Callable[[Query], Any]) -> None:
    async def running() -> None:
        query = prepared(database.engine, WANTED)
        async with query.running():
            await ask(query)
        assert await query.row({"id": "whatever"}) is None

    asyncio.run(running())


async def answered(query: Query, key_id: str) -> tuple[Any, ...]:
    """As soon as the connection is there."""
    while (row := await query.row({"id": key_id})) is None:
        await asyncio.sleep(0.01)
    return row


@pytest.mark.timeout(120)
def test_each_has_its_own_answer(database: Database, key_ids: list[str]) -> None:
    async def ask(query: Query) -> None:
        await answered(query, key_ids[0])
        asked = [*key_ids, "key_unknown"] * 50
        rows = await asyncio.gather(*(query.row({"id": key_id}) for key_id in asked))
        own = [(f"é {i}", i == 7, ["read", "ops"], True) for i in range(20)]
        assert rows == [*own, None] * 50

    run(database, ask)


@pytest.mark.timeout(120)
def test_a_write_that_was_committed_is_seen(database: Database, key_ids: list[str]) -> None:
    async def ask(query: Query) -> None:
        for i in range(20):
            with database.transaction() as session:
                session.get_one(ApiKey, key_ids[0]).name = f"now {i}"
            assert (await answered(query, key_ids[0]))[0] == f"now {i}"

    run(database, ask)


@pytest.mark.timeout(120)
def test_a_connection_that_is_cut_answers_nobody_and_is_made_anew(database: Database, key_ids: list[str]) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("a file has no connection to cut")
    waiting = text("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")

    async def ask(query: Query) -> None:
        await answered(query, key_ids[0])
        with database.engine.begin() as holder:
            holder.execute(text("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE"))
            asked = [asyncio.ensure_future(query.row({"id": key_id})) for key_id in key_ids]
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as beside:
                while not (pids := beside.scalars(waiting).all()):
                    await asyncio.sleep(0.01)
                for pid in pids:
                    beside.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            assert await asyncio.gather(*asked) == [None] * 20
        assert (await answered(query, key_ids[3]))[0] == "é 3"

    run(database, ask)
