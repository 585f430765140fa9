"""Who issues the tokens of CIs: their public keys, fetched and kept; and whether a token is what one of them issued.

Where keys come from is for the trust rule to say, and for the issuer's discovery document. What a token says about it
(`jku`, `x5u`, `jwk`, `x5c`) is read by nobody.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, import_key
from joserfc.jws import JWSRegistry

from api.fetching import Addresses, FetchFailed, fetch_json

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Signatures by a private key alone: with a shared secret, a public key would be one."""
LEEWAY_SECONDS = 60
MAX_TOKEN_SECONDS = 24 * 3600
"""Until a token expires it is remembered; what lives for longer was not made for one run of a CI."""

FRESH_SECONDS = 3600.0
REFETCH_SECONDS = 60.0
"""An unknown key may be a new one; whoever invents key ids makes us ask this often and not more."""
RETRY_SECONDS = 10.0
MAX_ISSUERS, MAX_KEYS, MIN_RSA_BITS = 200, 100, 2048


class Refused(Exception):
    """The message says why. It may speak of a rule: it is for the project's audit log, not for whoever sent it."""


class IssuerAway(Exception):
    """Its keys could not be fetched."""


class _Registry(JWSRegistry):
    """Nothing but ALGORITHMS exists here, whatever the library knows."""

    max_header_length = 8192  # some carry their certificates along

    algorithms = {name: copy.copy(JWSRegistry.algorithms[name]) for name in ALGORITHMS}  # noqa: RUF012 - the library's


_Registry.algorithms[
    "EdDSA"
].security_warning = None  # its name is outdated (RFC 9864), and still what most issuers say
_REGISTRY = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


@dataclass
class _Entry:
    keys: KeySet | None = None
    fetched_at: float = 0.0
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Issuers:
    def __init__(self, allowed: Addresses) -> None:
        self._allowed = allowed
        self._entries: OrderedDict[tuple[str, str | None], _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self.threads = anyio.CapacityLimiter(4)
        """An issuer that is slow keeps these waiting, and no other route's."""

    def check_url(self, url: str) -> None:
        """Raises Refused."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise Refused("is no URL") from None
        schemes = ("https", "http") if self._allowed == "loopback" else ("https",)
        if parts.scheme not in schemes or not host:
            raise Refused("must be an https:// URL")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise Refused("must have neither a user nor a fragment")

    def verify(self, token: str, *, issuer: str, audience: str, jwks_url: str | None) -> dict[str, Any]:
        """The token's claims, once all of it was found right. Raises Refused, IssuerAway."""
        header, _ = unverified(token)
        keys = self._keys_of(issuer, jwks_url, header.get("kid"))
        claims_registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            claims = jwt.decode(token, keys, registry=_REGISTRY).claims
            claims_registry.validate(claims)
        except JoseError as error:
            raise Refused(f"{error.error}: {error.description}".strip(": ")) from None
        except (ValueError, TypeError, RecursionError):
            raise Refused("it cannot be read with the issuer's keys") from None
        if claims["exp"] > time.time() + MAX_TOKEN_SECONDS:
            raise Refused(f"it lives for longer than {MAX_TOKEN_SECONDS} s")
        return claims

    def _keys_of(self, issuer: str, jwks_url: str | None, kid: Any) -> KeySet:
        entry = self._entry(issuer, jwks_url)
        with entry.lock:  # of many that ask at once one fetches
            at = time.monotonic()
            is_fresh = entry.keys is not None and at - entry.fetched_at < FRESH_SECONDS
            if is_fresh and entry.keys is not None:
                is_known = kid is None or any(key.kid == kid for key in entry.keys)
                if is_known or at - entry.tried_at < REFETCH_SECONDS:
                    return entry.keys
            elif at - entry.tried_at < RETRY_SECONDS:
                raise IssuerAway(f"{issuer} did not answer a moment ago")
            entry.tried_at = at
            try:
                entry.keys, entry.fetched_at = self._fetch(issuer, jwks_url), at
            except (FetchFailed, Refused) as error:
                log.warning("the keys of %s could not be fetched: %s", issuer, error)
                if not is_fresh:
                    raise IssuerAway(str(error)) from error
            assert entry.keys is not None
            return entry.keys

    def _entry(self, issuer: str, jwks_url: str | None) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault((issuer, jwks_url), _Entry())
            self._entries.move_to_end((issuer, jwks_url))
            while len(self._entries) > MAX_ISSUERS:
                self._entries.popitem(last=False)
            return entry

    def _fetch(self, issuer: str, jwks_url: str | None) -> KeySet:
        if jwks_url is None:
            place = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            self.check_url(place)
            discovered = fetch_json(place, self._allowed)
            if discovered.get("issuer") != issuer:
                raise FetchFailed(f"{place} is of another issuer")
            jwks_url = discovered.get("jwks_uri")
            if not isinstance(jwks_url, str):
                raise FetchFailed(f"{place} names no jwks_uri")
        self.check_url(jwks_url)
        listed = fetch_json(jwks_url, self._allowed).get("keys")
        found = [_usable(data) for data in (listed if isinstance(listed, list) else [])[:MAX_KEYS]]
        keys = [key for key in found if key is not None]
        if not keys:
            raise FetchFailed(f"{jwks_url} lists no key that signatures can be checked with")
        return KeySet(keys)


def _usable(data: Any) -> Key | None:
    """A key that we cannot use is not there; the others are."""
    if not isinstance(data, dict) or data.get("kty") not in ("RSA", "EC", "OKP") or data.get("use", "sig") != "sig":
        return None
    try:
        if data["kty"] == "RSA" and int.from_bytes(_decoded(data["n"])).bit_length() < MIN_RSA_BITS:
            return None
        key: Key = import_key(data)
        key.ensure_kid()
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, claims) as the token says: good for finding the rules that might take it. Raises Refused."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Refused("it is no signed JSON Web Token")
    try:
        header, claims = (json.loads(_decoded(part)) for part in parts[:2])
    except (ValueError, RecursionError):
        raise Refused("it is no JSON Web Token") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Refused("it is no JSON Web Token")
    return header, claims


def _decoded(part: str) -> bytes:
    """Raises ValueError, TypeError."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
