"""Uploads: the file is streamed, and what comes back is what the service made of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from espalier import ApiError, Client, NotReady

LARGE = 48 << 20
SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """As a safetensors file begins, then zeros that take no room on the disk."""
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(SAFETENSORS)
        file.truncate(LARGE)
    return path


@pytest.fixture
def peak_bytes() -> Iterator[Callable[[], int]]:
    """The most memory that Python's objects took since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_model_is_ready_when_its_upload_returns(client: Client, worker: Any, tmp_path: Path) -> None:
    path = tmp_path / "my network.safetensors"
    path.write_bytes(SAFETENSORS + b"weights")
    model = client.upload_model(path, architecture="lenet_300_100", input_shape=(1, 8, 8), num_classes=10)
    assert (model["status"], model["num_parameters"], model["error"]) == ("ready", 640, None)
    assert (model["name"], model["format"]) == ("my network", "safetensors")
    assert (model["size_bytes"], model["sha256"]) == (17, sha256(path.read_bytes()).hexdigest())
    assert (model["architecture"], model["input_shape"]) == ("lenet_300_100", [1, 8, 8])
    assert worker.path(model["sha256"]).read_bytes() == path.read_bytes()
    assert client.model(model["id"]) == model


def test_a_seeded_architecture_needs_no_file(client: Client, worker: Any) -> None:
    model = client.upload_model(b"", architecture="lenet5", format="architecture", name="fresh", num_classes=7)
    assert (model["status"], model["format"], model["name"]) == ("ready", "architecture", "fresh")


def test_who_does_not_wait_gets_it_as_it_is(client: Client) -> None:
    model = client.upload_model(SAFETENSORS, architecture="lenet_300_100", wait=False)
    assert (model["status"], model["name"]) == ("validating", "model")
    dataset = client.upload_dataset(b"PK\x03\x04", wait=False)
    assert (dataset["status"], dataset["name"], dataset["splits"]) == ("validating", "dataset", None)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_dataset_file_says_its_format(client: Client, worker: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"digits{suffix}"
    path.write_bytes(b"PK\x03\x04" if suffix == ".npz" else SAFETENSORS)
    for given in (path, str(path)):
        dataset = client.upload_dataset(given)
        assert (dataset["status"], dataset["name"]) == ("ready", "digits")
        assert dataset["splits"]["train"]["num_examples"] == 1000
        assert dataset["format"] == suffix[1:]
    assert client.dataset(dataset["id"]) == dataset


def test_a_dataset_in_memory_says_its_format_by_its_first_bytes(client: Client, worker: Any) -> None:
    assert client.upload_dataset(SAFETENSORS)["format"] == "safetensors"
    assert client.upload_dataset(b"PK\x03\x04 and so on")["format"] == "npz"


def test_a_stated_format_goes_before_the_name(client: Client, worker: Any, tmp_path: Path) -> None:
    path = tmp_path / "digits.bin"
    path.write_bytes(SAFETENSORS)
    with pytest.raises(ApiError, match="set format=safetensors"):
        client.upload_dataset(path)
    assert client.upload_dataset(path, format="safetensors")["format"] == "safetensors"


def test_arrays_arrive_as_they_are(client: Client, worker: Any) -> None:
    inputs, targets = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3), np.array([0, 1, 2, 1])
    dataset = client.upload_dataset({"train": (inputs, targets), "test": (inputs[:1], [2])}, name="tiny")
    assert (dataset["status"], dataset["name"], dataset["format"]) == ("ready", "tiny", "npz")
    arrived = np.load(BytesIO(worker.path(dataset["sha256"]).read_bytes()))
    assert set(arrived) == {"train.inputs", "train.targets", "test.inputs", "test.targets"}
    assert arrived["train.inputs"].dtype == np.uint8
    assert np.array_equal(arrived["train.inputs"], inputs)
    assert np.array_equal(arrived["train.targets"], targets)
    assert np.array_equal(arrived["test.targets"], [2])


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_an_invalid_file_raises_with_the_services_words(client: Client, worker: Any, kind: str) -> None:
    worker.refused["broken"] = "fc1.weight is missing; save the whole state_dict"
    with pytest.raises(NotReady, match=r"is invalid: fc1\.weight is missing; save the whole state_dict") as caught:
        if kind == "model":
            client.upload_model(SAFETENSORS, architecture="lenet_300_100", name="broken")
        else:
            client.upload_dataset(SAFETENSORS, name="broken")
    document = caught.value.document
    assert (document["object"], document["status"]) == (kind, "invalid")
    assert document["error"]["code"] == "invalid_content"
    assert document["id"] in str(caught.value)


def test_a_large_model_passes_through_little_memory(
    client: Client, worker: Any, large_file: Path, peak_bytes: Callable[[], int]
) -> None:
    model = client.upload_model(large_file, architecture="lenet_300_100")
    assert (model["status"], model["size_bytes"]) == ("ready", LARGE)
    assert peak_bytes() < LARGE / 8


def test_a_large_dataset_passes_through_little_memory(
    client: Client, worker: Any, large_file: Path, peak_bytes: Callable[[], int]
) -> None:
    dataset = client.upload_dataset(large_file)
    assert (dataset["status"], dataset["size_bytes"]) == ("ready", LARGE)
    assert peak_bytes() < LARGE / 8


def test_a_dataset_in_memory_is_not_copied(client: Client, worker: Any, peak_bytes: Callable[[], int]) -> None:
    content = SAFETENSORS + bytes(LARGE)
    tracemalloc.reset_peak()
    before = peak_bytes()
    client.upload_dataset(content)
    assert peak_bytes() - before < LARGE / 8


def test_a_large_file_that_is_refused_at_its_first_bytes_is_refused_with_the_reason(
    client: Client, tmp_path: Path
) -> None:
    """The service answers before all of it was sent; the client must hear that, not a broken connection."""
    path = tmp_path / "weights.pt"
    with path.open("wb") as file:
        file.write(b"\x80\x02")
        file.truncate(LARGE)
    with pytest.raises(ApiError, match=r"safetensors\.torch\.save_file") as caught:
        client.upload_model(path, architecture="lenet_300_100")
    assert (caught.value.status, caught.value.code) == (422, "unsupported_format")


def test_a_file_that_is_not_there(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        client.upload_model(tmp_path / "none.safetensors", architecture="lenet_300_100")
