"""The client: one method for each thing a user does with the service."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from espalier import uploads, watching
from espalier.comparisons import Comparisons
from espalier.errors import ApiError, EspalierError, JobFailed, NotReady
from espalier.files import Arrays, Upload, arrays_as_npz, opened, write_checked
from espalier.results import Results
from espalier.shapes import Artifact, Dataset, Event, Job, Key, Model, NewKey, Round, Workers
from espalier.transport import Transport
from espalier.transport import api_path as _path
from espalier.uploads import Progress

INTAKE_INTERVAL_SECONDS = 0.2


class Client(Results, Comparisons):
    """`url` and `api_key` default to ESPALIER_URL and ESPALIER_API_KEY.

    What may be sent twice is, for `patience_seconds`, where the service is away: reads, verbs, and jobs, which it then
    makes once. Uploads are sent once, for the caller to decide. Errors: see `espalier.errors`.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, patience_seconds: float = 60) -> None:
        url = url or os.environ.get("ESPALIER_URL")
        api_key = api_key or os.environ.get("ESPALIER_API_KEY")
        if not url or not api_key:
            raise EspalierError("give url and api_key, or set ESPALIER_URL and ESPALIER_API_KEY")
        self._transport = Transport(url, api_key, patience_seconds)

    @classmethod
    def for_token(
        cls, token: str, url: str | None = None, *, trust_rule: str | None = None, patience_seconds: float = 60
    ) -> Self:
        """In a CI run: a client with the key of at most 15 minutes that its OIDC token is exchanged for. A token is
        exchanged once; `trust_rule` says which rule is meant, where several take it.

        Raises:
            ApiError: `token_refused`: no trust rule takes it; the project's audit log says why.
        """
        with cls(url, "none", patience_seconds=patience_seconds) as stranger:
            body = {"token": token, "trust_rule": trust_rule}
            given = stranger._transport.send("POST", "/v1/auth/token", json=body)
        return cls(url, given["access_token"], patience_seconds=patience_seconds)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # Models and datasets

    def upload_model(
        self,
        file: Upload,
        *,
        architecture: str | None = None,
        name: str | None = None,
        input_shape: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        format: str | None = None,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Model:
        """Stream a network, as `export_model` wrote it, or a file of weights for a named architecture. Waits until the
        service has validated it. A large file goes on where it was cut off, and is not sent where the service has it.

        `format`, left out, is safetensors where an architecture is named, else exported_program.
        `progress(bytes sent, bytes of the whole)` is called while a large file is sent.

        Raises:
            NotReady: the service found it invalid; the message is the service's.
        """
        spec = {
            "name": name or _name_of(file, "model"),
            "format": format or ("safetensors" if architecture else "exported_program"),
            "architecture": architecture,
            "input_shape": input_shape and ",".join(map(str, input_shape)),
            "num_classes": num_classes,
        }
        model: Model = self._send_file("/v1/models", spec, file, progress)
        return self._ready(lambda: self.model(model["id"])) if wait else model

    def upload_dataset(
        self,
        data: Upload | Arrays,
        *,
        name: str | None = None,
        format: str | None = None,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Dataset:
        """Stream named splits: a .npz or .safetensors file, or arrays `{"train": (inputs, targets), ...}` with
        optional `validation` and `test`. Waits until the service has validated it.

        `format`, left out, is what a file's name ends in, or what bytes begin as. Of large files, and of `progress`,
        see `upload_model`.

        Raises:
            NotReady: the service found it invalid; the message is the service's.
        """
        if isinstance(data, Mapping):
            with arrays_as_npz(data) as path:
                return self.upload_dataset(path, name=name or "dataset", wait=wait, progress=progress)
        spec = {"name": name or _name_of(data, "dataset"), "format": format or _dataset_format(data)}
        dataset: Dataset = self._send_file("/v1/datasets", spec, data, progress)
        return self._ready(lambda: self.dataset(dataset["id"])) if wait else dataset

    def model(self, model_id: str) -> Model:
        model: Model = self._transport.get(_path("models", model_id))
        return model

    def dataset(self, dataset_id: str) -> Dataset:
        dataset: Dataset = self._transport.get(_path("datasets", dataset_id))
        return dataset

    def delete_model(self, model_id: str) -> None:
        """Not while a job refers to it. It may be gone already."""
        self._delete("models", model_id)

    def delete_dataset(self, dataset_id: str) -> None:
        """Not while a job refers to it. It may be gone already."""
        self._delete("datasets", dataset_id)

    # Jobs

    def create_job(
        self,
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
        body = {"model": _id(model), "dataset": _id(dataset), "recipe": recipe, "gates": gates or [], **options}
        job: Job = self._transport.send_once("/v1/jobs", body)
        return job

    def update_job(
        self, job_id: str, *, metadata: Mapping[str, str | None] | None = None, priority: int | None = None
    ) -> Job:
        """`metadata` is merged into the job's, None takes a key out; `priority` counts while the job is queued."""
        body = {"metadata": metadata, "priority": priority}
        job: Job = self._transport.patiently(lambda: self._transport.send("PATCH", _path("jobs", job_id), json=body))
        return job

    def job(self, job_id: str) -> Job:
        job: Job = self._transport.get(_path("jobs", job_id))
        return job

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Every job, page by page as they are asked for; `filters` such as `status`, `model`, `created_after`, and
        `metadata={"key": "value"}`; `limit` is of one page."""
        labels = filters.pop("metadata", None) or {}
        return self._pages("/v1/jobs", **filters, **{f"metadata[{key}]": value for key, value in labels.items()})

    def cancel(self, job_id: str) -> Job:
        """Safe to repeat. A running job stops shortly after; its completed rounds are kept."""
        job: Job = self._transport.patiently(lambda: self._transport.send("POST", _path("jobs", job_id, "cancel")))
        return job

    def delete_job(self, job_id: str) -> None:
        """With its rounds and artifacts, once it has ended (else ApiError, 409: cancel it first). It may be gone
        already."""
        self._delete("jobs", job_id)

    def retry(self, job_id: str) -> Job:
        """A new job with all that an ended one was asked for. Safe to repeat: while its retry has not ended, that one
        is answered again."""
        job: Job = self._transport.send_once(_path("jobs", job_id, "retry"))
        return job

    def rounds(self, job_id: str) -> list[Round]:
        """What is stored so far, in order; the unnumbered final entry last, where the recipe makes one."""
        return list(self._pages(_path("jobs", job_id, "rounds")))

    def report(self, job_id: str) -> dict[str, Any]:
        """The job, its dense control and every round in one document, to be kept beside the model."""
        report: dict[str, Any] = self._transport.get(_path("jobs", job_id, "report"))
        return report

    def follow(self, job_id: str, *, interval_seconds: float = 1.0) -> Iterator[Job]:
        """The job now and each time it has changed, until it is done. Goes on through restarts of the service, which
        says itself when the job has changed; `interval_seconds` is for one that cannot."""
        for job in watching.states(self._transport, _path("jobs", job_id), interval_seconds):
            yield job
            if job["done"]:
                return

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """What happens to the job, as it happens, from behind the sequence number `after` until it has ended. Goes on
        where it was through restarts of the service."""
        return watching.events(self._transport, _path("jobs", job_id, "events"), after)

    def wait(self, job_id: str, *, timeout_seconds: float | None = None, interval_seconds: float = 1.0) -> Job:
        """The job once it has succeeded (whether it passed its gates is its `conclusion`).

        Raises:
            JobFailed: it failed or was canceled.
            WaitTimedOut: it is not done yet, and goes on.
        """
        watched = watching.states(self._transport, _path("jobs", job_id), interval_seconds, timeout_seconds)
        job = next(job for job in watched if job["done"])
        if job["status"] != "succeeded":
            raise JobFailed(job)
        return job

    # Artifacts

    def artifacts(self, job_id: str) -> list[Artifact]:
        return list(self._pages(_path("jobs", job_id, "artifacts")))

    def download(self, artifact: Artifact, path: Path | str) -> Path:
        """Store an artifact's content at `path`: all of it, checked against its digest, or nothing.

        Raises:
            DigestMismatch: what came is not what the digest promises.
        """
        path = Path(path)

        def attempt() -> Path:
            with self._transport.stream("GET", _path("artifacts", artifact["id"], "content")) as response:
                write_checked(response.iter_bytes(), path, artifact["sha256"])
            return path

        return self._transport.patiently(attempt)

    # Keys, for a key with the scope admin

    def create_key(self, name: str, scopes: list[str], *, expires_at: str | None = None) -> NewKey:
        """Scopes: read, write, ops, admin. `key` is the key itself, shown this once; `expires_at` is RFC 3339."""
        body = {"name": name, "scopes": scopes, "expires_at": expires_at}
        made: NewKey = self._transport.send("POST", "/v1/keys", json=body)
        return made

    def keys(self) -> Iterator[Key]:
        return self._pages("/v1/keys")

    def rotate_key(self, key_id: str, *, overlap_seconds: int = 3600) -> NewKey:
        """A new key in place of an old one, which lives on for `overlap_seconds`."""
        body = {"overlap_seconds": overlap_seconds}
        made: NewKey = self._transport.send("POST", _path("keys", key_id, "rotate"), json=body)
        return made

    def revoke_key(self, key_id: str) -> None:
        """At once. Safe to repeat."""

        def attempt() -> None:
            with self._transport.stream("DELETE", _path("keys", key_id)):
                pass

        self._transport.patiently(attempt)

    # The service

    def workers(self) -> Workers:
        """Who works and on what, those alive first; and what waits in the queues."""
        workers: Workers = self._transport.get("/v1/workers")
        return workers

    # How it sends files, deletes, waits and turns pages

    def _send_file(self, path: str, spec: dict[str, Any], file: Upload, progress: Progress | None) -> Any:
        if uploads.size_of(file) < uploads.LARGE_BYTES:
            with opened(file) as content:
                return self._transport.send("POST", path, params=spec, content=content)
        upload_id = uploads.upload(self._transport, file, progress)
        made = self._transport.send("POST", path, params={**spec, "upload": upload_id})
        with suppress(EspalierError):  # else it goes by itself, a day later
            self._delete("uploads", upload_id)
        return made

    def _delete(self, *path: str) -> None:
        """Patiently, so a second request may find nothing, because the answer to the first was lost."""

        def attempt() -> None:
            try:
                with self._transport.stream("DELETE", _path(*path)):
                    pass
            except ApiError as error:
                if error.status != 404:
                    raise

        self._transport.patiently(attempt)

    def _ready(self, read: Callable[[], Any]) -> Any:
        while (document := read())["status"] == "validating":
            time.sleep(INTAKE_INTERVAL_SECONDS)
        if document["status"] != "ready":
            raise NotReady(document)
        return document

    def _pages(self, path: str, **params: Any) -> Iterator[Any]:
        page = self._transport.get(path, **params)
        yield from page["data"]
        while page["has_more"]:
            page = self._transport.get(path, **params, after=page["next_cursor"])
            yield from page["data"]


def _id(document: Model | Dataset | str) -> str:
    return document if isinstance(document, str) else document["id"]


def _name_of(file: Upload, otherwise: str) -> str:
    return otherwise if isinstance(file, bytes) else Path(file).stem


def _dataset_format(data: Upload) -> str:
    if isinstance(data, bytes):
        return "safetensors" if data[8:9] == b"{" else "npz"  # eight bytes of length, then JSON
    return "safetensors" if Path(data).suffix == ".safetensors" else "npz"
