"""Models: an exported program, a file of weights for a named architecture, or one with fresh weights from a seed."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool

from api.auth import KeyedRoute, ProjectId
from api.documents import ModelDocument
from api.heads import MODEL_FORMATS, PROGRAM, check_model_format, look_at_model
from api.idempotency import Once, OnceOnly
from api.pages import After, Limit, Page, RowId, found
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here, Services
from api.uploads import BODY, held, received_or_uploaded, referring, refuse_body
from pruning.formats.names import ARCHITECTURE_NAMES, FAMILIES, argument_refused, is_well_formed
from store import audit, intake, listing, quotas
from store.blobs import StoredBlob
from store.queue import INTAKE
from store.tables import IntakeStatus, Model

router = APIRouter(tags=["models"], route_class=KeyedRoute)

Name = Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Format = Annotated[str, Query(json_schema_extra={"enum": list(MODEL_FORMATS)})]
Architecture = Annotated[
    str | None,
    Query(
        description=f"{', '.join(ARCHITECTURE_NAMES)}; or, where a worker has these packages, timm:NAME, "
        "torchvision:NAME (of their own lists) or transformers:TYPE",
    ),
]
Arguments = Annotated[
    str | None,
    Query(
        max_length=2000,
        description="of another package's architecture: numbers of its making, as a JSON object, such as "
        '{"hidden_size": 128, "num_hidden_layers": 2}',
    ),
]
UploadId = Annotated[
    str | None,
    Query(pattern=r"^upl_[0-9a-z]{1,36}$", description="a complete upload, in place of the body; it can serve again"),
]
InputShape = Annotated[
    str | None,
    Query(
        pattern=r"^[1-9]\d{0,6}(,[1-9]\d{0,6}){0,5}$",
        description="of one example, as 1,28,28; left out, the architecture's own",
    ),
]


@router.post(
    "/models",
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
async def create_model(
    request: Request,
    response: Response,
    services: Here,
    project_id: ProjectId,
    once: OnceOnly,
    format: Format,
    name: Name = "model",
    architecture: Architecture = None,
    input_shape: InputShape = None,
    num_classes: Annotated[int | None, Query(ge=2, le=100_000)] = None,
    arguments: Arguments = None,
    seed: Annotated[int | None, Query(ge=0, lt=2**63, description="format=architecture only; 0")] = None,
    upload: UploadId = None,
) -> ModelDocument:
    """Upload the file as the raw body, or name a resumable `upload`. It is validated next: poll until
    `status` is ready or invalid.

    `format=exported_program` takes what `torch.export.save` wrote of any network: it says itself what it consists of.
    `format=safetensors` takes the weights of the named `architecture`. With `format=architecture` the body is empty and
    the weights are drawn from `seed`.
    """
    check_model_format(format)
    spec: dict[str, Any] = {}
    if format == PROGRAM:
        _refuse_spec({"architecture": architecture, "input_shape": input_shape, "num_classes": num_classes})
        _refuse_spec({"arguments": arguments})
    else:
        spec = {
            "architecture": _known(architecture, format),
            "input_shape": [int(side) for side in input_shape.split(",")] if input_shape else None,
            "num_classes": num_classes,
        }
        if arguments is not None:
            spec["arguments"] = _arguments(spec["architecture"], arguments)
    blob = None
    if format == "architecture":
        if upload is not None:
            raise Problem("invalid_request", "the weights come from the seed; leave upload out", param="query:upload")
        spec["seed"] = seed or 0
        await refuse_body(request, "format=architecture takes no body: its weights come from the seed")
    elif seed is not None:
        raise Problem("invalid_request", "the weights are in the file; leave seed out", param="query:seed")
    else:
        blob = await received_or_uploaded(request, services, project_id, upload, partial(look_at_model, format))
    created = await run_in_threadpool(_create, services, project_id, name, format, spec, blob, upload, once)
    response.headers["Location"] = f"/v1/models/{created.id}"
    return created


def _refuse_spec(given: dict[str, str | int | None]) -> None:
    for name, value in given.items():
        if value is not None:
            raise Problem("invalid_request", f"the program says it itself; leave {name} out", param=f"query:{name}")


def _known(architecture: str | None, format: str) -> str:
    known = f"{', '.join(ARCHITECTURE_NAMES)}, or {', '.join(f'{family}:NAME' for family in FAMILIES)}"
    if architecture is None:
        raise Problem(
            "invalid_request",
            f"format={format} needs architecture=, one of {known}",
            param="query:architecture",
        )
    if not is_well_formed(architecture):
        raise Problem(
            "invalid_request",
            f"there is no architecture {architecture!r}; use one of {known}",
            param="query:architecture",
        )
    return architecture


def _arguments(architecture: str, arguments: str) -> dict[str, Any]:
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Problem("invalid_request", 'give a JSON object, such as {"depth": 4}', param="query:arguments")
    if refused := argument_refused(architecture, given):
        raise Problem("invalid_request", refused, param="query:arguments")
    return given


def _create(
    services: Services,
    project_id: str,
    name: str,
    format: str,
    spec: dict[str, Any],
    blob: StoredBlob | None,
    upload: str | None,
    once: Once,
) -> ModelDocument:
    with referring(services, blob), services.database.transaction() as session:
        if upload is not None:
            held(session, project_id, upload, hold=True)
        model = intake.add_model(session, project_id=project_id, name=name, format=format, spec=spec, blob=blob)
        quotas.check(session, project_id, services.settings)
        created = _document(model, blob.size_bytes if blob else None)
        digest = blob.digest if blob and not upload else None  # of the body
        once.keep(session, created, 201, f"/v1/models/{created.id}", digest)
    services.bell.ring(INTAKE)
    return created


@router.get("/models")
def list_models(
    services: Here,
    project_id: ProjectId,
    limit: Limit = 20,
    after: After = None,
    status: IntakeStatus | None = None,
) -> Page[ModelDocument]:
    conditions = [Model.status == status] if status else []
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Model, project_id, after, limit, *conditions)
        sizes = listing.sizes_bytes(session, rows)
    data = [_document(row, sizes.get(row.blob_digest)) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/models/{model_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_model(services: Here, project_id: ProjectId, model_id: RowId) -> ModelDocument:
    with services.database.reading() as session:
        row = found(session, Model, project_id, model_id)
        return _document(row, listing.sizes_bytes(session, [row]).get(row.blob_digest))


@router.delete("/models/{model_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found", "in_use"))
def delete_model(services: Here, project_id: ProjectId, model_id: RowId) -> None:
    """Not while a job refers to it: the job says what it was made of."""
    with services.database.transaction() as session:
        session.delete(found(session, Model, project_id, model_id, lock="change"))
        try:
            session.flush()
        except IntegrityError:
            raise Problem("in_use", f"a job refers to {model_id}; delete the job first") from None
        audit.record(session, "model.delete", model_id)


def _document(row: Model, size_bytes: int | None) -> ModelDocument:
    report = row.report or {}
    return ModelDocument(
        id=row.id,
        name=row.name,
        status=row.status,
        format=row.format,
        architecture=row.spec.get("architecture"),
        input_shape=report.get("input_shape") or row.spec.get("input_shape"),
        size_bytes=size_bytes,
        sha256=row.blob_digest,
        num_parameters=report.get("num_parameters"),
        num_parameters_total=report.get("num_parameters_total"),
        num_prunable=report.get("num_prunable"),
        num_outputs=report.get("num_outputs"),
        output_shape=report.get("output_shape"),
        input_dtype=report.get("input_dtype"),
        output_layer=report.get("output_layer"),
        layers=report.get("layers"),
        others=report.get("others"),
        smoke_test=report.get("smoke_test"),
        source=report.get("source"),
        error=row.error,
        created_at=row.created_at,
    )
