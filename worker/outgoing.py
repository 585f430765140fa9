"""Requests to addresses that strangers chose, without a way into our own networks.

A name is looked up once; what it gave is judged (`store.addresses`) and then connected to by number. So no second
look-up can give another address (DNS rebinding), and no form of a private address passes. `httpcore2` follows no
redirect and reads no proxy variable. Any port of a public address is allowed: what answers there hears one POST that it
cannot choose, and nothing of its answer but the status is passed on, so there is nothing to look around with.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

from httpcore2 import (
    SOCKET_OPTION,
    ConnectionPool,
    NetworkBackend,
    NetworkError,
    NetworkStream,
    ProtocolError,
    SyncBackend,
    TimeoutException,
)

from store.addresses import is_public
from store.deliveries import Outcome

TIMEOUT_SECONDS = 10.0
"""For all of it, from the look-up of the name (which cannot be cut short) to the head of the answer."""


class Refused(Exception):
    """The URL leads where we do not go."""


def post(
    url: str,
    headers: dict[str, str],
    content: bytes,
    ssl_context: ssl.SSLContext,
    *,
    allow_private: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Outcome:
    """Never raises for what the other side does. Its answer's body is not read."""
    start = time.monotonic()
    status_code = error = None
    try:
        if not allow_private and not url.startswith("https://"):
            raise Refused("use https://")
        backend = _Guarded(start + timeout_seconds, allow_private)
        with (
            ConnectionPool(ssl_context, max_connections=1, network_backend=backend) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=content) as response,
        ):
            status_code = response.status
        if not 200 <= status_code < 300:
            redirects = "; redirects are not followed" if 300 <= status_code < 400 else ""
            error = f"it answered {status_code}{redirects}"
    except TimeoutException:
        error = f"no answer within {timeout_seconds:g} s"
    except Refused as refusal:
        error = str(refusal)
    except ProtocolError:
        error = "its answer is not HTTP"
    except (NetworkError, OSError) as failure:
        error = f"no connection: {failure}"[:300]
    return Outcome(status_code, round((time.monotonic() - start) * 1000), error)


class _Guarded(NetworkBackend):
    """Connects to public addresses alone, and only until the deadline (of `time.monotonic`)."""

    def __init__(self, deadline: float, allow_private: bool) -> None:
        self._deadline, self._allow_private = deadline, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline stands for every time-out
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        addresses = [address for address in _addresses(host, port) if self._allow_private or is_public(address)]
        if not addresses:
            # Which it has, or whether there is such a name in our networks, is none of a stranger's business.
            raise Refused(
                "its name leads to no public address" if not self._allow_private else "its name was not found"
            )
        failure: Exception | None = None
        for number, address in enumerate(addresses):
            share = _left(self._deadline) / (len(addresses) - number)
            try:
                # A number: nothing is looked up any more.
                stream = SyncBackend().connect_tcp(address, port, share, local_address, socket_options)
            except (NetworkError, TimeoutException) as error:
                failure = error
                continue
            return _Bounded(stream, self._deadline)
        assert failure is not None
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    """Numeric, without doubles; none where there is no such name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):  # the latter: no name could be like this
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutException
    return seconds


class _Bounded(NetworkStream):
    """Every read and write ends at the deadline. A time-out for each of them alone would let an answer of one byte a
    second last for ever."""

    def __init__(self, stream: NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Bounded(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
