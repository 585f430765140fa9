"""What a child says to its supervisor: one JSON object a line, read as data from a process that is not trusted."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

MAX_LINE_BYTES = 4 << 20

FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,100}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Position = Annotated[int, Field(ge=0, le=10_000)]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(Message):
    type: Literal["started"] = "started"
    determinism: dict[str, str | int | bool]


class Progress(Message):
    type: Literal["progress"] = "progress"
    round: int | None
    """Null: the final entry."""
    step: int = Field(ge=0)
    steps: int = Field(ge=1)


class Metrics(Message):
    """What choices are made by; the rest of a report is only shown."""

    model_config = ConfigDict(extra="allow")

    metrics: dict[str, dict[str, Finite]]


class RoundDone(Message):
    type: Literal["round"] = "round"
    position: Position
    number: int | None = Field(ge=0)
    sparsity: float = Field(ge=0, le=1)
    report: Metrics
    files: dict[str, FileName] = Field(max_length=20)
    """By kind: model, masks, ticket, sparse."""


class Finished(Message):
    """The loop ended by its own rules."""

    type: Literal["finished"] = "finished"


class Validated(Message):
    type: Literal["validated"] = "validated"
    report: dict[str, Any]
    weights: FileName | None = None
    """Weights that validation made."""


class Failed(Message):
    """The user's error; a second try would end the same way."""

    type: Literal["failed"] = "failed"
    code: str = Field(pattern=r"^[a-z_]{1,60}$")
    message: str = Field(max_length=20_000)


AnyMessage = Annotated[Started | Progress | RoundDone | Finished | Validated | Failed, Field(discriminator="type")]
_MESSAGES: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


class BadMessage(Exception):
    """The child does not speak the protocol: it is broken, or hostile."""


def parse(line: bytes) -> AnyMessage:
    """Raises BadMessage; NaN and Infinity, which JSON does not have, are refused."""
    try:
        return _MESSAGES.validate_python(json.loads(line, parse_constant=_refuse))
    except (ValueError, RecursionError, ValidationError) as error:
        raise BadMessage(str(error)[:500]) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
