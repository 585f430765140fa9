"""The whole service on one machine, started once for all tests here: SQLite, Valkey, API, worker, sweeper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from espalier import Client
from pydantic import SecretStr

from embedded.serve import Service
from store.settings import Settings

API_KEY = "esp_a-key-for-the-end-to-end-tests"

Settle = Callable[[Path], Settings]


@pytest.fixture(scope="session")
def settle() -> Settle:
    """Settings for a data directory, with short leases: what is lost is found soon."""

    def settings(data_dir: Path) -> Settings:
        key = SecretStr(API_KEY)
        return Settings(
            port=0, data_dir=data_dir, api_key=key, lease_seconds=4, renew_seconds=0.5, sweep_seconds=0.3,
            oidc_addresses="loopback",
        )  # fmt: skip

    return settings


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def service(settle: Settle, data_dir: Path) -> Iterator[Service]:
    with Service(settle(data_dir)) as service:
        yield service


Connect = Callable[[Service], Client]


@pytest.fixture(scope="session")
def connect() -> Connect:
    return lambda service: Client(service.url, API_KEY)


@pytest.fixture(scope="session")
def http(service: Service) -> Iterator[httpx2.Client]:
    """For what the client has no method for."""
    with httpx2.Client(base_url=service.url, headers={"Authorization": f"Bearer {API_KEY}"}) as http:
        yield http


@pytest.fixture(scope="session")
def client(service: Service, connect: Connect) -> Iterator[Client]:
    with connect(service) as client:
        yield client
