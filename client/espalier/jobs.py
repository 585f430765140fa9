"""Jobs: posted, ordered about, followed and waited for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from espalier import watching
from espalier.errors import JobFailed
from espalier.shapes import Dataset, Event, Job, Model, Plan, Round
from espalier.transport import Transport
from espalier.transport import api_path as _path


class Jobs:
    """The part of `AsyncClient` that does this."""

    _transport: Transport

    async def create_job(
        self,
        /,
        *,
        model: Model | str,
        dataset: Dataset | str,
        recipe: Mapping[str, Any],
        gates: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Job:
        """Post a recipe for a model and a dataset. What the recipe leaves out, its strategy fills in; `options` are
        the job's other fields (`select`, `priority`, `deadline_seconds`, `metadata`, ...). Sent again where no answer
        came, and made once."""
        body = _request(model, dataset, recipe, gates, options)
        job: Job = await self._transport.post("/v1/jobs", body)
        return job

    async def plan_job(
        self,
        /,
        *,
        model: Model | str,
        dataset: Dataset | str,
        recipe: Mapping[str, Any],
        gates: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Plan:
        """What `create_job` would make, checked and filled in, its rounds and what it would take. Stores nothing."""
        body = _request(model, dataset, recipe, gates, options)
        plan: Plan = await self._transport.post("/v1/jobs", body, validate_only="true")
        return plan

    async def update_job(
        self, job_id: str, *, metadata: Mapping[str, str | None] | None = None, priority: int | None = None
    ) -> Job:
        """`metadata` is merged into the job's, None takes a key out; `priority` counts while the job is queued."""
        job: Job = await self._transport.patch(_path("jobs", job_id), {"metadata": metadata, "priority": priority})
        return job

    async def job(self, job_id: str) -> Job:
        job: Job = await self._transport.get(_path("jobs", job_id))
        return job

    def jobs(self, /, **filters: Any) -> AsyncGenerator[Job, None]:
        """Every job, page by page as they are asked for; `filters` such as `status`, `model`, `created_after`, and
        `metadata={"key": "value"}`; `limit` is of one page."""
        labels = filters.pop("metadata", None) or {}
        labelled = {f"metadata[{key}]": value for key, value in labels.items()}
        return self._transport.pages("/v1/jobs", **filters, **labelled)

    async def cancel(self, job_id: str) -> Job:
        """Safe to repeat. A running job stops shortly after; its completed rounds are kept."""
        return await self._order(job_id, "cancel")

    async def pause(self, job_id: str) -> Job:
        """Safe to repeat. A running job stops shortly after, and its worker is free; `resume` goes on from there."""
        return await self._order(job_id, "pause")

    async def resume(self, job_id: str) -> Job:
        """Safe to repeat. A paused job is queued again."""
        return await self._order(job_id, "resume")

    async def retry(self, job_id: str) -> Job:
        """A new job with all that an ended one was asked for. Safe to repeat: while its retry has not ended, that one
        is answered again."""
        return await self._order(job_id, "retry")

    async def delete_job(self, job_id: str) -> None:
        """With its rounds and artifacts, once it has ended (else ApiError, 409: cancel it first). It may be gone
        already."""
        await self._transport.delete(_path("jobs", job_id))

    async def rounds(self, job_id: str) -> list[Round]:
        """What is stored so far, in order; the unnumbered final entry last, where the recipe makes one."""
        return [round_ async for round_ in self._transport.pages(_path("jobs", job_id, "rounds"))]

    async def round(self, job_id: str, number: int | str) -> Round:
        """One of them: its number, or `final`."""
        round_: Round = await self._transport.get(_path("jobs", job_id, "rounds", str(number)))
        return round_

    async def follow(
        self, job_id: str, *, interval_seconds: float = 1.0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Job, None]:
        """The job now and each time it has changed, until it is done. Goes on through restarts of the service, which
        says itself when the job has changed; `interval_seconds` is for one that cannot.

        Raises:
            WaitTimedOut: it is not done yet, and goes on.
        """
        watched = watching.states(self._transport, _path("jobs", job_id), interval_seconds, timeout_seconds)
        async with aclosing(watched) as states:
            async for job in states:
                yield job
                if job["done"]:
                    return

    def events(self, job_id: str, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """What happens to the job, as it happens, from behind the sequence number `after` until it has ended. Goes on
        where it was through restarts of the service."""
        return watching.events(self._transport, _path("jobs", job_id, "events"), after)

    async def wait(self, job_id: str, *, timeout_seconds: float | None = None, interval_seconds: float = 1.0) -> Job:
        """The job once it has succeeded (whether it passed its gates is its `conclusion`).

        Raises:
            JobFailed: it failed or was canceled.
            WaitTimedOut: it is not done yet, and goes on.
        """
        watched = watching.states(self._transport, _path("jobs", job_id), interval_seconds, timeout_seconds)
        async with aclosing(watched) as states:
            async for job in states:
                if job["done"]:
                    break
        if job["status"] != "succeeded":
            raise JobFailed(job)
        return job

    async def _order(self, job_id: str, verb: str) -> Job:
        job: Job = await self._transport.post(_path("jobs", job_id, verb))
        return job


def _request(
    model: Model | str,
    dataset: Dataset | str,
    recipe: Mapping[str, Any],
    gates: list[dict[str, Any]] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    return {"model": _id(model), "dataset": _id(dataset), "recipe": recipe, "gates": gates or [], **options}


def _id(document: Model | Dataset | str) -> str:
    return document if isinstance(document, str) else document["id"]
