"""The document that people and generators read, and the page that shows it without a network."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from starlette.testclient import TestClient

from api.problems import PROBLEMS
from api.reference import reference
from pruning.criteria import CRITERIA
from pruning.formats.architectures import ARCHITECTURES
from pruning.formats.names import ARCHITECTURE_NAMES
from pruning.recipe import Recipe
from pruning.scopes import SCOPES
from pruning.strategies import STRATEGIES
from pruning.training_options import METRICS_OF_LOSS


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
        if not path.startswith("/v1") or path == "/v1/auth/token":
            continue
        for method, operation in item.items():
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            assert {"401", "403", "422", "429", "500", "503"} <= errors.keys(), (method, path)
            assert ("404" in errors) == ("{" in path), (method, path)
            for answer in errors.values():
                assert list(answer["content"]) == ["application/problem+json"]
            assert operation["security"] == [{"key": []}]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_post_of_a_project_takes_a_key(document: dict[str, Any]) -> None:
    """And what is a secret of an answer is never stored with it: see `api.idempotency.ShownOnce`."""
    posts = [item["post"] for path, item in document["paths"].items() if path.startswith("/v1/") and "post" in item]
    posts = [operation for operation in posts if "security" in operation]
    assert len(posts) > 15
    for operation in posts:
        assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]
        assert "idempotency_in_progress" in operation["responses"]["409"]["description"]
        assert "idempotency_mismatch" in operation["responses"]["422"]["description"]
        for status in operation["responses"].keys() & {"200", "201"}:
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            shown = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
            for name in shown.keys() & {"key", "secret", "token", "access_token", "password"}:
                assert shown[name].get("x-shown-once"), name
    schemas = document["components"]["schemas"]
    assert schemas["LinkDocument"]["properties"]["url"]["x-shown-once"], "whoever has it has the file"


def test_every_json_body_and_every_problem_has_an_example_that_fits(document: dict[str, Any]) -> None:
    bodies = [
        body
        for item in document["paths"].values()
        for operation in item.values()
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items()
        if media_type == "application/json"
    ]
    assert len(bodies) > 12
    problem = {"$ref": "#/components/schemas/Problem"}
    problems = document["components"]["examples"]
    assert list(problems) == list(PROBLEMS)
    for schema, example in [
        *((body["schema"], body["example"]) for body in bodies),
        *((problem, told["value"]) for told in problems.values()),
    ]:
        jsonschema.Draft202012Validator({"components": document["components"], **schema}).validate(example)


def test_the_reference_is_up_to_date() -> None:
    """Else: python -m api.reference > docs/api.md"""
    page = Path(__file__).parents[2] / "docs" / "api.md"
    assert page.read_text(encoding="utf-8") == reference()


def test_what_a_strategy_fills_in_is_not_required(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["JobRequest"]["required"] == ["model", "dataset", "recipe"]
    for section in (
        *("Recipe", "Criterion", "Scope", "BetweenRounds", "Finally", "Stop", "Training", "Optimizer", "LearningRate"),
        *(f"{kind}Schedule" for kind in ("Fraction", "OneShot", "Geometric", "Polynomial")),
    ):
        assert "required" not in schemas[section]


def values(schema: dict[str, Any]) -> list[str]:
    return schema["enum"] if "enum" in schema else [schema["const"]]


def test_it_lists_every_choice_of_a_recipe(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for section, field, choices in [
        (
            *("Criterion", "name"),
            ["magnitude", "random", "activation", "apoz", "taylor", "snip", "grasp", "synflow", "wanda"],
        ),
        ("Criterion", "keep", ["high", "low"]),
        ("Recipe", "granularity", ["weight", "unit", "2:4", "4:8"]),
        ("Scope", "kind", ["layerwise", "global", "row", "erk"]),
        ("FractionSchedule", "of", ["remaining", "original"]),
        ("BetweenRounds", "weights", ["reset", "rewind", "continue", "reinit"]),
        ("BetweenRounds", "learning_rate", ["restart", "rewind", "continue", "constant"]),
        ("BetweenRounds", "optimizer_state", ["fresh", "keep"]),
        ("Finally", "weights", ["none", "reset", "rewind", "reinit"]),
        ("AccuracyFloor", "on_floor", ["last_passing", "literal"]),
        ("Optimizer", "name", ["sgd", "adam", "adamw"]),
        ("LearningRate", "kind", ["constant", "step", "cosine", "one_cycle"]),
        ("Training", "loss", ["cross_entropy", "binary_cross_entropy", "mse", "next_token"]),
        ("Training", "precision", ["float32", "bfloat16"]),
        ("Gate", "metric", ["accuracy", "loss", "f1", "mae", "r2", "perplexity", "accuracy_ratio", "sparsity"]),
    ]:
        assert values(schemas[section]["properties"][field]) == choices
    schedule = schemas["Recipe"]["properties"]["schedule"]
    sections = [branch["$ref"].rpartition("/")[2] for branch in schedule["anyOf"]]
    assert [values(schemas[section]["properties"]["kind"]) for section in sections] == [
        ["fraction"],
        ["one_shot"],
        ["geometric"],
        ["polynomial"],
    ]
    assert schemas["Recipe"]["properties"]["controls"]["items"]["enum"] == ["random_reinit", "random_mask"]


def test_it_shows_every_field_of_a_recipe_in_full(document: dict[str, Any]) -> None:
    """What a job echoes is what a generator's types can hold."""
    schemas = document["components"]["schemas"]

    def check(value: Any, schema: dict[str, Any]) -> None:
        if not isinstance(value, dict):
            return
        branches = [schemas[branch["$ref"].rpartition("/")[2]] for branch in _branches(schema) if "$ref" in branch]
        [section] = [s for s in branches if value.keys() == s["properties"].keys()]
        for field, part in value.items():
            if field != "overrides":
                check(part, section["properties"][field])

    for name in STRATEGIES:
        check(Recipe.model_validate({"strategy": name}).to_json(), {"$ref": "/Recipe"})


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    branches: list[dict[str, Any]] = schema.get("anyOf") or [schema]
    return branches


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


PRESETS = {
    *("lottery_ticket_reset", "lottery_ticket_continue", "rewind", "learning_rate_rewind", "fine_tune", "gradual"),
    *("one_shot", "dropnet", "dropnet_layerwise", "dropnet_maximum", "dropnet_random", "dropnet_apoz"),
    *("random_reinit", "random_mask", "snip", "grasp", "synflow", "wanda"),
}


def test_catalogue(client: TestClient, body: dict[str, Any]) -> None:
    strategies = client.get("/v1/strategies").json()
    assert strategies["object"] == "list"
    by_name = {row["name"]: row for row in strategies["data"]}
    assert by_name.keys() == PRESETS
    assert not strategies["has_more"]
    assert by_name["dropnet"]["defaults"]["granularity"] == "unit"
    for name, row in by_name.items():
        assert row["title"]
        assert re.search(r"(19|20)\d\d", row["source"]), "who proposed it, and when"
        assert client.post("/v1/jobs?validate_only=true", json=body | {"recipe": {"strategy": name}}).status_code == 200
        assert client.post("/v1/jobs?validate_only=true", json=body | {"recipe": row["defaults"]}).status_code == 200
    capabilities = client.get("/v1/capabilities").json()
    assert capabilities["architectures"] == list(ARCHITECTURE_NAMES)
    assert set(capabilities["strategies"]) == PRESETS
    assert capabilities["criteria"] == list(CRITERIA)
    assert capabilities["granularities"] == ["weight", "unit", "2:4", "4:8"]
    assert capabilities["scopes"] == list(SCOPES)
    assert capabilities["losses"] == {loss: list(metrics) for loss, metrics in METRICS_OF_LOSS.items()}
    assert capabilities["limits"]["rounds"] == 200
