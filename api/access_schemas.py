"""What a caller sends about projects, keys and trust rules."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    field_validator,
)

from api.schemas import Reference
from store.keys import Scope

MAX_KEY_SECONDS = 900
"""Of a key that a CI's token is exchanged for."""

_NO_NUL = r"^[^\x00]*$"
_MAX = 2**53 - 1
_DATE = re.compile(r"\d{4}-\d\d-\d\d")

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_NUL)]
Quota = Annotated[int | None, Field(ge=0, le=_MAX, description="null: the service's default")]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=10)]


def _to_come(at: datetime) -> datetime:
    if at <= datetime.now(UTC):
        raise ValueError("is in the past")
    if at.year > 9000:
        raise ValueError("is too far away; leave it out for a key that does not expire")
    return at


def _like_a_date(given: Any) -> Any:
    """Not seconds since 1970, which pydantic would take, too."""
    if not isinstance(given, str) or not _DATE.match(given):
        raise ValueError("give it as 2027-01-31T12:00:00Z")
    return given


ToCome = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_like_a_date),
    AfterValidator(_to_come),
    PlainSerializer(datetime.isoformat),
]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class QuotasRequest(_Given):
    live_jobs: Quota = None
    stored_bytes: Quota = None


class ProjectRequest(_Given):
    name: Name
    quotas: QuotasRequest = Field(default_factory=QuotasRequest)


class ProjectChange(_Given):
    """What is left out stays as it is."""

    name: Name | None = None
    quotas: QuotasRequest | None = None


class KeyRequest(_Given):
    name: Name
    scopes: Scopes
    expires_at: ToCome | None = Field(None, description="null: it does not expire")
    project: Reference | None = Field(None, description="an operator's choice; null: the caller's own")
    operator: bool = Field(False, description="may make projects, and keys in any; an operator's choice")


class KeyChange(_Given):
    """What is left out stays as it is."""

    name: Name | None = None
    scopes: Scopes | None = None
    expires_at: ToCome | None = Field(None, description="null: it does not expire")


class RotationRequest(_Given):
    overlap_seconds: int = Field(3600, ge=0, le=30 * 86400, description="the old key lives on for so long")
    expires_at: ToCome | None = Field(
        None, description="of the new key; left out, it lives as long as the old one was made to"
    )


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_NO_NUL)]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_NO_NUL)]
Conditions = Annotated[
    dict[Claim, Pattern],
    Field(
        min_length=1,
        max_length=20,
        description="claim -> what it must be; * stands for any characters, slashes too. All must hold",
        examples=[{"repository": "octo-org/network", "ref": "refs/heads/*"}],
    ),
]
Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$"),
    Field(json_schema_extra={"format": "uri", "pattern": r"^https?://[\x21-\x7e]+$"}),
]


def _narrows(conditions: dict[str, str] | None) -> dict[str, str] | None:
    if conditions is not None and not any(pattern.strip("*") for pattern in conditions.values()):
        raise ValueError("any token of the issuer would do; name at least one claim's value, such as repository")
    return conditions


class TrustRuleRequest(_Given):
    name: Name
    issuer: Url = Field(
        description="exactly the token's `iss`", examples=["https://token.actions.githubusercontent.com"]
    )
    audience: Pattern = Field(description="one of the token's `aud`, exactly; give your CI this service's address")
    jwks_url: Url | None = Field(None, description="null: the one that the issuer's discovery document names")
    conditions: Conditions
    scopes: list[Literal["read", "write", "ops"]] = Field(min_length=1, max_length=10)
    key_seconds: int = Field(MAX_KEY_SECONDS, ge=60, le=MAX_KEY_SECONDS, description="how long the keys live")

    _conditions_narrow = field_validator("conditions")(_narrows)


class TrustRuleChange(_Given):
    """What is left out stays as it is. Another issuer is another rule."""

    name: Name | None = None
    audience: Pattern | None = None
    conditions: Conditions | None = None
    scopes: list[Literal["read", "write", "ops"]] | None = Field(None, min_length=1, max_length=10)
    key_seconds: int | None = Field(None, ge=60, le=MAX_KEY_SECONDS)

    _conditions_narrow = field_validator("conditions")(_narrows)


class TokenRequest(_Given):
    token: str = Field(min_length=1, max_length=16_384, pattern=r"^[A-Za-z0-9_.\-]+$", description="of the CI, a JWT")
    trust_rule: Reference | None = Field(None, description="needed where more than one rule takes the token")
