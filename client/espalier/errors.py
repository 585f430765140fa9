"""What can go wrong, each with the document that says why."""

from __future__ import annotations

from espalier.shapes import Dataset, Job, Model, Problem


class EspalierError(Exception):
    """All errors of this package."""


class ExportError(EspalierError):
    """A module that cannot be exported: says what in it, where, and what to write instead."""


class ApplyError(EspalierError):
    """A result that does not fit the module, or is not whole. The module is as it was."""


class Unreachable(EspalierError):
    """No answer: the service is away, or the connection was cut and stayed so."""


class ApiError(EspalierError):
    """The service answered with a problem document (RFC 9457)."""

    def __init__(self, problem: Problem, retry_after_seconds: float | None = None) -> None:
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds
        details = [problem.get("detail") or problem["title"]]
        details += [f"{error.get('param')}: {error.get('message')}" for error in problem.get("errors") or []]
        super().__init__(f"{problem['status']} {problem.get('code', '')}: " + "; ".join(details))

    @property
    def status(self) -> int:
        return self.problem["status"]

    @property
    def code(self) -> str | None:
        return self.problem.get("code")

    @property
    def retryable(self) -> bool:
        return self.problem.get("retryable", self.status in (429, 502, 503, 504))


class NotReady(EspalierError):
    """A model or dataset that the service found invalid."""

    def __init__(self, document: Model | Dataset) -> None:
        self.document = document
        reason = document["error"]["message"] if document["error"] else "no reason given"
        super().__init__(f"{document['id']} is {document['status']}: {reason}")


class JobFailed(EspalierError):
    """A job that ended without a result: failed or canceled. Rounds that it completed are kept."""

    def __init__(self, job: Job) -> None:
        self.job = job
        error = job["error"]
        super().__init__(f"{job['id']} {job['status']}" + (f": {error['code']}: {error['message']}" if error else ""))


class WaitTimedOut(EspalierError, TimeoutError):
    """This side gave up waiting; what it waited for goes on."""


class NotVerified(EspalierError):
    """A statement of provenance that the key has not signed, or that is about another file."""


class DigestMismatch(EspalierError):
    """A download whose content is not what its digest promises. Nothing was left behind."""
