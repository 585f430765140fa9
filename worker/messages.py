"""What a child says to its supervisor: one JSON object a line, read as data from a process that is not trusted."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from pruning.recipe import MAX_ROUNDS

MAX_LINE_BYTES = 4 << 20

FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,100}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Position = Annotated[int, Field(ge=0, le=MAX_ROUNDS + 1)]
"""Of numbered rounds, and of the final entry behind them."""

Steps = Annotated[int, Field(ge=0, lt=2**53)]
"""Whoever shows them divides one by another, which Python refuses for numbers that no float reaches."""

ExportKind = Literal["program", "onnx", "reduced_program", "reduced_model", "reduced_onnx", "plan"]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(Message):
    type: Literal["started"] = "started"
    determinism: dict[str, Annotated[str, StringConstraints(max_length=200)] | int | bool] = Field(max_length=20)


class Progress(Message):
    type: Literal["progress"] = "progress"
    round: Annotated[int, Field(ge=0, le=MAX_ROUNDS)] | None
    """Null: the final entry."""
    step: Steps
    steps: Annotated[Steps, Field(ge=1)]


class Metrics(Message):
    """What choices are made by; the rest of a report is only shown."""

    model_config = ConfigDict(extra="allow")

    metrics: dict[str, dict[str, Finite]]
    seconds: dict[str, Finite] = Field(default_factory=dict, max_length=20)


class RoundDone(Message):
    type: Literal["round"] = "round"
    position: Position
    number: Annotated[int, Field(ge=0, le=MAX_ROUNDS)] | None
    sparsity: float = Field(ge=0, le=1)
    report: Metrics
    files: dict[str, FileName] = Field(max_length=20)
    """By kind: model, masks, ticket, sparse."""


class Checkpointed(Message):
    """Training inside an entry, as a file: instead of the last one."""

    type: Literal["checkpointed"] = "checkpointed"
    position: Position
    step: Steps
    """Steps of the entry that are done, its controls' among them."""
    file: FileName


class Resumed(Message):
    """The checkpoint of the order is taken up, and training goes on."""

    type: Literal["resumed"] = "resumed"


class NotResumed(Message):
    """It is damaged, or does not fit: training begins anew behind the last stored round."""

    type: Literal["not_resumed"] = "not_resumed"
    reason: str = Field(max_length=400)


class Verified(BaseModel):
    """How an ONNX file was checked: `pruning.formats.onnx.write_onnx`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_difference: Annotated[Finite, Field(ge=0)]
    largest_output: Annotated[Finite, Field(ge=0)]
    tolerance: Annotated[Finite, Field(ge=0)]
    batch_sizes: list[Annotated[int, Field(ge=1, le=1000)]] = Field(max_length=10)
    opset: Annotated[int, Field(ge=1, le=1000)]
    runtime: Annotated[str, StringConstraints(max_length=60)]


class Exported(Message):
    """The selected round in one more form, written once, behind the last round."""

    type: Literal["exported"] = "exported"
    kind: ExportKind
    position: Position
    file: FileName
    verified: Verified | None = None


class NotExported(Message):
    type: Literal["not_exported"] = "not_exported"
    kind: ExportKind
    reason: str = Field(max_length=2000)


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


AnyMessage = Annotated[
    Started
    | Progress
    | RoundDone
    | Checkpointed
    | Resumed
    | NotResumed
    | Exported
    | NotExported
    | Finished
    | Validated
    | Failed,
    Field(discriminator="type"),
]
_MESSAGES: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


_UNSTORABLE = re.compile(rb"(?<!\\)(\\\\)*\\u(0000|[dD][89a-fA-F])")


class BadMessage(Exception):
    """The child does not speak the protocol: it is broken, or hostile."""


def parse(line: bytes) -> AnyMessage:
    """Raises BadMessage: also for what no database takes, though Python reads it as JSON (NaN, infinity, the character
    zero, half of a surrogate pair)."""
    try:
        if _UNSTORABLE.search(line):
            raise ValueError("an escape that stands for no character")
        return _MESSAGES.validate_python(json.loads(line.decode(), parse_constant=_refuse, parse_float=_finite))
    except (ValueError, RecursionError, ValidationError) as error:
        raise BadMessage(printable(str(error)[:500])) from error


def printable(text: str) -> str:
    """Fit for a log, a database and a message: what is no character or steers a terminal is replaced."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal} is too large a number")
    return number
