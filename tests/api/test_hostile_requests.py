"""What no honest client sends. After all of it the service answers, has grown by nothing, and holds the same rows.

Bodies that are no JSON are in test_problems.py, first looks at files in test_uploads.py, files as a worker reads them
(bombs, offsets that overlap or lie) in tests/pruning.
"""

from __future__ import annotations

import gc
import io
import json
import struct
import tracemalloc
import zipfile
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from store.database import Database
from store.tables import Base

JSON = {"Content-Type": "application/json"}
PART = {"Content-Type": "application/partial-upload", "Upload-Complete": "?0"}
HUGE = "9" * 40
LONG = "a" * 100_000

Headers = dict[str, Any] | list[tuple[Any, Any]]
Sent = tuple[str, str, Headers, bytes]


def _bodies() -> list[bytes]:
    recipe = b'"recipe": {"strategy": "one_shot"}'
    return [
        b'{"recipe": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"model": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"model": "mdl_1", "dataset": "ds_1", "priority": NaN, ' + recipe + b"}",
        b'{"model": "mdl_1", "dataset": "ds_1", "priority": 1e308, ' + recipe + b"}",
        b'{"model": "mdl_1", "dataset": "ds_1", "priority": ' + b"9" * 4_000 + b", " + recipe + b"}",
        b'{"model": "mdl_1", "model": "mdl_2", "model": {}, ' + recipe + b"}",
        b'{"model": "\\ud800", "dataset": "\\udfff\\ud800", "\\ud83d": "\\u0000"}',
        b'{"model": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"model": "mdl_1"}',
        '{"model": "mdl_1"}'.encode("utf-16"),
        '{"model": "mdl_1"}'.encode("utf-32"),
        '{"model": "ümlaut"}'.encode("latin-1"),
        b"{" + b",".join(b'"%d": 0' % number for number in range(50_000)) + b"}",
        b'{"metadata": {' + b",".join(b'"%d": "x"' % number for number in range(20_000)) + b"}}",
        b'{"__proto__": {}, "__class__": {}, "constructor": {}}',
        b"\x1f\x8b\x08\x00" + bytes(100),
        b"\x00" * 1000,
    ]


def _zip(name: str, size: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(size))
    return file.getvalue()


def _safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def refused_requests(job_id: str, upload: str) -> list[Sent]:
    model, dataset = "/v1/models?format=safetensors&architecture=lenet5", "/v1/datasets?format=npz"
    content = _safetensors(b"{}")
    return [
        *(("POST", path, JSON, body) for path in ("/v1/jobs", "/v1/keys", "/v1/webhooks") for body in _bodies()),
        *(
            ("POST", "/v1/jobs", [*JSON.items(), ("Idempotency-Key", key)], b"{}")
            for key in ["", LONG, "\x01", "ü".encode(), b"\xff", "a\tb"]
        ),
        # Paths: what is no id is nothing, whatever it decodes to.
        *(
            ("GET", f"/v1/jobs/{odd}", {}, b"")
            for odd in ["%00", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%ff%fe", "%ed%a0%80", "%25%30%30", "a" * 8_000, "%"]
        ),
        *(("GET", path, {}, b"") for path in ["/v1/%2e%2e/metrics/x", "/v1//jobs", "/v1/jobs%00", "/v1/./jobs/.."]),
        *(("GET", f"/docs/assets/{odd}", {}, b"") for odd in ["..%2f..%2fapp.py", "%2e%2e/%2e%2e/app.py", "%00"]),
        # Queries.
        *(
            ("GET", f"/v1/jobs?{query}", {}, b"")
            for query in [
                *(f"limit={HUGE}", "limit=-1", "limit=1&limit=x", "limit=%00", "after=%ff", f"after={LONG[:9_000]}"),
                *("created_after=NaN", f"created_after={HUGE}", "created_before=0000-00-00T00:00:00Z", "status=%00"),
                *("metadata[%00]=a", "metadata[a]=%00", f"metadata[{LONG[:999]}]=a", "metadata[]=a"),
            ]
        ),
        ("GET", f"/v1/jobs/{job_id}/rounds/{HUGE}", {}, b""),
        ("GET", f"/v1/jobs/{job_id}/events?after={HUGE}", {}, b""),
        *(("GET", f"/links?token={token}", {}, b"") for token in ["", "%00", ".", "a.b.c", "%ff", LONG[:9_000]]),
        # Heads.
        *(
            ("GET", "/v1/jobs", {"Authorization": value}, b"")
            for value in [b"Bearer \xff", b"Bearer " + LONG.encode(), b"Bearer \x00", b"Bearer a b", b"bearer"]
        ),
        ("POST", "/v1/jobs", [*JSON.items(), ("Content-Length", "5"), ("Content-Length", "6")], b'{"a":1}'),
        ("POST", "/v1/jobs", [*JSON.items(), ("Content-Length", HUGE)], b"{}"),
        *(
            ("POST", "/v1/jobs", {"Content-Type": odd}, b"{}")
            for odd in ["", ";", "application/", "/json", LONG, "application/json\x00", b"\xff/\xff", "text/json; a="]
        ),
        *(
            ("PATCH", upload, [*PART.items(), ("Upload-Offset", odd)], b"x")
            for odd in ["-1", HUGE, "1.5", "", "0x0", "0, 0", "\x00"]
        ),
        *(("POST", "/v1/uploads", {"Upload-Complete": odd}, b"x") for odd in ["", "1", "?2", "?1?1", "true", LONG]),
        ("POST", "/v1/uploads", {"Upload-Complete": "?0", "Upload-Length": "999999999999999"}, b""),
        *(
            ("POST", "/v1/uploads", {"Upload-Complete": "?1", "Repr-Digest": f"sha-256={odd}"}, b"x")
            for odd in ["", ":", ":=:", ":AAAA:", ":" + LONG + ":", "\x00"]
        ),
        # Files that their first bytes give away.
        *(
            ("POST", model, {}, odd)
            for odd in [
                *(b"", b"\x00" * 7, _safetensors(b"{}", 2**64 - 1), _safetensors(b"{}", 2**63), _safetensors(b"", 0)),
                *(_safetensors(b"[]"), _safetensors(b"{}", 10**8 + 1), _safetensors(b"{}", 3), b"PK\x05\x06" + content),
                *(_zip("../../etc/passwd"), _zip("data.pkl", 1 << 20), b"\x80\x05."),
            ]
        ),
        *(("POST", dataset, {}, odd) for odd in [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x09", content]),
        *(
            ("POST", dataset, {"Content-Encoding": odd}, _zip("a.npy"))
            for odd in ["gzip", "zstd", "br, br, br", "\x00"]
        ),
        *((method, "/v1/jobs", {}, b"") for method in ["TRACE", "PUT", "BREW", "\x00"]),
    ]


def passed_over(job_id: str, artifact_id: str) -> list[tuple[str, Headers]]:
    """As RFC 9110, RFC 7240 and W3C Trace Context ask: what is no such value counts as absent."""
    content = f"/v1/artifacts/{artifact_id}/content"
    return [
        *(
            (content, {"Range": odd})
            for odd in ["bytes", "bytes=", "bytes=-", "bytes=5-1", "bytes=a-b", "lines=0-1", f"lines={HUGE}-", "\x00"]
        ),
        *((content, {"If-None-Match": odd}) for odd in ['"', "W/", ",", LONG, "\x00", b"\xff"]),
        *((f"/v1/jobs/{job_id}", {"Prefer": odd}) for odd in ["wait", "wait=", "wait=-1", "wait=x", ";;=,", "\x00"]),
        *(("/v1/jobs", {"traceparent": odd}) for odd in ["", "00-0-0-0", "ff-" + LONG, "\x00", b"\xff"]),
        *(("/v1/jobs", {"X-Request-Id": odd}) for odd in ["a\r\nSet-Cookie: a=b", LONG, "\x00", b"\xff"]),
        ("/v1/jobs", [(f"X-{number}", "a") for number in range(2_000)]),
    ]


def rows(database: Database) -> dict[str, list[Any]]:
    with database.reading() as session:
        return {
            table.name: sorted(map(repr, session.execute(select(*(c for c in table.c if c.name != "last_used_at")))))
            for table in Base.metadata.sorted_tables
        }


@pytest.fixture
def upload(client: TestClient) -> str:
    begun = client.post("/v1/uploads", headers={"Upload-Complete": "?0", "Upload-Length": "9"})
    return str(begun.headers["location"])


def test_hostile_requests_are_refused_and_leave_nothing(
    client: TestClient, database: Database, job_id: str, upload: str
) -> None:
    before, wrong, grown = rows(database), [], 0
    requests = refused_requests(job_id, upload)
    assert len(requests) > 150

    def answer(sent: Sent) -> None:
        method, path, headers, content = sent
        response = client.request(method, path, headers=headers, content=content)
        is_problem = response.headers.get("content-type") == "application/problem+json"
        if not (400 <= response.status_code < 500 and is_problem and json.loads(response.content)["code"]):
            wrong.append(
                (response.status_code, response.text[:200], method, path[:100], repr((headers, content))[:200])
            )

    for sent in requests:
        answer(sent)
    assert not wrong, "\n".join(map(str, wrong))
    gc.collect()
    tracemalloc.start()
    for sent in requests:
        answer(sent)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 2 << 20, f"{grown} bytes are kept of {len(requests)} requests"
    assert rows(database) == before
    assert client.get("/readyz").json()["status"] == "ready"


def test_heads_that_say_nothing_count_as_absent(client: TestClient, job_id: str) -> None:
    [artifact, *_] = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    wrong = []
    for path, headers in passed_over(job_id, artifact["id"]):
        response = client.get(path, headers=headers)
        if (response.status_code, response.content) != (200, client.get(path).content):
            wrong.append((response.status_code, response.text[:200], path, repr(headers)[:100]))
        assert "\n" not in response.headers["x-request-id"]
        assert "set-cookie" not in response.headers
    assert not wrong, "\n".join(map(str, wrong))
