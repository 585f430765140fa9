"""Takes the pictures of docs/dashboard.md: `make screenshots`. Needs Chromium (apt-get install chromium).

A service of its own, in a folder that goes afterwards, on the digits of scikit-learn.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, sync_playwright
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).parents[1]))
from chaos.recipes import digits_npz
from embedded.serve import Service
from store.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
KEY = "esp_of-the-screenshots-alone"
TRAINING = {"steps": 300, "evaluate_every_steps": 50, "preprocessing": {"scale": 0.0625}}
JOBS: list[dict[str, Any]] = [
    {"strategy": "one_shot"},
    {"strategy": "lottery_ticket_reset", "stop": {"rounds": 12, "accuracy_floor": {"factor": 0.95}}},
    {"strategy": "fine_tune", "stop": {"rounds": 12}},
    {"strategy": "rewind", "stop": {"rounds": 40}, "training": {**TRAINING, "steps": 6000}},
]


def main() -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no Chromium is installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(port=0, data_dir=Path(folder), api_key=SecretStr(KEY), renew_seconds=0.5)
        with Service(settings) as service, sync_playwright() as playwright:
            pages = prepared(service)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                for name, address in pages.items():
                    shoot(browser, service.url, address, scheme, DOCS / f"dashboard-{name}-{scheme}.png")
            browser.close()


def prepared(service: Service) -> dict[str, str]:
    """Addresses by name, once three jobs have ended and the last one has begun."""
    with httpx2.Client(base_url=service.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
        spec = {"architecture": "lenet_300_100", "input_shape": "1,8,8", "num_classes": 10}
        model = http.post("/v1/models", params={"format": "architecture", "name": "digits", **spec}).json()["id"]
        dataset = http.post("/v1/datasets", params={"format": "npz", "name": "digits"}, content=digits_npz())
        rows = {"model": model, "dataset": dataset.json()["id"]}
        for kind, row in rows.items():
            wait_for(http, f"/v1/{kind}s/{row}", "status", "ready")
        jobs = [posted(http, {**rows, "recipe": {"training": TRAINING, **recipe}}) for recipe in JOBS]
        for job in jobs[:-1]:
            wait_for(http, f"/v1/jobs/{job}", "done", True)
        wait_for(http, f"/v1/jobs/{jobs[-1]}", "status", "running")
    return {"overview": "/", "job": f"/jobs/{jobs[1]}", "compare": f"/compare?job={jobs[1]}&job={jobs[2]}"}


def posted(http: httpx2.Client, body: dict[str, Any]) -> str:
    answer = http.post("/v1/jobs", json=body)
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    return str(answer.json()["id"])


def wait_for(http: httpx2.Client, path: str, field: str, value: object) -> None:
    while http.get(path).json()[field] != value:
        time.sleep(0.2)


def shoot(browser: Browser, url: str, address: str, scheme: Any, file: Path) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(url)
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    page.goto(url + address)  # its pictures, too: `load` waits for them
    seen = {"x": 0, "y": 0, "width": 1200, "height": height(page)}
    page.screenshot(path=file, clip=seen, full_page=True)
    context.close()


def height(page: Any) -> int:
    """As far as there is a page, and no further than people look."""
    return min(1500, int(page.evaluate("document.documentElement.scrollHeight")))


if __name__ == "__main__":
    main()
