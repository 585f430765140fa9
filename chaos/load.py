"""The users: they post small jobs all the time, over HTTP, again where no answer came; they upload, and order."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import httpx2

from chaos.recipes import RECIPES, digits_npz

PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 3.0
"""Users are impatient: a service that is stopped for longer finishes what they have given up, and will send again."""
UPLOAD_EVERY = 6
"""Posts between two uploads."""
CUT_BYTES = 4 << 20
LIVE = ("queued", "running", "pausing", "paused", "canceling")


class Load:
    """Keeps about `num_live` jobs unfinished until it is ended. What it is told, the service must stand by it."""

    def __init__(self, url: str, api_key: str, seed: int, num_live: int) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {api_key}"}
        self._http = httpx2.Client(base_url=url, headers=self._headers, timeout=ANSWER_SECONDS)
        self._num_live = num_live
        self._models: dict[str, str] = {}
        self._dataset = ""
        self._chance = random.Random(seed)
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._post_on, name="load", daemon=True)
        self.posted: dict[str, str] = {}
        """Job to name of recipe, as acknowledged."""
        self.keys: dict[str, str] = {}
        """Job to the number that its post bore."""
        self.uploaded: dict[str, str] = {}
        """Dataset to sha256, as acknowledged."""
        self.canceled: set[str] = set()
        """Jobs that were asked to be canceled, whatever was answered."""
        self.figures: Counter[str] = Counter()
        self.errors: list[str] = []

    def upload(self, models: dict[str, dict[str, str | int]], dataset: bytes) -> None:
        """What all jobs are about; `models` are parameters by name."""
        for name, spec in models.items():
            params = {"name": name, "format": "architecture", **spec}
            made = self._until_answered("POST", "/v1/models", params=params)
            self._models[name] = made["id"] if made else ""
        made = self._until_answered("POST", "/v1/datasets", params={"name": "d", "format": "npz"}, content=dataset)
        self._dataset = made["id"] if made else ""

    def is_ready(self) -> bool:
        rows = [self.read(f"/v1/models/{model}") for model in self._models.values()]
        rows.append(self.read(f"/v1/datasets/{self._dataset}"))
        return all(row is not None and row["status"] == "ready" for row in rows)

    @property
    def keys_count(self) -> bool:
        """Whether the service says that a job is posted once for each Idempotency-Key."""
        document = self._until_answered("GET", "/openapi.json") or {}
        post = document.get("paths", {}).get("/v1/jobs", {}).get("post", {})
        return any(parameter["name"] == "Idempotency-Key" for parameter in post.get("parameters", []))

    def start(self) -> None:
        self._thread.start()

    @property
    def is_posting(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._http.close()

    def _post_on(self) -> None:
        for number in itertools.count():
            name = self._chance.choice(sorted(RECIPES))
            if number % UPLOAD_EVERY == UPLOAD_EVERY - 1:
                self._upload(number)
            while not self.over.is_set():
                live = self._try_live()
                if live is None or len(live) < self._num_live:
                    break  # where nobody answers, too: that is when a post can be lost
                self.over.wait(PAUSE_SECONDS)
            if self.over.is_set():
                return
            self.post(name, f"post-{number}")

    def post(self, recipe: str, key: str) -> str | None:
        """One job, sent until it is acknowledged: its id. None: never."""
        body = {
            "model": self._models[RECIPES[recipe].model],
            "dataset": self._dataset,
            "recipe": RECIPES[recipe].recipe,
            "artifacts": ["model", "masks", "ticket", "sparse"],
            "max_failures": 100,
            "cache": "off",  # what is compared has to be computed
            "metadata": {"recipe": recipe, "post": key},
        }
        made = self._until_answered("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key})
        if made is None:
            return None
        self.posted[made["id"]], self.keys[made["id"]] = recipe, key
        return str(made["id"])

    def _upload(self, number: int) -> None:
        content = digits_npz(500 + number)
        params = {"name": f"upload-{number}", "format": "npz"}
        headers = {"Idempotency-Key": f"upload-{number}"}
        made = self._until_answered("POST", "/v1/datasets", params=params, content=content, headers=headers)
        if made is not None:
            self.uploaded[made["id"]] = made["sha256"]

    def _until_answered(self, method: str, path: str, **request: Any) -> dict[str, Any] | None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            try:
                response = self._http.request(method, path, **request)
            except httpx2.TransportError:
                self.figures["no answer"] += 1
            else:
                if response.is_success:
                    answer: dict[str, Any] = response.json()
                    return answer
                self.figures[_told(response)] += 1
                if response.status_code <= 500 and not _is_to_come_back(response):
                    self.errors.append(f"{method} {path}: {response.status_code} {response.text[:300]}")
                    return None
            time.sleep(PAUSE_SECONDS)
        self.errors.append(f"{method} {path}: no answer for {PATIENCE_SECONDS:g} s")
        return None

    def read(self, path: str, **params: Any) -> dict[str, Any] | None:
        """Once; None where the service does not answer."""
        try:
            response = self._http.get(path, params=params)
        except httpx2.TransportError:
            return None
        if not response.is_success:
            return None
        answer: dict[str, Any] = response.json()
        return answer

    def _try_live(self, *statuses: str) -> list[str] | None:
        page = self.read("/v1/jobs", status=list(statuses or LIVE), limit=100)
        return None if page is None else [job["id"] for job in page["data"]]

    def order(self, verb: str, pick: float) -> bool:
        """A user's verb on one of the jobs; False where there is none to give it to, or nobody answers."""
        wanted = {"cancel": LIVE, "pause": ("queued", "running"), "resume": ("paused",)}[verb]
        jobs = [job for job in self._try_live(*wanted) or [] if job in self.posted]
        if not jobs:
            return False
        job = jobs[int(pick * len(jobs))]
        if verb == "cancel":
            self.canceled.add(job)  # before it is sent: an answer that is lost may have been a yes
        try:
            return self._http.post(f"/v1/jobs/{job}/{verb}").is_success
        except httpx2.TransportError:
            return False

    def settle(self) -> int | None:
        """Resume what is paused; how many jobs and uploads are not finished yet, None where nobody answers."""
        live = self._try_live()
        paused = self._try_live("paused")
        datasets = self.read("/v1/datasets", limit=100)
        if live is None or paused is None or datasets is None:
            return None
        for job in paused:
            with contextlib.suppress(httpx2.TransportError):
                self._http.post(f"/v1/jobs/{job}/resume")
        return len(live) + len([row for row in datasets["data"] if row["status"] == "validating"])

    def cut_upload(self, pick: float) -> bool:
        """A body that ends in the middle, with its connection. False where there is no service to send it to."""
        content = digits_npz(400) + bytes(CUT_BYTES)
        host, port = self._url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/datasets?name=cut&format=npz HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
            f"Authorization: {self._headers['Authorization']}\r\n\r\n"
        )
        try:
            with socket.create_connection((host, int(port)), timeout=2) as connection:
                connection.sendall(head.encode() + content[: 1 + int(pick * (len(content) - 2))])
                time.sleep(0.2)
        except OSError:
            return False
        return True


def _is_to_come_back(response: httpx2.Response) -> bool:
    """Such as a post whose first sending is not answered yet."""
    in_progress = _told(response) == "409 idempotency_in_progress"
    return in_progress or response.status_code in (408, 429)


def _told(response: httpx2.Response) -> str:
    try:
        return f"{response.status_code} {response.json().get('code', '')}".strip()
    except ValueError:
        return str(response.status_code)
