"""Links that need no key: a token that names one artifact and when it dies, under the service's signature."""

from __future__ import annotations

import hashlib
import time

from itsdangerous import BadData, URLSafeSerializer

from api.problems import Problem
from store.derived_keys import derived_key
from store.settings import Settings


def make_token(settings: Settings, artifact_id: str, expires_at: float) -> str:
    token: str = _serializer(settings).dumps([artifact_id, expires_at])
    return token


def artifact_of(settings: Settings, token: str) -> str:
    """The id of the artifact that the token opens. Raises Problem: not ours, or expired.

    The clocks are those of the API machines: one that is behind keeps a link alive for as long as it is.
    """
    try:
        artifact_id, expires_at = _serializer(settings).loads(token)
    except BadData:
        raise Problem(
            "invalid_link",
            "this link was not made here, or was changed on its way; ask for a new one: "
            "POST /v1/artifacts/{artifact_id}/links",
            param="query:token",
        ) from None
    if time.time() >= expires_at:
        detail = f"the link to {artifact_id} has expired; ask for a new one: POST /v1/artifacts/{artifact_id}/links"
        raise Problem("link_expired", detail, param="query:token")
    return str(artifact_id)


def _serializer(settings: Settings) -> URLSafeSerializer:
    """Nothing of a token is read before its HMAC, compared in constant time, is right."""
    return URLSafeSerializer(
        derived_key(settings.secret(), "links"),
        salt="espalier.artifact-link",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
