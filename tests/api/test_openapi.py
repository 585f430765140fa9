"""The document that people and generators read, and the page that shows it without a network."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.testclient import TestClient

from api.problems import PROBLEMS
from pruning.formats.architectures import ARCHITECTURES
from pruning.formats.names import ARCHITECTURE_NAMES


@pytest.fixture
def document(anonymous: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = anonymous.get("/openapi.json").json()
    return document


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_it_has_the_table_of_problems(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(PROBLEMS)
    for code, kind in PROBLEMS.items():
        assert f"| `{code}` | {kind.status} |" in document["info"]["description"]


def test_every_route_of_a_project_says_what_it_refuses_with(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        if not path.startswith("/v1"):
            continue
        for method, operation in item.items():
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            assert {"401", "422", "500", "503"} <= errors.keys(), (method, path)
            assert ("404" in errors) == ("{" in path), (method, path)
            for answer in errors.values():
                assert list(answer["content"]) == ["application/problem+json"]
            assert operation["security"] == [{"key": []}]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_what_a_strategy_fills_in_is_not_required(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["JobRequest"]["required"] == ["model", "dataset", "recipe"]
    for section in ("Recipe", "Criterion", "Training", "Optimizer"):
        assert "required" not in schemas[section]


def test_uploads_are_files(document: dict[str, Any]) -> None:
    for path in ("/v1/models", "/v1/datasets"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}


def test_the_page_needs_no_network(anonymous: TestClient) -> None:
    page = anonymous.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/docs/")
        assert anonymous.get(path).status_code == 200
    assert '"validatorUrl": null' in page
    assert anonymous.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_importing_the_service_leaves_torch_out(python: str) -> None:
    program = "import sys, api.app; api.app.create_app(); print(*sys.modules)"
    loaded = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "pruning.formats.names" in loaded
    assert {"torch", "numpy", "safetensors", "worker"}.isdisjoint(loaded)


def test_the_names_are_those_of_the_architectures() -> None:
    assert tuple(ARCHITECTURES) == ARCHITECTURE_NAMES


def test_catalogue(anonymous: TestClient, client: TestClient) -> None:
    strategies = client.get("/v1/strategies").json()
    assert strategies["object"] == "list"
    by_name = {row["name"]: row for row in strategies["data"]}
    assert {"lottery_ticket_reset", "lottery_ticket_continue", "dropnet"} <= by_name.keys()
    assert by_name["dropnet"]["defaults"]["granularity"] == "unit"
    assert by_name["dropnet"]["source"]
    capabilities = client.get("/v1/capabilities").json()
    assert capabilities["architectures"] == list(ARCHITECTURE_NAMES)
    assert "magnitude" in capabilities["criteria"]
    assert capabilities["granularities"] == ["weight", "unit"]
    assert capabilities["limits"]["rounds"] == 200
