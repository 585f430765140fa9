"""Models and datasets: taken in, refused by a first look, listed, deleted."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from api.app import create_app
from store.blobs import open_blobs
from store.collection import remove_discarded
from store.database import Database
from store.queue import INTAKE
from store.settings import Settings
from store.tables import Blob

Refused = Callable[..., dict[str, Any]]


def safetensors(header_bytes: int = 64, data_bytes: int = 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [data_bytes // 4], "data_offsets": [0, data_bytes]}})
    return header_bytes.to_bytes(8, "little") + header.encode().ljust(header_bytes) + bytes(data_bytes)


def zipped(name: str = "train.inputs.npy") -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return file.getvalue()


MODEL = "/v1/models?name=lenet&format=safetensors&architecture=lenet_300_100"


def stored_files(settings: Settings, database: Database | None = None) -> list[Path]:
    """With a database: once a collector was there."""
    if database is not None:
        remove_discarded(database, open_blobs(settings))
    return [path for path in settings.blob_dir.rglob("*") if path.is_file()]


def test_a_model_is_stored_and_waits_for_validation(client: TestClient, settings: Settings) -> None:
    content = safetensors(128)
    response = client.post(f"{MODEL}&input_shape=1,8,8&num_classes=10", content=content)
    assert response.status_code == 201
    model = response.json()
    assert response.headers["location"] == f"/v1/models/{model['id']}"
    promised = {"id", "object", "name", "status", "format", "size_bytes", "sha256", "num_parameters", "num_prunable"}
    assert promised | {"layers", "error"} <= model.keys()
    assert model["id"].startswith("mdl_")
    digest = hashlib.sha256(content).hexdigest()
    expected = {
        "object": "model", "name": "lenet", "status": "validating", "format": "safetensors", "sha256": digest,
        "size_bytes": len(content), "architecture": "lenet_300_100", "input_shape": [1, 8, 8], "num_parameters": None,
        "num_prunable": None, "layers": None, "error": None,
    }  # fmt: skip
    assert {key: model[key] for key in expected} == expected
    assert model["created_at"].endswith("Z")
    assert [file.read_bytes() for file in stored_files(settings)] == [content]
    assert client.get(f"/v1/models/{model['id']}").json() == model


def test_an_intake_rings(client: TestClient, settings: Settings) -> None:
    with Redis.from_url(settings.broker_url) as broker:
        before = broker.llen(INTAKE)
        client.post(MODEL, content=safetensors())
        client.post("/v1/datasets?format=npz", content=zipped())
        assert broker.llen(INTAKE) == before + 2
        assert broker.llen(settings.default_pool) == 0, "no worker's slot for jobs is asked"


def test_the_same_content_is_stored_once(client: TestClient, settings: Settings, database: Database) -> None:
    models = [client.post(MODEL, content=safetensors()).json() for _ in range(2)]
    assert models[0]["id"] != models[1]["id"]
    assert models[0]["sha256"] == models[1]["sha256"]
    assert len(stored_files(settings, database)) == 1
    with database.reading() as session:
        assert session.query(Blob).count() == 1


def test_a_seeded_architecture_has_no_body(client: TestClient, refused: Refused, settings: Settings) -> None:
    path = "/v1/models?name=fresh&format=architecture&architecture=lenet5"
    model = client.post(f"{path}&seed=3").json()
    assert (model["status"], model["sha256"], model["size_bytes"]) == ("validating", None, None)
    refused(client.post(path, content=b"weights"), 422, "invalid_request", "")
    assert client.get("/v1/models").json()["data"] == [model]
    assert stored_files(settings) == []


def test_a_ready_model_shows_what_validation_found(client: TestClient, bench: Any) -> None:
    model = client.get(f"/v1/models/{bench.model().id}").json()
    report = bench.model_report()
    assert model["status"] == "ready"
    for key in ("num_parameters", "num_parameters_total", "num_prunable", "num_outputs", "layers", "input_shape"):
        assert model[key] == report[key]


def test_an_invalid_model_says_why(client: TestClient, bench: Any) -> None:
    error = {"code": "invalid_content", "message": "fc1.weight is missing", "retryable": False}
    for path, row in (("models", bench.model(error=error)), ("datasets", bench.dataset(error=error))):
        document = client.get(f"/v1/{path}/{row.id}").json()
        assert (document["status"], document["error"]) == ("invalid", error)


def test_a_dataset(client: TestClient) -> None:
    content = zipped()
    response = client.post("/v1/datasets?name=digits&format=npz", content=content)
    assert response.status_code == 201
    dataset = response.json()
    assert response.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert {"id", "object", "name", "status", "splits", "error"} <= dataset.keys()
    assert (dataset["object"], dataset["name"], dataset["status"]) == ("dataset", "digits", "validating")
    assert dataset["size_bytes"] == len(content)
    assert dataset["splits"] is None


def test_a_ready_dataset_shows_its_splits(client: TestClient, bench: Any) -> None:
    ready = client.get(f"/v1/datasets/{bench.dataset().id}").json()
    assert ready["splits"]["train"]["num_examples"] == 1000


def test_a_report_that_lies_does_not_hide_the_others(client: TestClient, bench: Any) -> None:
    """A child that a stranger's file has taken over reports what it likes."""
    honest = bench.model()
    bench.model(report={"num_parameters": "many", "layers": "all", "input_shape": 7})
    with pytest.warns(UserWarning, match="serialized value"):
        response = client.get("/v1/models")
    assert [row["id"] for row in response.json()["data"]][1] == honest.id


def test_a_first_look_at_models(
    client: TestClient, refused: Refused, settings: Settings, subtests: pytest.Subtests
) -> None:
    for content, code in [
        (pickle.dumps({"a": 1}, protocol=2), "unsupported_format"),
        (pickle.dumps({"a": list(range(500))}, protocol=4), "unsupported_format"),
        (zipped("archive/data.pkl"), "unsupported_format"),
        (b"PK\x05\x06" + bytes(18), "unsupported_format"),
        (b"hello, world, this is no model", "invalid_content"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "[:7], "invalid_content"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "invalid_content"),
        ((64).to_bytes(8, "little") + b"[" + bytes(80), "invalid_content"),
        (safetensors()[:40], "invalid_content"),
        (b"", "invalid_content"),
    ]:
        with subtests.test(content=content, code=code):
            problem = refused(client.post(MODEL, content=content), 422, code, "")
            if code == "unsupported_format":
                assert "safetensors.torch.save_file(model.state_dict(), path)" in problem["detail"]
            assert stored_files(settings) == []
            assert client.get("/v1/models").json()["data"] == []


def test_networks_of_other_frameworks_are_told_what_to_do(
    client: TestClient, refused: Refused, settings: Settings, subtests: pytest.Subtests
) -> None:
    for content, what in [
        (b"\x08\x0a\x12\x07pytorch\x1a\x062.13.0:", "an ONNX file"),
        (b"\x08\x07:\xc2\x9a\x05\n", "an ONNX file"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "Keras"),
        (zipped("metadata.json"), "a Keras file"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
        (b"\x08\x01\x12\x9a\x05", "TensorFlow SavedModel"),
    ]:
        for format in ("exported_program", "safetensors&architecture=lenet5"):
            with subtests.test(what=what, format=format):
                answer = client.post(f"/v1/models?format={format}", content=content)
                problem = refused(answer, 422, "unsupported_format", "")
                assert what in problem["detail"]
                assert "espalier.export_model" in problem["detail"]
    assert stored_files(settings) == []


def test_a_header_whose_length_begins_like_a_pickle(client: TestClient, subtests: pytest.Subtests) -> None:
    for header_bytes in [128, 640, 896, 1152, 1408]:
        with subtests.test(header_bytes=header_bytes):
            content = safetensors(header_bytes)
            assert content.startswith(b"\x80")
            assert client.post(MODEL, content=content).status_code == 201


def test_a_first_look_at_datasets(
    client: TestClient, refused: Refused, settings: Settings, subtests: pytest.Subtests
) -> None:
    for format, content, code, param in [
        ("npz", b"\x93NUMPY\x01\x00v\x00", "invalid_content", ""),
        ("npz", b"1,2,3\n4,5,6", "invalid_content", ""),
        ("npz", pickle.dumps([1, 2]), "unsupported_format", ""),
        ("npz", safetensors(), "invalid_content", "query:format"),
        ("npz", b"", "invalid_content", ""),
        ("safetensors", zipped(), "invalid_content", "query:format"),
        ("safetensors", pickle.dumps([1, 2]), "unsupported_format", ""),
        ("safetensors", bytes(100), "invalid_content", ""),
        ("parquet", b"PAR1", "unsupported_format", "query:format"),
    ]:
        with subtests.test(format=format, content=content, code=code, param=param):
            refused(client.post(f"/v1/datasets?format={format}", content=content), 422, code, param)
            assert stored_files(settings) == []


def test_other_formats_say_what_to_do(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for format in ["onnx", "torch", "pickle", "torchscript", "keras", "gguf", "tflite"]:
        with subtests.test(format=format):
            problem = refused(
                client.post(f"/v1/models?format={format}", content=b"x"), 422, "unsupported_format", "query:format"
            )
            assert "espalier.export_model" in problem["detail"]


def test_a_state_dict_is_told_how_to_be_converted(client: TestClient, refused: Refused) -> None:
    answer = client.post("/v1/models?format=state_dict", content=b"x")
    problem = refused(answer, 422, "unsupported_format", "query:format")
    assert "safetensors.torch.save_file(model.state_dict(), path)" in problem["detail"]


def test_an_architecture_of_another_package_is_taken_by_the_form_of_its_name(client: TestClient) -> None:
    query = {"format": "architecture", "architecture": "timm:resnet18", "arguments": '{"drop_rate": 0.1}'}
    answer = client.post("/v1/models", params=query)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["architecture"], answer.json()["status"]) == ("timm:resnet18", "validating")
    program = client.post("/v1/models?format=exported_program&arguments={}", content=zipped())
    assert (program.status_code, program.json()["param"]) == (422, "query:arguments")


def test_what_is_no_program_is_refused_at_once(
    client: TestClient, refused: Refused, settings: Settings, subtests: pytest.Subtests
) -> None:
    for content, code, param in [
        (b"\x80\x04pickle", "unsupported_format", ""),
        (b"#!/bin/sh\n", "invalid_content", ""),
        (b"", "invalid_content", ""),
        (safetensors(), "invalid_content", "query:format"),
    ]:
        with subtests.test(content=content[:10]):
            refused(client.post("/v1/models?format=exported_program", content=content), 422, code, param)
            assert stored_files(settings) == []


def test_a_program_says_itself_what_it_is(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for name, value in {"architecture": "lenet5", "input_shape": "1,8,8", "num_classes": "10", "seed": "1"}.items():
        with subtests.test(name=name):
            query = f"/v1/models?format=exported_program&{name}={value}"
            problem = refused(client.post(query, content=b"PK\x03\x04"), 422, "invalid_request", f"query:{name}")
            assert f"leave {name} out" in problem["detail"]
    created = client.post("/v1/models?format=exported_program&name=net", content=b"PK\x03\x04 and so on").json()
    assert (created["status"], created["format"], created["architecture"]) == ("validating", "exported_program", None)


def test_wrong_parameters(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for query, param in [
        ("", "query:format"),
        ("format=safetensors", "query:architecture"),
        ("format=architecture&architecture=lenet", "query:architecture"),
        ("format=safetensors&architecture=lenet5&seed=1", "query:seed"),
        ("format=architecture&architecture=lenet5&seed=-1", "query:seed"),
        ("format=architecture&architecture=lenet5&num_classes=1", "query:num_classes"),
        ("format=architecture&architecture=lenet5&input_shape=1,0,8", "query:input_shape"),
        ("format=architecture&architecture=lenet5&input_shape=1x28x28", "query:input_shape"),
        ("format=architecture&architecture=lenet5&name=", "query:name"),
        ("format=architecture&architecture=lenet5&name=%00", "query:name"),
    ]:
        with subtests.test(query=query, param=param):
            problem = refused(client.post(f"/v1/models?{query}"), 422, "invalid_request", param)
            if param == "query:architecture":
                assert "resnet20" in problem["detail"]


def test_forms_and_compressed_bodies_are_refused(client: TestClient, refused: Refused, settings: Settings) -> None:
    response = client.post(MODEL, files={"file": safetensors()})
    problem = refused(response, 415, "unsupported_media_type", "header:content-type")
    assert "--data-binary" in problem["detail"]
    response = client.post(MODEL, content=safetensors(), headers={"Content-Encoding": "gzip"})
    refused(response, 415, "unsupported_media_type", "header:content-encoding")
    # curl's own default for --data-binary
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post(MODEL, content=safetensors(), headers=headers).status_code == 201


@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit(database: Database, settings: Settings, refused: Refused, chunked: bool) -> None:
    content = safetensors(data_bytes=4000)
    asked_for: list[int] = []

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), 1000):
            asked_for.append(start)
            yield content[start : start + 1000]

    assert settings.api_key is not None
    key = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    for limit_bytes, status in ((len(content), 201), (len(content) - 1, 413)):
        small = settings.model_copy(update={"max_upload_bytes": limit_bytes})
        with TestClient(create_app(small), headers=key) as client:
            for path in (MODEL, "/v1/datasets?format=safetensors"):
                response = client.post(path, content=chunks() if chunked else content)
                assert response.status_code == status, response.text
    refused(response, 413, "too_large", "")
    assert len(stored_files(settings, database)) == 1


def test_pages(client: TestClient, refused: Refused) -> None:
    made = [client.post(f"/v1/models?name=m{i}&format=architecture&architecture=lenet5").json()["id"] for i in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for expected in (2, 2, 1):
        page = client.get("/v1/models", params={"limit": 2} | ({"after": cursor} if cursor else {})).json()
        assert page.keys() == {"object", "data", "has_more", "next_cursor"}
        assert page["object"] == "list"
        assert len(page["data"]) == expected
        assert page["has_more"] == (expected == 2)
        cursor = page["next_cursor"]
        seen += [row["id"] for row in page["data"]]
    assert cursor is None
    assert seen == made[::-1]
    assert client.get("/v1/models?status=ready").json()["data"] == []
    assert len(client.get("/v1/models?status=validating").json()["data"]) == 5


def test_delete(client: TestClient, refused: Refused, bench: Any, body: dict[str, Any]) -> None:
    for kind, row in (("model", bench.model()), ("dataset", bench.dataset())):
        path = f"/v1/{kind}s/{row.id}"
        assert client.delete(path).status_code == 204
        refused(client.get(path), 404, "not_found")
        refused(client.delete(path), 404, "not_found")
        refused(client.post("/v1/jobs", json={**body, kind: row.id}), 422, "not_found", f"/{kind}")
    assert client.post("/v1/jobs", json=body).status_code == 201
    for kind in ("model", "dataset"):
        path = f"/v1/{kind}s/{body[kind]}"
        refused(client.delete(path), 409, "in_use")
        assert client.get(path).status_code == 200


def test_another_projects_are_as_none(
    client: TestClient, refused: Refused, bench: Any, other: dict[str, str], body: dict[str, Any]
) -> None:
    for kind in ("model", "dataset"):
        for send in (client.get, client.delete):
            theirs, none = (
                refused(send(f"/v1/{kind}s/{row_id}", headers=other), 404, "not_found")
                for row_id in (body[kind], "mdl_1")
            )
            assert theirs["detail"].replace(body[kind], "mdl_1") == none["detail"]
            assert theirs.keys() == none.keys()
        assert client.get(f"/v1/{kind}s", headers=other).json()["data"] == []
        assert len(client.get(f"/v1/{kind}s").json()["data"]) == 1
    refused(client.post("/v1/jobs", json=body, headers=other), 422, "not_found", "/model")
