"""A client's side of a resumable upload, step by step."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from store.blobs import located, open_blobs
from store.database import Database
from store.settings import Settings
from store.tables import UploadPart

ON_BOTH_STORES = pytest.mark.parametrize("blob_kind", ["disk", "s3"], indirect=True)
"""Of a test whose settings ask for `blob_kind`."""


class Uploading:
    """A client's side of one upload."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def begin(self, content: bytes = b"", complete: bool = False, **headers: str) -> Any:
        response = self.client.post("/v1/uploads", content=content, headers=self._headers(complete, headers))
        if response.status_code == 201:
            self.path = response.headers["location"]
        return response

    def append(self, content: bytes | Iterator[bytes], offset: int, complete: bool = False, **headers: str) -> Any:
        media_type = {"Content-Type": "application/partial-upload", "Upload-Offset": str(offset)}
        return self.client.patch(self.path, content=content, headers=media_type | self._headers(complete, headers))

    @property
    def offset(self) -> int:
        return int(self.client.head(self.path).headers["upload-offset"])

    @staticmethod
    def _headers(complete: bool, more: dict[str, str]) -> dict[str, str]:
        return {"Upload-Complete": f"?{complete:d}"} | {name.replace("_", "-"): value for name, value in more.items()}


def digest_field(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def content_of(settings: Settings, database: Database, digest: str) -> bytes:
    with database.reading() as session:
        blob = located(session, digest)
    return b"".join(open_blobs(settings).read(blob))


def parts(database: Database) -> list[tuple[int, int]]:
    with database.reading() as session:
        return [(part.start_bytes, part.size_bytes) for part in session.query(UploadPart)]
