"""What every request works with, opened once for the life of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.hashes import Hashes
from api.issuers import Issuers
from api.polled import Polls
from api.rate_limits import Rates
from api.underway import Underway
from api.waiting import Waiting
from store.blobs import BlobStore, open_blobs
from store.database import Database
from store.queue import Bell
from store.settings import Settings

EXCHANGES = "60/minute"
"""Tokens that one address may offer: each that is refused costs an entry in the audit log."""

LOGINS = "20/minute"
"""Keys that one address may show to the login page."""


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    blobs: BlobStore
    bell: Bell
    waiting: Waiting
    polls: Polls
    rates: Rates | None
    """Of the keys; None: they may ask as often as they like."""
    issuers: Issuers
    exchanges: Rates
    """Of the callers without a key, by address; counted by each process."""
    logins: Rates
    """Of the browsers that show a key, by address; counted by each process."""
    hashes: Hashes = field(default_factory=Hashes)
    underway: Underway = field(default_factory=Underway)


@contextmanager
def opened(settings: Settings) -> Iterator[Services]:
    database = Database(settings.database)
    services = Services(
        settings,
        database,
        open_blobs(settings),
        Bell(settings.broker_url),
        Waiting(database),
        Polls(database),
        Rates(settings.rate_limit, settings.broker_url) if settings.rate_limit else None,
        Issuers(settings.oidc_addresses),
        Rates(EXCHANGES, None),
        Rates(LOGINS, None),
    )
    try:
        yield services
    finally:
        if services.rates is not None:
            services.rates.close()
        services.bell.close()
        services.database.close()


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Here = Annotated[Services, Depends(services_of)]
"""A parameter of a route: the services of this process."""
