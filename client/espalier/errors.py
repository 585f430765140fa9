"""What can go wrong, each with the document that says why."""

from __future__ import annotations

from espalier.shapes import Dataset, Job, Model, Problem


class EspalierError(Exception):
    """All errors of this package."""


class ExportError(EspalierError):
    """A module that cannot be exported: says what in it, where, and what to write instead."""


class Unreachable(EspalierError):
    """No answer: the service is away, or the connection was cut and stayed so."""


class ApiError(EspalierError):
    """The service answered with a problem document (RFC 9457)."""

    def __init__(self, problem: Problem, retry_after_seconds: float | None = None) -> None:
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds
        errors, detail = problem.get("errors") or [], problem.get("detail") or problem["title"]
        details = [] if detail in [error.get("message") for error in errors] else [detail]
        details += [f"{error.get('param')}: {error.get('message')}" for error in errors]
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


class NotAllowed(ApiError):
    """401, 403: no key that the service knows, or one that may not do this, or not so much of it."""


class NotFound(ApiError):
    """404, 410: not there, not any more, or another project's."""


class Conflict(ApiError):
    """409: not as things stand; `problem` may say what is `allowed`."""


class Invalid(ApiError):
    """Any other 4xx: what was sent is wrong; `problem["errors"]` lists all of it, each with its `param`."""


class RateLimited(ApiError):
    """429: too many requests, or too much at a time."""


class ServiceFailed(ApiError):
    """5xx: the service, or something before it, is not well."""


def api_error(problem: Problem, retry_after_seconds: float | None = None) -> ApiError:
    """The class of error that its status stands for."""
    status = problem["status"]
    by_status: dict[int, type[ApiError]] = {
        401: NotAllowed, 403: NotAllowed, 404: NotFound, 410: NotFound, 409: Conflict, 429: RateLimited,
    }  # fmt: skip
    kind = by_status.get(status, Invalid if 400 <= status < 500 else ServiceFailed)
    return kind(problem, retry_after_seconds)


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


class VersionSkew(UserWarning):
    """The service and this client are of versions that do not fit; the message says which to install."""
