"""Large files arrive whole whatever happens on the way, and what has arrived is not sent again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from espalier import ApiError, Client
from proxy import Proxy

API_KEY = "esp_a-key-for-the-clients-tests"
MIB = 1 << 20
SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


def large_file(folder: Path, size_bytes: int) -> Path:
    path = folder / "large.safetensors"
    path.write_bytes(SAFETENSORS + os.urandom(size_bytes - len(SAFETENSORS)))
    return path


def test_it_goes_on_where_it_was_cut(api: Any, worker: Any, tmp_path: Path) -> None:
    """First by a plain cut, then by one of which the server hears nothing: its request waits on."""
    path = large_file(tmp_path, 40 * MIB)
    seen: list[tuple[int, int]] = []
    port = api.fleet.settings.port
    with Proxy(port, (28 * MIB, "cut"), (32 * MIB, "hang")) as proxy, Client(proxy.url, API_KEY) as client:
        dataset = client.upload_dataset(path, progress=lambda sent, of: seen.append((sent, of)))
        assert dataset["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert worker.path(dataset["sha256"]).read_bytes() == path.read_bytes()
        assert proxy.sent_bytes < 56 * MIB, "begun anew after each cut, it would be 72 MiB"
        assert seen[-1] == (40 * MIB, 40 * MIB)
        sent_before = proxy.sent_bytes
        again = client.upload_dataset(path)
        assert again["sha256"] == dataset["sha256"]
        assert proxy.sent_bytes - sent_before < MIB, "what the service has is not sent again"


def test_a_server_is_killed_and_comes_back(api: Any, worker: Any, tmp_path: Path) -> None:
    path = large_file(tmp_path, 24 * MIB)

    def restart() -> None:
        api.kill()
        api.launch()

    port = api.fleet.settings.port
    with (
        Proxy(port, (22 * MIB, restart), bytes_a_second=8 * MIB) as proxy,
        Client(proxy.url, API_KEY, patience_seconds=90) as client,
    ):
        dataset = client.upload_dataset(path)
        assert dataset["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert worker.path(dataset["sha256"]).read_bytes() == path.read_bytes()
        assert proxy.sent_bytes < 42 * MIB, "begun anew it would be 46 MiB; of nearly 3 seconds most of 2 was safe"


def test_a_file_that_changes_meanwhile_is_refused(client: Client, worker: Any, tmp_path: Path) -> None:
    path = large_file(tmp_path, 17 * MIB)

    def change(sent: int, of: int) -> None:
        if sent < MIB:
            with path.open("r+b") as file:
                file.seek(16 * MIB)
                file.write(bytes(100))

    with pytest.raises(ApiError, match="digest_mismatch") as caught:
        client.upload_dataset(path, progress=change)
    assert caught.value.status == 422
