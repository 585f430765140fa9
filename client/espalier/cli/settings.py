"""Where the service is, and with which key: a flag, else the environment, else the file that `login` writes."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import click

from espalier.client import Client
from espalier.errors import EspalierError


def path() -> Path:
    """Under XDG_CONFIG_HOME, or where the system keeps such files."""
    return Path(click.get_app_dir("espalier")) / "config.toml"


def client_of(url: str | None, api_key: str | None, patience_seconds: float) -> Client:
    """With a key; without one, in a CI run, with what its OIDC token is exchanged for: ESPALIER_OIDC_AUDIENCE says for
    whom GitHub Actions makes tokens, ESPALIER_OIDC_TOKEN is one from elsewhere.

    Raises:
        EspalierError: the service, or the key, is nowhere.
    """
    audience, token = os.environ.get("ESPALIER_OIDC_AUDIENCE"), os.environ.get("ESPALIER_OIDC_TOKEN")
    if api_key or os.environ.get("ESPALIER_API_KEY") or not (audience or token):
        return Client(*resolved(url, api_key), patience_seconds=patience_seconds)
    url, _ = resolved(url, "none")
    more: dict[str, Any] = {
        "trust_rule": os.environ.get("ESPALIER_TRUST_RULE") or None,
        "patience_seconds": patience_seconds,
    }
    if token:
        return Client.for_token(token, url, **more)
    assert audience
    return Client.for_ci(audience, url, **more)


def resolved(url: str | None, api_key: str | None) -> tuple[str, str]:
    """
    Raises:
        EspalierError: one of them is nowhere.
    """
    kept = _kept()
    url = url or os.environ.get("ESPALIER_URL") or kept.get("url")
    api_key = api_key or os.environ.get("ESPALIER_API_KEY") or kept.get("api_key")
    if not url:
        raise EspalierError("which service? Give --url, set ESPALIER_URL, or run `espalier login` once")
    if not api_key:
        raise EspalierError("with which key? Set ESPALIER_API_KEY, run `espalier login` once, or give --api-key")
    return url, api_key


def keep(url: str, api_key: str) -> Path:
    """For this user's eyes alone."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.urandom(6).hex()}")
    # A string of JSON in ASCII is one of TOML.
    content = f"url = {json.dumps(url)}\napi_key = {json.dumps(api_key)}\n"
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _kept() -> dict[str, str]:
    file = path()
    try:
        content = file.read_text()
    except FileNotFoundError:
        return {}
    try:
        return {key: str(value) for key, value in tomllib.loads(content).items()}
    except tomllib.TOMLDecodeError as error:
        raise EspalierError(f"{file} is no TOML ({error}); mend it, or run `espalier login`") from error
