"""Datasets: one file of named splits."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool

from api.auth import KeyedRoute, ProjectId
from api.documents import DatasetDocument
from api.heads import DATASET_FORMATS, check_dataset_format, look_at_dataset
from api.idempotency import Once, OnceOnly
from api.pages import After, Limit, Page, RowId, found
from api.problems import EVERYWHERE, Problem, documented
from api.routes.models import Name, UploadId
from api.services import Here, Services
from api.uploads import BODY, held, received_or_uploaded, referring
from store import audit, intake, listing, quotas
from store.blobs import StoredBlob
from store.queue import INTAKE
from store.tables import Dataset, IntakeStatus

router = APIRouter(tags=["datasets"], route_class=KeyedRoute)

Format = Annotated[str, Query(json_schema_extra={"enum": list(DATASET_FORMATS)})]


@router.post(
    "/datasets",
    status_code=201,
    openapi_extra=BODY,
    responses=documented(
        *EVERYWHERE,
        "unsupported_format",
        "invalid_content",
        "too_large",
        "unsupported_media_type",
        "insufficient_storage",
        "incomplete_upload",
        "quota_exceeded",
    ),
)
async def create_dataset(
    request: Request,
    response: Response,
    services: Here,
    project_id: ProjectId,
    once: OnceOnly,
    format: Format,
    name: Name = "dataset",
    upload: UploadId = None,
) -> DatasetDocument:
    """Upload the file as the raw body, or name a resumable `upload`: `train.inputs`, `train.targets`, and optionally
    `validation.*` and `test.*`.

    It is validated next: poll until `status` is ready or invalid.
    """
    check_dataset_format(format)
    blob = await received_or_uploaded(request, services, project_id, upload, partial(look_at_dataset, format))
    created = await run_in_threadpool(_create, services, project_id, name, format, blob, upload, once)
    response.headers["Location"] = f"/v1/datasets/{created.id}"
    return created


def _create(
    services: Services, project_id: str, name: str, format: str, blob: StoredBlob, upload: str | None, once: Once
) -> DatasetDocument:
    with referring(services, blob), services.database.transaction() as session:
        if upload is not None:
            held(session, project_id, upload, hold=True)
        dataset = intake.add_dataset(session, project_id=project_id, name=name, format=format, blob=blob)
        quotas.check(session, project_id, services.settings)
        created = _document(dataset, blob.size_bytes)
        once.keep(session, created, 201, f"/v1/datasets/{created.id}", None if upload else blob.digest)
    services.bell.ring(INTAKE)
    return created


@router.get("/datasets")
def list_datasets(
    services: Here,
    project_id: ProjectId,
    limit: Limit = 20,
    after: After = None,
    status: IntakeStatus | None = None,
) -> Page[DatasetDocument]:
    conditions = [Dataset.status == status] if status else []
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Dataset, project_id, after, limit, *conditions)
        sizes = listing.sizes_bytes(session, rows)
    data = [_document(row, sizes.get(row.blob_digest)) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/datasets/{dataset_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_dataset(services: Here, project_id: ProjectId, dataset_id: RowId) -> DatasetDocument:
    with services.database.reading() as session:
        row = found(session, Dataset, project_id, dataset_id)
        return _document(row, listing.sizes_bytes(session, [row]).get(row.blob_digest))


@router.delete("/datasets/{dataset_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found", "in_use"))
def delete_dataset(services: Here, project_id: ProjectId, dataset_id: RowId) -> None:
    """Not while a job refers to it: the job says what it was trained on."""
    with services.database.transaction() as session:
        session.delete(found(session, Dataset, project_id, dataset_id, lock="change"))
        try:
            session.flush()
        except IntegrityError:
            raise Problem("in_use", f"a job refers to {dataset_id}; delete the job first") from None
        audit.record(session, "dataset.delete", dataset_id)


def _document(row: Dataset, size_bytes: int | None) -> DatasetDocument:
    return DatasetDocument(
        id=row.id,
        name=row.name,
        status=row.status,
        format=row.format,
        size_bytes=size_bytes,
        sha256=row.blob_digest,
        splits=(row.report or {}).get("splits"),
        error=row.error,
        created_at=row.created_at,
    )
