"""Statements of provenance, checked offline: the file, the statement, and a public key that you trust.

A DSSE envelope (v1) with an in-toto Statement (v1), signed with Ed25519. Needs `cryptography`:
`pip install 'espalier[verify]'`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.errors import EspalierError, NotVerified

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


def verify(
    file: Path | str, statement: Mapping[str, Any] | bytes | Path | str, public_key: bytes | Path | str
) -> dict[str, Any]:
    """What the statement says of `file`, once the key's owner has signed it for just these bytes.

    Args:
        file: the artifact, as it was downloaded.
        statement: the envelope: as `client.provenance` gave it, as JSON, or a file of it.
        public_key: PEM, or a file of it.

    Raises:
        NotVerified: the key has not signed this, or it is about other bytes. Trust nothing of it then.
        OSError: a file cannot be read.
    """
    payload = _signed_payload(_envelope(statement), _content(public_key))
    try:
        said = json.loads(payload)
        kinds = said["_type"], said["predicateType"]
        digests = [subject["digest"]["sha256"] for subject in said["subject"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotVerified(f"what was signed is no statement: {error!r}") from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise NotVerified(f"what was signed is no provenance but {kinds[1]!r} in {kinds[0]!r}")
    with Path(file).open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest not in digests:
        raise NotVerified(f"{file} is not what the statement is about: its sha256 is {digest}, not {digests}")
    statement_: dict[str, Any] = said
    return statement_


def _envelope(statement: Mapping[str, Any] | bytes | Path | str) -> Mapping[str, Any]:
    if isinstance(statement, Mapping):
        return statement
    try:
        envelope = json.loads(_content(statement))
    except (ValueError, RecursionError) as error:
        raise NotVerified(f"the statement is no JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise NotVerified("the statement is no DSSE envelope")
    return envelope


def _signed_payload(envelope: Mapping[str, Any], pem: bytes) -> bytes:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise EspalierError("checking signatures needs cryptography: pip install 'espalier[verify]'") from error
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise NotVerified(f"the key is no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise NotVerified("the key is no Ed25519 key")
    try:
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
    except (ValueError, KeyError, TypeError) as error:
        raise NotVerified(f"the statement is no DSSE envelope: {error!r}") from error
    if kind != PAYLOAD_TYPE:
        raise NotVerified(f"the envelope holds {kind!r}, not {PAYLOAD_TYPE!r}")
    signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    for signature in signatures:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            continue
        return payload
    raise NotVerified("the statement is not signed by this key, or was changed after it was")


def _content(given: bytes | Path | str) -> bytes:
    return given if isinstance(given, bytes) else Path(given).read_bytes()
