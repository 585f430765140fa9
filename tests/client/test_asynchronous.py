"""The asynchronous client is the same, and its loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from espalier import AsyncClient, Client, Job, NotFound

API_KEY = "esp_a-key-for-the-clients-tests"
SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
Use = Callable[[AsyncClient], Coroutine[Any, Any, Any]]


@pytest.fixture
def use(api: Any) -> Callable[[Use], Any]:
    """Run a coroutine function with a client of its own."""

    def run(body: Use) -> Any:
        async def main() -> Any:
            async with AsyncClient(api.url, API_KEY) as client:
                return await body(client)

        return asyncio.run(main())

    return run


def test_a_file_goes_and_comes_back(use: Any, worker: Any, submit: Callable[..., Job], tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(SAFETENSORS + bytes(20 << 20))
    job = submit()
    worker.store_round(worker.claim(job), 0, [b"the ", b"weights"])
    sent: list[int] = []

    async def body(client: AsyncClient) -> None:
        dataset = await client.upload_dataset(path, progress=lambda done, _of: sent.append(done))
        assert dataset["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        [artifact] = await client.artifacts(job["id"])
        downloaded = await client.download(artifact["id"], tmp_path / "model")
        assert downloaded.read_bytes() == b"the weights"
        with pytest.raises(NotFound):
            await client.job("job_none")
        assert job["id"] in [listed["id"] async for listed in client.jobs(limit=1, status=["running"])]

    use(body)
    assert sent == sorted(sent)
    assert sent[-1] == path.stat().st_size


def test_two_jobs_are_followed_at_once(api: Any, worker: Any, submit: Callable[..., Job]) -> None:
    """Neither could end if the other's wait kept the loop: each is ended by who follows the other."""
    first, second = submit(), submit()
    claimed = {job["id"]: worker.claim(job) for job in (first, second)}

    async def follow(client: AsyncClient, mine: Job, other: Job, both_run: asyncio.Barrier) -> list[str]:
        seen = []
        async for job in client.follow(mine["id"]):
            seen.append(job["status"])
            if job["status"] == "running":
                await both_run.wait()
                await asyncio.to_thread(worker.fail, claimed[other["id"]], "diverged", "at step 3")
        return seen

    async def main() -> list[list[str]]:
        async with AsyncClient(api.url, API_KEY) as client:
            both_run = asyncio.Barrier(2)
            return await asyncio.gather(
                follow(client, first, second, both_run), follow(client, second, first, both_run)
            )

    assert asyncio.run(main()) == [["running", "failed"], ["running", "failed"]]


def test_the_blocking_client_works_within_a_loop(client: Client, submit: Callable[..., Job]) -> None:
    """As in a notebook."""
    made = {submit()["id"], submit()["id"]}

    async def main() -> set[str]:
        return {job["id"] for job in client.jobs(limit=1)}

    assert made <= asyncio.run(main())


def test_both_have_the_same_methods_with_the_same_words() -> None:
    asynchronous = {name for name, _ in inspect.getmembers(AsyncClient, callable) if not name.startswith("_")}
    blocking = {name for name, _ in inspect.getmembers(Client, callable) if not name.startswith("_")}
    assert asynchronous == blocking
    for name in asynchronous - {"for_token"}:
        ours, theirs = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert ours.__doc__ == theirs.__doc__
