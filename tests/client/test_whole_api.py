"""Each operation of the service's OpenAPI document is used by some method of the client; versions that do not fit are
told."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from espalier import VERSION, Client, EspalierError, VersionSkew
from espalier import version as versions

from api.app import create_app
from store.settings import Settings
from store.version import VERSION as SERVICE_VERSION

NOT_FOR_CLIENTS = {
    ("get", "/healthz"),  # for whoever starts the process
    ("get", "/links"),  # what a link opens, by anyone
    ("get", "/v1/uploads/{upload_id}"),  # HEAD says the same
}


def test_all_that_the_service_offers_is_reached(client: Client, tmp_path: Path) -> None:
    """The client is driven over a wire that notes what is asked for and refuses to send it."""
    asked: set[tuple[str, str]] = set()

    @contextmanager
    def noted() -> Iterator[None]:
        stream = client._twin._transport.stream

        def note(method: str, path: str, **_request: Any) -> Any:
            asked.add((method.lower(), path))
            raise EspalierError("noted")

        client._twin._transport.stream = note  # type: ignore[method-assign,assignment]
        yield
        client._twin._transport.stream = stream  # type: ignore[method-assign]

    some: dict[str, Any] = {"model": "X", "dataset": "X", "recipe": {}}
    calls: list[Callable[[], Any]] = [
        lambda: client.upload_model(b""), lambda: client.upload_dataset(b""), lambda: client.models(),
        lambda: client.datasets(), lambda: client.model("X"), lambda: client.dataset("X"), lambda: client.keys(),
        lambda: client.upload_dataset(bytes(16 << 20)), lambda: client.create_job(**some), lambda: client.jobs(),
        lambda: client.plan_job(**some), lambda: client.job("X"), lambda: client.update_job("X"),
        lambda: client.cancel("X"), lambda: client.pause("X"), lambda: client.resume("X"), lambda: client.retry("X"),
        lambda: client.delete_job("X"), lambda: client.delete_model("X"), lambda: client.delete_dataset("X"),
        lambda: client.rounds("X"), lambda: client.round("X", 1), lambda: client.events("X"),
        lambda: client.report("X"), lambda: client.artifacts("X"), lambda: client.artifact("X"),
        lambda: client.download({"id": "X", "sha256": "", "size_bytes": 0}, tmp_path / "x"),  # type: ignore[typeddict-item]
        lambda: client.pareto("X"), lambda: client.pareto_csv("X"), lambda: client.download_plot("X", "x.svg"),
        lambda: client.download_plot("X", "x.svg", of="sensitivity"), lambda: client.sensitivity("X"),
        lambda: client.download_plot("X", "x.png", of="sensitivity"), lambda: client.sensitivity_csv("X"),
        lambda: client.download_plot("X", "x.png"), lambda: client.link("X"), lambda: client.provenance("X"),
        lambda: client.provenance_key(), lambda: client.create_webhook("u", []), lambda: client.webhook("X"),
        lambda: client.webhooks(), lambda: client.update_webhook("X"), lambda: client.delete_webhook("X"),
        lambda: client.rotate_webhook("X"), lambda: client.ping_webhook("X"), lambda: client.deliveries("X"),
        lambda: client.redeliver("X", "X"), lambda: client.create_key("n", []), lambda: client.key("X"),
        lambda: client.update_key("X"), lambda: client.rotate_key("X"), lambda: client.revoke_key("X"),
        lambda: client.create_project("n"), lambda: client.project("X"), lambda: client.projects(),
        lambda: client.update_project("X"), lambda: client.delete_project("X"), lambda: client.trust_rules(),
        lambda: client.create_trust_rule("n", issuer="", audience="", conditions={}, scopes=[]),
        lambda: client.trust_rule("X"), lambda: client.update_trust_rule("X"), lambda: client.delete_trust_rule("X"),
        lambda: client.audit_log(), lambda: client.strategies(), lambda: client.capabilities(),
        lambda: client.readiness(), lambda: client.workers(), lambda: client.metrics(),
        lambda: client.request("HEAD", "/v1/uploads/X"), lambda: client.request("PATCH", "/v1/uploads/X"),
        lambda: client.request("DELETE", "/v1/uploads/X"), lambda: client.request("POST", "/v1/auth/token"),
    ]  # fmt: skip
    with noted():
        for call in calls:
            with pytest.raises(EspalierError, match="noted"):
                list(call())
    offered = {
        (method, path)
        for path, operations in create_app(Settings(data_dir=tmp_path)).openapi()["paths"].items()
        for method in operations
        if method in ("get", "post", "patch", "delete", "head", "put")
    }
    wanted = {(method, re.sub(r"\{number\}", "1", path)) for method, path in offered - NOT_FOR_CLIENTS}
    assert {(method, re.sub(r"\{\w+\}", "X", path)) for method, path in wanted} - asked == set()


def test_the_service_names_its_version_and_the_client_fits(client: Client) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", VersionSkew)
        assert client.capabilities()["version"] == SERVICE_VERSION
    assert versions.compared(SERVICE_VERSION) is None, "the two are released together"


def test_a_service_of_another_version_is_told_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.compared, "__defaults__", ("7.1.0",))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VersionSkew)
        client.capabilities()
        client.capabilities()
    (warning,) = told
    assert f"the service is {SERVICE_VERSION} and this client 7.1.0, which is newer" in str(warning.message)


@pytest.mark.parametrize(
    ("service", "client", "advice"),
    [
        ("0.1.0", "0.1.9", None),
        ("1.2.0", "1.9.0", None),
        ("0.2.0", "0.1.0", r"older: pip install 'espalier==0\.2\.\*'"),
        ("2.0.1", "1.4.0", r"older: pip install 'espalier==2\.\*'"),
        ("0.1.0", "0.2.0", r"newer: pip install 'espalier==0\.1\.\*', or upgrade the service"),
        ("a proxy's own", "0.2.0", None),
    ],
)
def test_which_versions_fit(service: str, client: str, advice: str | None) -> None:
    said = versions.compared(service, client)
    assert (said is None) if advice is None else (said is not None and re.search(advice, said))


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
