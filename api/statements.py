"""Where an artifact comes from, said so that others can check it: in-toto's Statement v1 with SLSA's provenance v1 as
predicate, in a DSSE envelope, signed with the service's own Ed25519 key.

The bytes that are signed are those of the envelope's payload: whoever checks them parses nothing before.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from store.derived_keys import derived_key
from store.provenance import Origin
from store.settings import Settings

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:espalier:prune:v1"


@dataclass(frozen=True)
class SigningKey:
    private: Ed25519PrivateKey

    @classmethod
    def of(cls, settings: Settings) -> SigningKey:
        """The same on every machine that has the service's secret, for as long as it has it."""
        return cls(Ed25519PrivateKey.from_private_bytes(derived_key(settings.secret(), "provenance")))

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> str:
        """A hint for whoever has several keys: the sha256 of the public key's DER form."""
        der = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    def enveloped(self, statement: dict[str, Any]) -> dict[str, Any]:
        """DSSE v1: {payloadType, payload, signatures}."""
        payload = canonical_json(statement)
        signature = self.private.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": self.id, "sig": base64.b64encode(signature).decode()}],
        }


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: the type is signed with the payload, and neither can pass for the other."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)


def canonical_json(value: Any) -> bytes:
    """One form for equal values: keys sorted, no spaces, ASCII, floats as Python's `repr` has them. Not RFC 8785, which
    has no whole numbers beyond 2^53, and so no seeds of ours."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def statement_of(origin: Origin) -> dict[str, Any]:
    """Of what is fixed once a round is stored: equal whenever it is asked for, though parents' files may be gone."""
    job, round_, attempt = origin.job, origin.round, origin.attempt
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": origin.artifact.filename, "digest": {"sha256": origin.artifact.blob_digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": job.recipe, "gates": job.gates, "select": job.select},
                "internalParameters": {
                    "artifact": origin.artifact.kind,
                    "format": origin.artifact.format,
                    "round": round_.number,  # null: the final entry
                    "position": round_.position,
                    "sparsity": round_.sparsity,
                    "determinism": attempt.determinism,
                    **({"adoptedFrom": f"urn:espalier:{round_.adopted_from}"} if round_.adopted_from else {}),
                },
                "resolvedDependencies": [
                    _resource("model", origin.model.id, origin.model.blob_digest),
                    _resource("dataset", origin.dataset.id, origin.dataset.blob_digest),
                    {
                        "name": "recipe",
                        "digest": {"sha256": hashlib.sha256(canonical_json(job.recipe)).hexdigest()},
                        "mediaType": "application/json",
                    },
                    *_parents(origin),
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:espalier:service", "version": {"espalier": attempt.code_version or "unknown"}},
                "metadata": {
                    "invocationId": f"urn:espalier:{job.id}:attempt:{attempt.number}",
                    "startedOn": _time(attempt.started_at),
                    "finishedOn": _time(round_.created_at),
                },
            },
        },
    }


def _parents(origin: Origin) -> list[dict[str, Any]]:
    """The files of the round before, from which this one went on; and of this round, where the artifact was exported
    from it."""
    parents = []
    for name, row in (("previous round", origin.previous), ("this round", origin.round)):
        if row is None or (row is origin.round and origin.artifact.kind in row.digests):
            continue
        for kind in ("model", "masks"):
            digest = row.digests.get(kind)
            parents.append(_resource(f"{name}: {kind}", f"{row.job_id}:position:{row.position}:{kind}", digest))
    return parents


def _resource(name: str, id_: str, digest: str | None) -> dict[str, Any]:
    digests = {"digest": {"sha256": digest}} if digest else {}
    return {"name": name, "uri": f"urn:espalier:{id_}", **digests}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
