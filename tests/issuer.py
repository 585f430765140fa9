"""A real issuer of tokens over HTTP on loopback: discovery, keys, signatures; and whatever else a test has it say."""

from __future__ import annotations

import json
import secrets
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

Answer = Callable[[BaseHTTPRequestHandler], None]

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
KEYS: dict[str, Key] = {
    "RS256": RSA,
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}
KEYS["Ed25519"] = KEYS["EdDSA"]


class Issuer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[dict[str, Any]] = [key.as_dict(private=False) for key in (*KEYS.values(),)]
        self.answers: dict[str, Answer] = {}
        """By path, instead of what an issuer answers."""
        self.asked: Counter[str] = Counter()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a run of a CI; None takes a claim away."""
        at = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "espalier",
            "sub": "repo:octo-org/network:ref:refs/heads/main",
            "repository": "octo-org/network",
            "ref": "refs/heads/main",
            "iat": at,
            "nbf": at,
            "exp": at + 300,
            "jti": secrets.token_hex(8),
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, algorithm: str = "RS256", key: Key | None = None, header: Any = None, **changes: Any) -> str:
        key = key or KEYS[algorithm]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EdDSA is an old name, and what issuers say
            return jwt.encode(
                {"alg": algorithm, "kid": key.kid, **(header or {})}, self.claims(**changes), key, [algorithm]
            )

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked[handler.path] += 1
        if handler.path in self.answers:
            self.answers[handler.path](handler)
        elif handler.path == "/.well-known/openid-configuration":
            send(handler, {"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        elif handler.path == "/keys":
            send(handler, {"keys": self.keys})
        else:
            handler.send_error(404)


def send(handler: BaseHTTPRequestHandler, document: Any) -> None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # who asked has hung up
                issuer.answer(self)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
