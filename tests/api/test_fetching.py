"""Fetching from a server that means harm."""

from __future__ import annotations

import time
from typing import Any

import pytest
from issuer import running_issuer

from api import fetching
from api.fetching import FetchFailed, fetch_json, is_allowed


def test_which_addresses_are_asked() -> None:
    for address in ("93.184.215.14", "2606:2800:220:1::1"):
        assert is_allowed(address, "public")
    for address in ("10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1", "::ffff:10.0.0.1", "100.64.0.1"):
        assert not is_allowed(address, "public")
        assert is_allowed(address, "private")
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert not is_allowed(address, "private")
        assert is_allowed(address, "loopback")
    never = ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "::", "240.0.0.1")
    for address in (*never, "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1"):
        assert not is_allowed(address, "loopback")


def test_a_drip_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TOTAL_SECONDS", 0.5)

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"[")
            time.sleep(0.1)

    with running_issuer() as server:
        server.answers["/keys"] = drip
        begun = time.monotonic()
        with pytest.raises(FetchFailed):
            fetch_json(f"{server.url}/keys", "loopback")
        assert time.monotonic() - begun < 3


def test_a_server_without_a_certificate_is_not_believed() -> None:
    with running_issuer() as server, pytest.raises(FetchFailed, match="does not answer"):
        fetch_json(server.url.replace("http:", "https:") + "/keys", "loopback")
