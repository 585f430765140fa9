"""Signed statements of where artifacts come from, and the key that they are checked with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.auth import KeyedRoute, ProjectId
from api.pages import RowId
from api.problems import EVERYWHERE, documented
from api.routes.artifacts import found_artifact
from api.services import Here
from api.statements import SigningKey, statement_of
from store.provenance import origin_of

router = APIRouter(tags=["artifacts"], route_class=KeyedRoute)
public = APIRouter(tags=["artifacts"])

_PEM: dict[str, Any] = {"application/x-pem-file": {"schema": {"type": "string"}}}


class Signature(BaseModel):
    keyid: str = Field(description="sha256 of the public key's DER form")
    sig: str = Field(description="base64, Ed25519 over DSSE's encoding of type and payload")


class EnvelopeDocument(BaseModel):
    """DSSE v1, as in-toto's and sigstore's tools read it."""

    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 - DSSE's own name
    payload: str = Field(description="base64 of an in-toto Statement v1 whose predicate is SLSA's provenance v1")
    signatures: list[Signature]


@router.get("/artifacts/{artifact_id}/provenance", responses=documented(*EVERYWHERE, "not_found"))
def get_provenance(services: Here, project_id: ProjectId, artifact_id: RowId) -> EnvelopeDocument:
    """The artifact's digest, and those of model, dataset, recipe and the round before; the code's version, and the
    class of machine that computed it. A round never changes once it is stored: neither does this. Check it offline:
    `espalier verify FILE --statement S --key K`."""
    with services.database.reading() as session:
        statement = statement_of(origin_of(session, found_artifact(session, project_id, artifact_id).artifact))
    return EnvelopeDocument.model_validate(SigningKey.of(services.settings).enveloped(statement))


@public.get(
    "/.well-known/espalier-key",
    response_class=Response,
    responses=documented("internal_error") | {200: {"content": _PEM, "description": "SubjectPublicKeyInfo, PEM"}},
)
def get_provenance_key(services: Here) -> Response:
    """The public key of all statements of provenance (Ed25519). Needs no key. Keep a copy, from a time and by a way
    that you trust: a statement is worth as much as the key it is checked with."""
    pem = SigningKey.of(services.settings).public_pem
    return Response(pem, headers={"Cache-Control": "public, max-age=300"}, media_type="application/x-pem-file")
