"""What webhooks are sent, for the OpenAPI document: `store.webhooks.tell` and `ping` write it, `worker.webhooks` wraps
it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from api.documents import EntryName
from store.tables import JobStatus
from store.webhooks import PING, EventType

_JOB, _PROJECT = "job_06h0z5x0qz30r16n9hjagjjk2d", "prj_06h0z5t1q2sd6gx8bq7wdtq4fm"
_COMPARISON = "cmp_06h0z5x3c1w7e2vq8p5d9jk4nm"
_AT = "2026-11-24T21:28:30.153991Z"
Conclusion = Literal["passed", "gate_failed", "error", "canceled", "timed_out"]
_REF = "#/components/schemas/{model}"


class JobToldData(BaseModel):
    job: str
    project: str
    status: JobStatus
    conclusion: Conclusion | None = Field(description="null: the job has not ended")


class RoundToldData(BaseModel):
    job: str
    project: str
    round: EntryName
    status: JobStatus
    conclusion: Conclusion | None


class ComparisonToldData(BaseModel):
    comparison: str
    project: str
    status: JobStatus
    conclusion: Conclusion | None


class PingToldData(BaseModel):
    webhook: str
    project: str


class JobTold(BaseModel):
    """A job has another status: `GET /v1/jobs/{job}` has the rest."""

    type: str = Field(pattern=r"^job\.[a-z]+$")
    timestamp: datetime = Field(description="when it happened, the same at every attempt to tell it")
    data: JobToldData


class RoundTold(BaseModel):
    """A round is stored: `GET /v1/jobs/{job}/rounds/{round}` has it."""

    type: Literal["round.stored"]
    timestamp: datetime
    data: RoundToldData


class ComparisonTold(BaseModel):
    """The last job of a comparison has ended: `GET /v1/comparisons/{comparison}` has the rest."""

    type: str = Field(pattern=r"^comparison\.[a-z]+$")
    timestamp: datetime
    data: ComparisonToldData


class PingTold(BaseModel):
    """Somebody tries the webhook."""

    type: Literal["webhook.ping"]
    timestamp: datetime
    data: PingToldData


_ENDS = {"succeeded": "passed", "failed": "error", "canceled": "canceled"}
_HEADERS = {
    "webhook-id": "of the message, the same at every attempt: what came before is to be passed over",
    "webhook-timestamp": "of the attempt, in seconds since 1970: refuse what is older than five minutes",
    "webhook-signature": "`v1,` and base64 of an HMAC-SHA256, by the Standard Webhooks specification; several are "
    "separated by spaces, while a secret that was rotated still signs",
}
_ANSWERS = {
    "2XX": {"description": "taken; the body is not read"},
    "410": {"description": "never again: the webhook is disabled"},
    "default": {"description": "sent again later, over days; redirects are not followed"},
}


def _of(type_: str) -> tuple[type[BaseModel], dict[str, Any]]:
    """The message's model, and an example's data."""
    if type_ == PING:
        return PingTold, {"webhook": "wh_06h0z5v3m9d8k2rj6p1yqx4t7c", "project": _PROJECT}
    if type_ == "round.stored":
        return RoundTold, {"job": _JOB, "project": _PROJECT, "round": 3, "status": "running", "conclusion": None}
    kind, _, status = type_.partition(".")
    if kind == "comparison":
        told = {"comparison": _COMPARISON, "project": _PROJECT, "status": status, "conclusion": _ENDS.get(status)}
        return ComparisonTold, told
    return JobTold, {"job": _JOB, "project": _PROJECT, "status": status, "conclusion": _ENDS.get(status)}


def webhooks() -> tuple[dict[str, Any], dict[str, Any]]:
    """(the section `webhooks` of OpenAPI 3.1, the schemas that it refers to)."""
    section: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for type_ in (*get_args(EventType), PING):
        model, data = _of(type_)
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
        body = {
            "schema": {"$ref": _REF.format(model=model.__name__)},
            "example": {"type": type_, "timestamp": _AT, "data": data},
        }
        section[type_] = {
            "post": {
                "tags": ["webhooks"],
                "summary": type_,
                "parameters": [
                    {"name": name, "in": "header", "required": True, "description": said, "schema": {"type": "string"}}
                    for name, said in _HEADERS.items()
                ],
                "requestBody": {"required": True, "content": {"application/json": body}},
                "responses": _ANSWERS,
            }
        }
    return section, schemas
