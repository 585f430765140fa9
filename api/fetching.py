"""One small JSON document from a server that may be hostile: no redirects, no proxies, a size, a time, and addresses
that are checked at the moment of connecting, so that no name resolves to something else in between."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import threading
from typing import Any, Literal
from urllib.parse import urlsplit

Addresses = Literal["public", "private", "loopback"]
"""Which may be asked: each name allows what those before it do."""

MAX_BYTES = 256 * 1024
STEP_SECONDS = 5.0
"""To connect, and between two pieces of an answer."""
TOTAL_SECONDS = 10.0

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


class FetchFailed(Exception):
    """The message says why, for the log and for whoever made the rule."""


def is_allowed(address: str, allowed: Addresses) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.sixtofour or ip.teredo or ip in _TRANSLATED:
            return False  # an IPv4 address in disguise, of which the checks below know nothing
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return allowed == "loopback"
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False  # the metadata of cloud machines is link-local
    return ip.is_global or allowed != "public"


def fetch_json(url: str, allowed: Addresses) -> dict[str, Any]:
    """The object at an https URL, or at a plain http one of this machine's loopback. Raises FetchFailed."""
    parts = urlsplit(url)
    connection = _Connection(url, allowed)
    watchdog = threading.Timer(TOTAL_SECONDS, connection.cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise FetchFailed(f"{url} answers {answer.status}")
        content = answer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise FetchFailed(f"{url} answers with more than {MAX_BYTES} bytes")
        document = json.loads(content)
    except (OSError, http.client.HTTPException) as error:
        raise FetchFailed(f"{url} does not answer: {type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise FetchFailed(f"{url} does not answer with JSON") from error
    finally:
        watchdog.cancel()
        connection.close()
    if not isinstance(document, dict):
        raise FetchFailed(f"{url} does not answer with a JSON object")
    return document


class _Connection(http.client.HTTPConnection):
    def __init__(self, url: str, allowed: Addresses) -> None:
        parts = urlsplit(url)
        self._is_tls, self._allowed = parts.scheme == "https", allowed
        self.default_port = 443 if self._is_tls else 80
        super().__init__(parts.hostname or "", parts.port or self.default_port, timeout=STEP_SECONDS)
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        resolved = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in resolved if self._may_ask(str(entry[4][0]))]
        if not addresses:
            raise FetchFailed(f"{self.host} has no address that may be asked (ESPALIER_OIDC_ADDRESSES)")
        wire = socket.create_connection((addresses[0], self.port), self.timeout)
        self.sock = self._wire = wire
        if self._is_tls:
            context = ssl.create_default_context()
            tls = context.wrap_socket(wire, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._wire = tls
            tls.do_handshake()

    def _may_ask(self, address: str) -> bool:
        return is_allowed(address, self._allowed) and (self._is_tls or ipaddress.ip_address(address).is_loopback)

    def cut(self) -> None:
        """Whoever drips a byte every few seconds meets this."""
        if self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)
