"""What is wrong with a job is said before any training, with a remedy, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import func, select
from starlette.testclient import TestClient

from store.tables import Base

Refused = Callable[..., dict[str, Any]]
Refuses = Callable[..., dict[str, Any]]


@pytest.fixture
def refuses(client: TestClient, refused: Refused, bench: Any) -> Refuses:
    """refuses(body, status, code, param): posted or only validated, it is refused alike; no row, no message is left."""
    pool = bench.settings.default_pool

    def left() -> dict[str, int]:
        with bench.database.reading() as session, Redis.from_url(bench.settings.broker_url) as broker:
            rows = {t.name: session.scalar(select(func.count()).select_from(t)) for t in Base.metadata.sorted_tables}
            return rows | {"messages": broker.llen(pool)}

    def post(body: dict[str, Any] | str, status: int, code: str, param: str) -> dict[str, Any]:
        content = body if isinstance(body, str) else json.dumps(body)
        before = left()
        problem, validated = (
            refused(
                client.post(path, content=content, headers={"Content-Type": "application/json"}), status, code, param
            )
            for path in ("/v1/jobs", "/v1/jobs?validate_only=true")
        )
        assert left() == before
        assert problem | {"request_id": ""} == validated | {"request_id": ""}
        return problem

    return post


def recipe(**sections: Any) -> dict[str, Any]:
    return {"recipe": {"strategy": "lottery_ticket_reset", **sections}}


HALF = {"kind": "one_shot", "sparsity": 0.5}
NEVER = {"rounds": None}
ALL_ALIKE = {"overrides": {"output": {"rate": None}}}
UNITS = {"granularity": "unit", "criterion": {"name": "activation"}}


def test_a_body_that_is_not_refused_leaves_its_row(refuses: Refuses, body: dict[str, Any]) -> None:
    """The fixture sees what it says it sees."""
    with pytest.raises(AssertionError, match="201"):
        refuses(body, 422, "invalid_request", "")


def test_fields_that_are_wrong(refuses: Refuses, body: dict[str, Any], subtests: pytest.Subtests) -> None:
    for changes, param, word in [
        ({"surprise": 1}, "/surprise", "Extra inputs"),
        ({"model": None}, "/model", "string"),
        ({"model": "mdl 1"}, "/model", "pattern"),
        ({"recipe": None}, "/recipe", ""),
        (recipe(strategy="lottery"), "/recipe/strategy", "use one of lottery_ticket_reset, lottery_ticket_continue"),
        (recipe(strategy=None), "/recipe/criterion", "required"),
        (recipe(surprise=1), "/recipe/surprise", "Extra inputs"),
        (recipe(schedule={"fraction": 1}), "/recipe/schedule/fraction", "less than 1"),
        (recipe(schedule={"kind": "odd", "fraction": 0.1}), "/recipe/schedule/kind", "'fraction'"),
        (recipe(schedule={"kind": "one_shot", "sparsity": 2}), "/recipe/schedule/sparsity", "less than 1"),
        (recipe(schedule={**HALF, "fraction": 0.1}), "/recipe/schedule/fraction", "Extra inputs"),
        (recipe(schedule={"kind": "geometric", "sparsity": 0.5}), "/recipe/schedule/rounds", "required"),
        (recipe(schedule="one_shot"), "/recipe/schedule", "dictionary"),
        (recipe(criterion={"name": "activation"}), "/recipe/granularity", "set granularity to unit"),
        (
            recipe(criterion={"name": "apoz"}, granularity="2:4", schedule=HALF, stop=NEVER, scope=ALL_ALIKE),
            "/recipe/granularity",
            "set granularity to unit",
        ),
        (recipe(granularity="2:4"), "/recipe/schedule", "set schedule to one_shot with sparsity 0.5"),
        (recipe(granularity="2:4", scope={"kind": "global"}), "/recipe/scope", "set scope.kind to layerwise"),
        (recipe(schedule=HALF), "/recipe/scope/overrides/output/rate", "set it to null"),
        (
            recipe(scope={"kind": "erk", "overrides": {"fc1": {"rate": 2}}}),
            "/recipe/scope/overrides/fc1/rate",
            "set scope.kind to layerwise",
        ),
        (recipe(strategy="dropnet", scope={"kind": "row"}), "/recipe/scope", "set it to layerwise or global"),
        (recipe(between_rounds={"weights": "rewind"}), "/recipe/between_rounds", "set step"),
        (recipe(between_rounds={"step": 5}), "/recipe/between_rounds", "leave it out"),
        (recipe(strategy="rewind", training={"steps": 100}), "/recipe/between_rounds/step", "lower it"),
        (recipe(**{"finally": {"weights": "rewind"}}), "/recipe/finally/weights", "use reset"),
        (recipe(controls=["random_weights"]), "/recipe/controls/0", "'random_mask'"),
        (recipe(training={"optimizer": {"momentum": 0.9}}), "/recipe/training/optimizer", "leave them out"),
        (recipe(training={"learning_rate": {"kind": "linear"}}), "/recipe/training/learning_rate/kind", "'cosine'"),
        (recipe(training={"learning_rate": {"warmup_steps": 2000}}), "/recipe/training", "lower it below steps"),
        (recipe(training={"loss": "mse", "label_smoothing": 0.1}), "/recipe/training", "leave label_smoothing out"),
        (recipe(training={"steps": -1}), "/recipe/training/steps", "greater than"),
        (recipe(training={"steps": 1, "epochs": 1}), "/recipe/training", "exactly one of steps and epochs"),
        (recipe(training={"preprocessing": {"mean": "a"}}), "/recipe/training/preprocessing/mean", "number"),
        (recipe(training={"preprocessing": {"std": [1, 0]}}), "/recipe/training/preprocessing/std", "greater than 0"),
        (recipe(training={"preprocessing": {"std": [1, "a"]}}), "/recipe/training/preprocessing/std", "number"),
        (recipe(stop={"rounds": None}), "/recipe/stop", "nothing would end the job"),
        (recipe(stop={"rounds": 201}), "/recipe/stop/rounds", "200"),
        (recipe(strategy="snip", stop={"sparsity": 0.95}), "/recipe/stop/sparsity", "more than the schedule's 0.9"),
        (recipe(strategy="gradual", stop={"rounds": 19}), "/recipe/stop/rounds", "set schedule.rounds to 19"),
        (recipe(stop={"accuracy_floor": {"factor": 1, "value": 0.5}}), "/recipe/stop/accuracy_floor", "not both"),
        (recipe(scope={"overrides": {"fc1": {"rate": -1}}}), "/recipe/scope/overrides/fc1/rate", "greater than 0"),
        (recipe(**{"finally": {"weights": "odd"}}), "/recipe/finally/weights", "'none'"),
        ({"gates": [{"metric": "accuracy", "value": 1}, {"metric": "auc", "value": 1}]}, "/gates/1/metric", "'loss'"),
        (
            {"gates": [{"metric": "accuracy", "value": 1}, {"metric": "f1", "value": 1}]},
            "/gates/1/metric",
            "there is no f1; use one of accuracy, loss",
        ),
        ({"gates": [{"metric": "accuracy", "value": 0.9, "split": "test"}]}, "/gates/0/split", "'validation'"),
        ({"select": "first"}, "/select", "'best'"),
        ({"pool": "no pool"}, "/pool", "pattern"),
        ({"pool": ""}, "/pool", "pattern"),
        ({"pool": "intake"}, "/pool", "queue of uploads"),
        ({"priority": 101}, "/priority", "100"),
        ({"priority": 0.5}, "/priority", "integer"),
        ({"max_failures": 0}, "/max_failures", "1"),
        ({"deadline_seconds": 0}, "/deadline_seconds", "greater than 0"),
        ({"queue_timeout_seconds": -1}, "/queue_timeout_seconds", "greater than 0"),
        ({"keep_rounds": "some"}, "/keep_rounds", "'all'"),
        ({"cache": "maybe"}, "/cache", "'on'"),
        ({"artifacts": ["model", "tflite"]}, "/artifacts/1", "'ticket'"),
        ({"artifacts": []}, "/artifacts", "at least 1"),
        ({"metadata": {"a": 1}}, "/metadata/a", "string"),
        ({"metadata": {f"k{i}": "" for i in range(17)}}, "/metadata", "16"),
    ]:
        with subtests.test(changes=changes):
            problem = refuses({**body, **changes}, 422, "invalid_request", param)
            assert word in problem["errors"][0]["message"]
            assert problem["retryable"] is False


def test_every_wrong_field_is_told_at_once(refuses: Refuses) -> None:
    problem = refuses({"priority": 1000}, 422, "invalid_request", "/model")
    assert [fault["param"] for fault in problem["errors"]] == ["/model", "/dataset", "/recipe", "/priority"]
    assert [fault["code"] for fault in problem["errors"]] == ["missing"] * 3 + ["less_than_equal"]
    assert problem["detail"].startswith("4 errors")


def test_numbers_that_are_none(refuses: Refuses, body: dict[str, Any], subtests: pytest.Subtests) -> None:
    """Python's own writer makes them of a float without a value."""
    for literal in ("NaN", "Infinity", "-Infinity", "1e999"):
        with subtests.test(literal=literal):
            content = json.dumps({**body, "gates": [{"metric": "accuracy", "value": 0.75}]}).replace("0.75", literal)
            problem = refuses(content, 400, "invalid_json", "")
            assert literal in problem["detail"]


def test_recipes_that_cannot_work_on_this_model(
    refuses: Refuses, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    ignored = {"fc1": {"ignore": True}, "fc2": {"ignore": True}}
    nine = {"overrides": {"output": {"rate": None}, "fc1": {"min_units": 9}}}
    n_of_m = {"schedule": HALF, "stop": NEVER, "scope": ALL_ALIKE}
    for sections, param, word in [
        ({"stop": {"sparsity": 0.99}}, "/recipe/stop/sparsity", "set stop.rounds to 27 or more"),
        ({"stop": {"rounds": None, "sparsity": 0.9999}}, "/recipe/stop/sparsity", "lower stop.sparsity"),
        ({"scope": {"overrides": {"fc9": {"ignore": True}}}}, "/recipe/scope/overrides/fc9", "did you mean fc2, fc1"),
        ({"scope": {"kind": "layerwise", "overrides": ignored}}, "/recipe/scope/overrides", "left to prune"),
        ({"training": {"batch_size": 1001}}, "/recipe/training/batch_size", "set it to 1000 or less"),
        (
            {"training": {"preprocessing": {"mean": [0.1, 0.2]}}},
            "/recipe/training/preprocessing/mean",
            "one value for each",
        ),
        (
            {"granularity": "unit", "scope": {"overrides": {"fc1": {"min_units": 31}}}},
            "/recipe/scope/overrides/fc1/min_units",
            "only 30 units",
        ),
        ({"granularity": "2:4", **n_of_m}, "/recipe/granularity", "no multiple of 4: fc2 (30); set ignore"),
        ({"granularity": "4:8", **n_of_m}, "/recipe/granularity", "no multiple of 8: fc2 (30); set ignore"),
        (
            {**UNITS, "scope": nine, "schedule": {"kind": "one_shot", "sparsity": 0.8}, "stop": NEVER},
            "/recipe/schedule/sparsity",
            "would leave 6 of layer fc1's 30 units, of which min_units keeps 9; lower it, or min_units",
        ),
        (
            {"strategy": "wanda", "schedule": {"sparsity": 0.99}},
            "/recipe/schedule/sparsity",
            "nearly none of each of layer fc2's rows' 30 weights, of which 1 always stays; lower it to 0.966",
        ),
        (
            {**UNITS, "scope": nine, "stop": {"rounds": None, "sparsity": 0.8}},
            "/recipe/stop/sparsity",
            "round 6 ends at 0.7000; nothing more can be pruned there; lower stop.sparsity, or min_units",
        ),
        ({"stop": {"rounds": 2, "sparsity": 0.5}}, "/recipe/stop/sparsity", "set stop.rounds to 4 or more"),
        (
            {"strategy": "rewind", "between_rounds": {"step": 34}, "training": {"epochs": 2}},
            "/recipe/between_rounds/step",
            "step 34 lies behind the 34 steps",
        ),
        (
            {"training": {"epochs": 2, "learning_rate": {"warmup_steps": 34}}},
            "/recipe/training/learning_rate/warmup_steps",
            "34 steps to warm up leave none of the 34",
        ),
    ]:
        with subtests.test(sections=sections):
            problem = refuses({**body, **recipe(**sections)}, 422, "recipe_refused", param)
            assert word in problem["detail"]


def test_the_remedies_work(client: TestClient, body: dict[str, Any], subtests: pytest.Subtests) -> None:
    """What the refusals above say to do, done."""
    for sections in (
        {"stop": {"rounds": 27, "sparsity": 0.99}},
        {"scope": {"overrides": {"fc1": {"ignore": True}}}},
        {"training": {"batch_size": 1000}},
        {"training": {"preprocessing": {"mean": [0.1]}}},
        {**UNITS, "scope": {"overrides": {"fc1": {"min_units": 9}}}},
        {**UNITS, "scope": {"overrides": {"fc1": {"min_units": 9}}}, "stop": {"rounds": None, "sparsity": 0.7}},
        {
            **UNITS,
            "scope": {"overrides": {"output": {"rate": None}, "fc1": {"min_units": 6}}},
            "schedule": {"kind": "one_shot", "sparsity": 0.8},
            "stop": NEVER,
        },
        {
            "granularity": "2:4",
            "schedule": HALF,
            "scope": {"overrides": {"output": {"rate": None}, "fc2": {"ignore": True}}},
        },
        {"strategy": "gradual", "stop": {"rounds": 19}, "schedule": {"rounds": 19}},
        {"stop": {"rounds": 4, "sparsity": 0.5}},
        {"strategy": "wanda", "schedule": {"sparsity": 0.966}},
        {"strategy": "rewind", "between_rounds": {"step": 33}, "training": {"epochs": 2}},
        {"strategy": "rewind", "training": {"steps": 101}},
        {"training": {"epochs": 2, "learning_rate": {"warmup_steps": 33}}},
    ):
        with subtests.test(sections=sections):
            assert client.post("/v1/jobs", json={**body, **recipe(**sections)}).status_code == 201


def test_units_that_cannot_be_pruned(client: TestClient, refuses: Refuses, body: dict[str, Any], bench: Any) -> None:
    report = bench.model_report()
    for layer in report["layers"]:
        layer |= {"prunable": ["weight"], "group": None, "reason": "its units are summed with others"}
    body["model"] = bench.model(report).id
    assert client.post("/v1/jobs", json=body).status_code == 201
    problem = refuses({**body, "recipe": {"strategy": "dropnet"}}, 422, "recipe_refused", "/recipe/granularity")
    assert "summed with others" in problem["detail"]
    assert "set granularity to weight" in problem["detail"]


def test_datasets_that_do_not_fit(
    refuses: Refuses, bench: Any, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for model_changes, dataset_changes, word in [
        ({"input_shape": [1, 28, 28]}, {}, "[1, 28, 28]"),
        ({}, {"input_shape": [64]}, "[64]"),
        ({}, {"num_classes": 11}, "num_classes=11"),
        ({"num_outputs": 2}, {}, "2 outputs"),
        ({"input_dtype": "int64"}, {}, "convert the inputs to int64"),
        ({}, {"input_dtype": "int64"}, "convert the inputs to float32"),
    ]:
        with subtests.test(model_changes=model_changes, dataset_changes=dataset_changes):
            body["model"] = bench.model(bench.model_report(**model_changes)).id
            body["dataset"] = bench.dataset(bench.dataset_report(**dataset_changes)).id
            assert word in refuses(body, 422, "dataset_mismatch", "/dataset")["detail"]


def test_losses_that_do_not_fit_the_targets(
    client: TestClient, refuses: Refuses, bench: Any, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    flags = {"task": "multi_label", "target_shape": [10]}
    numbers = {"task": "regression", "target_shape": [10], "num_classes": None}
    tokens = {"task": "tokens", "target_shape": [8], "input_shape": [8], "input_dtype": "int64"}
    line = {"input_shape": [8], "input_dtype": "int64", "output_shape": [8, 10]}
    for model_changes, dataset_changes, wrong, remedy in [
        ({}, {}, "mse", "cross_entropy"),
        ({}, flags, "cross_entropy", "binary_cross_entropy or mse"),
        ({}, flags, "next_token", "binary_cross_entropy"),
        ({}, numbers, "binary_cross_entropy", "mse"),
        (line, tokens, "cross_entropy", "next_token"),
    ]:
        with subtests.test(dataset=dataset_changes, loss=wrong):
            body["model"] = bench.model(bench.model_report(**model_changes)).id
            body["dataset"] = bench.dataset(bench.dataset_report(**dataset_changes)).id
            refused = {**body, **recipe(training={"loss": wrong})}
            problem = refuses(refused, 422, "recipe_refused", "/recipe/training/loss")
            assert f"set it to {remedy}" in problem["detail"]
            mended = {**body, **recipe(training={"loss": remedy.split(" ")[0]})}
            assert client.post("/v1/jobs", json=mended).status_code == 201


def test_what_needs_an_accuracy_where_there_is_none(
    client: TestClient, refuses: Refuses, bench: Any, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    """No floor and no gate reads a metric that the recipe's loss does not measure; choices take the loss instead."""
    numbers = {"task": "regression", "target_shape": [10], "num_classes": None}
    body["dataset"] = bench.dataset(bench.dataset_report(**numbers)).id
    mse = {"training": {"loss": "mse"}}
    floor = {"accuracy_floor": {"factor": 0.9}}
    at_floor, at_gate = "/recipe/stop/accuracy_floor", "/gates/0/metric"
    for changes, param, word in [
        (recipe(**mse, stop=floor), at_floor, "set stop.accuracy_floor to null"),
        (recipe(**mse, strategy="dropnet"), at_floor, "(but loss, mae, r2)"),
        ({**recipe(**mse), "gates": [{"metric": "accuracy", "value": 0.9}]}, at_gate, "use one of loss, mae, r2"),
        ({**recipe(**mse), "gates": [{"metric": "perplexity", "value": 9}]}, at_gate, "use one of loss, mae, r2"),
        ({**recipe(**mse), "gates": [{"metric": "accuracy_ratio", "value": 1}]}, at_gate, "there is no accuracy_ratio"),
    ]:
        with subtests.test(changes=changes):
            assert word in refuses({**body, **changes}, 422, "invalid_request", param)["errors"][0]["message"]
    for changes in (
        recipe(**mse, stop={"patience": 2}),
        recipe(**mse, strategy="dropnet", stop={"accuracy_floor": None}),
        {**recipe(**mse), "gates": [{"metric": "sparsity", "value": 0.5}]},
        {**recipe(**mse), "select": "best", "gates": [{"metric": "r2", "value": 0.9}, {"metric": "mae", "value": 9}]},
    ):
        with subtests.test(changes=changes):
            assert client.post("/v1/jobs", json={**body, **changes}).status_code == 201


def test_a_criterion_needs_its_data(refuses: Refuses, body: dict[str, Any], subtests: pytest.Subtests) -> None:
    for strategy in ("wanda", "snip", "grasp", "dropnet", "dropnet_apoz"):
        with subtests.test(strategy=strategy):
            given = {**body, **recipe(strategy=strategy)}
            refuses({**given, "dataset": None}, 422, "invalid_request", "/dataset")
            del given["dataset"]
            refuses(given, 422, "invalid_request", "/dataset")


def test_outputs_that_do_not_fit_the_targets(
    refuses: Refuses, bench: Any, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    tokens = {"task": "tokens", "target_shape": [8], "input_shape": [8], "input_dtype": "int64", "num_classes": 11}
    line = {"input_shape": [8], "input_dtype": "int64"}
    for model_changes, dataset_changes, word in [
        ({}, {"task": "multi_label", "target_shape": [9], "num_classes": 9}, "num_classes=9"),
        ({}, {"task": "regression", "target_shape": [], "num_classes": None}, "num_classes=1"),
        (line, tokens, "(batch, length, vocabulary)"),
        ({**line, "output_shape": [8, 10]}, tokens, "num_classes=11"),
        ({**line, "output_shape": [8, 10]}, {**tokens, "task": "classification"}, "(batch, classes)"),
    ]:
        with subtests.test(model_changes=model_changes, dataset_changes=dataset_changes):
            body["model"] = bench.model(bench.model_report(**model_changes)).id
            body["dataset"] = bench.dataset(bench.dataset_report(**dataset_changes)).id
            assert word in refuses(body, 422, "dataset_mismatch", "/dataset")["detail"]


def test_augmentation_is_of_images(refuses: Refuses, bench: Any, body: dict[str, Any]) -> None:
    body["model"] = bench.model(bench.model_report(input_shape=[64])).id
    body["dataset"] = bench.dataset(bench.dataset_report(input_shape=[64])).id
    augmented = {**body, **recipe(training={"augmentation": {"flip": True}})}
    refuses(augmented, 422, "recipe_refused", "/recipe/training/augmentation")


def test_fewer_classes_than_outputs_fit(client: TestClient, bench: Any, body: dict[str, Any]) -> None:
    body["dataset"] = bench.dataset(bench.dataset_report(num_classes=3)).id
    assert client.post("/v1/jobs", json=body).status_code == 201


def test_the_validation_split_is_taken_from_train(
    client: TestClient, refuses: Refuses, bench: Any, body: dict[str, Any]
) -> None:
    def of(num_examples: int, batch_size: int) -> dict[str, Any]:
        dataset = bench.dataset(bench.dataset_report("train", num_examples=num_examples))
        return {**body, "dataset": dataset.id, **recipe(training={"batch_size": batch_size})}

    assert client.post("/v1/jobs", json=of(100, 90)).status_code == 201
    refuses(of(100, 91), 422, "recipe_refused", "/recipe/training/batch_size")
    assert client.post("/v1/jobs", json=of(10, 9)).status_code == 201
    refuses(of(9, 1), 422, "dataset_mismatch", "/dataset")


def test_what_is_not_there(refuses: Refuses, body: dict[str, Any]) -> None:
    refuses({**body, "model": "mdl_unknown"}, 422, "not_found", "/model")
    refuses({**body, "dataset": "ds_unknown"}, 422, "not_found", "/dataset")
    swapped = {**body, "model": body["dataset"], "dataset": body["model"]}
    refuses(swapped, 422, "not_found", "/model")


def test_what_was_found_invalid(refuses: Refuses, bench: Any, body: dict[str, Any]) -> None:
    error = {"code": "invalid_content", "message": "the sky fell", "retryable": False}
    for kind, add in (("model", bench.model), ("dataset", bench.dataset)):
        problem = refuses({**body, kind: add(error=error).id}, 422, "invalid_reference", f"/{kind}")
        assert "the sky fell" in problem["detail"]


def test_what_is_still_validated(client: TestClient, refuses: Refuses, body: dict[str, Any]) -> None:
    model = client.post("/v1/models?format=architecture&architecture=lenet5").json()
    dataset = client.post("/v1/datasets?format=npz", content=b"PK\x03\x04").json()
    for kind, row in (("model", model), ("dataset", dataset)):
        refused = {**body, kind: row["id"]}
        assert refuses(refused, 409, "not_ready", f"/{kind}")["retryable"] is True
        assert client.post("/v1/jobs", json=refused).headers["retry-after"] == "1"


def test_tokens_are_not_scaled(refuses: Refuses, bench: Any, body: dict[str, Any], client: TestClient) -> None:
    body["model"] = bench.model(bench.model_report(input_dtype="int64")).id
    body["dataset"] = bench.dataset(bench.dataset_report(input_dtype="int64")).id
    assert client.post("/v1/jobs", json=body).status_code == 201
    recipe = {**body["recipe"], "training": {"preprocessing": {"scale": 0.5}}}
    refuses({**body, "recipe": recipe}, 422, "recipe_refused", "/recipe/training/preprocessing")


def test_tokens_are_not_ones(refuses: Refuses, bench: Any, body: dict[str, Any]) -> None:
    body["model"] = bench.model(bench.model_report(input_dtype="int64")).id
    body["dataset"] = bench.dataset(bench.dataset_report(input_dtype="int64")).id
    problem = refuses({**body, **recipe(strategy="synflow")}, 422, "recipe_refused", "/recipe/criterion/name")
    assert "use snip" in problem["detail"]


def test_a_program_is_to_be_exported_again(refuses: Refuses, bench: Any, body: dict[str, Any]) -> None:
    """It has no architecture to be added again with."""
    body["model"] = bench.model(format="exported_program").id
    for changes, word in [({"num_classes": 11}, "export it with 11"), ({"input_shape": [64]}, "export the model for")]:
        body["dataset"] = bench.dataset(bench.dataset_report(**changes)).id
        assert word in refuses(body, 422, "dataset_mismatch", "/dataset")["detail"]
