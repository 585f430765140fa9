"""The dashboard in a real browser, on a real service with a real worker."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chromium import WAIT_MS, opened_page, running_chromium
from playwright.sync_api import Browser, Locator, Page, expect

from chaos.recipes import TRAINING, digits_npz
from embedded.serve import Service

API_KEY = "esp_a-key-for-the-end-to-end-tests"
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
LONG = '{"training": {"steps": 2000, "evaluate_every_steps": 1000, "preprocessing": {"scale": 0.0625}}}'
SHORT = {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}, "training": TRAINING}
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def rows(browser: Browser, http: httpx2.Client) -> dict[str, str]:
    """A ready model and dataset whose names are programs, were they not text. After the browser: without one nothing
    is started."""
    spec = {"format": "architecture", "architecture": "lenet_300_100", "input_shape": "1,8,8", "num_classes": 10}
    made = {
        "model": http.post("/v1/models", params={**spec, "name": HOSTILE}).json()["id"],
        "dataset": http.post("/v1/datasets", params={"format": "npz", "name": HOSTILE}, content=digits_npz(900)).json()[
            "id"
        ],
    }
    for kind, row_id in made.items():
        wait_for(http, f"/v1/{kind}s/{row_id}", "status", "ready")
    return made


@pytest.fixture(scope="module")
def ended(http: httpx2.Client, rows: dict[str, str]) -> list[str]:
    """Two jobs that have succeeded, by different strategies."""
    ids = []
    for strategy in ("lottery_ticket_reset", "fine_tune"):
        body = {**rows, "recipe": {**SHORT, "strategy": strategy}, "metadata": {HOSTILE[:64]: HOSTILE}}
        answer = http.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    for job_id in ids:
        wait_for(http, f"/v1/jobs/{job_id}", "done", True)
    return ids


def wait_for(http: httpx2.Client, path: str, field: str, value: object) -> dict[str, Any]:
    """By long polls; the test's own limit ends it."""
    seen: dict[str, Any] = {}
    etag = '"none"'
    while seen.get(field) != value:
        answer = http.get(path, headers={"If-None-Match": etag, "Prefer": "wait=5"}, timeout=60)
        if answer.status_code == 200:
            seen, etag = answer.json(), answer.headers.get("etag", '"none"')
            assert seen.get("status") not in ("failed", "invalid"), seen
    return seen


def log_in(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("API key").fill(API_KEY)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def drawn(image: Locator) -> Locator:
    """The same, once it is there and has come whole. (What asks a page by `eval` is refused by its policy.)"""
    expect(image).not_to_have_js_property("naturalWidth", 0)
    return image


@pytest.mark.timeout(300)
def test_a_job_from_the_form_to_its_end(browser: Browser, service: Service, rows: dict[str, str]) -> None:
    with opened_page(browser) as page:
        log_in(page, service)
        page.get_by_role("link", name="New job").click()
        page.locator("#new-job select[name=model]").select_option(rows["model"])
        page.locator("#new-job select[name=dataset]").select_option(rows["dataset"])
        page.locator("#new-job select[name=strategy]").select_option("lottery_ticket_reset")
        page.locator("#new-job input[name=rounds]").fill("90")
        page.locator("#new-job input[name=floor]").fill("5")
        page.get_by_text("Recipe as JSON").click()
        page.locator("#recipe").fill("{")
        page.get_by_role("button", name="Check it").click()
        expect(page.get_by_role("alert")).to_contain_text("The recipe is not JSON")
        page.locator("#recipe").fill('{"training": {"steps": -1}}')
        page.get_by_role("button", name="Check it").click()
        expect(page.get_by_role("alert")).to_contain_text("/recipe/training")
        page.locator("#recipe").fill(LONG)
        page.get_by_role("button", name="Check it").click()
        expect(page.get_by_role("status")).to_contain_text(re.compile(r"can be done: \d+ rounds"))
        page.get_by_role("button", name="Start the job").click()
        page.wait_for_url(re.compile(r"/jobs/job_\w+$"))

        curve = page.locator("#plots img").first
        before = drawn(curve).get_attribute("src")
        assert before is not None
        expect(curve).not_to_have_attribute("src", before)  # it has grown, and nobody reloaded the page
        drawn(curve)
        page.locator("#recipe summary").click()
        expect(page.locator("#recipe pre")).to_contain_text("accuracy_floor")

        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#head")).to_contain_text("paused")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#head")).to_contain_text(re.compile("queued|running"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#head .status")).to_have_text("canceled")
        expect(page.get_by_role("button", name="Retry")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


@pytest.mark.timeout(300)
def test_two_jobs_side_by_side(browser: Browser, service: Service, ended: list[str]) -> None:
    with opened_page(browser, scheme="dark") as page:
        log_in(page, service)
        page.get_by_role("link", name="Compare").click()
        for slot, job_id in enumerate(ended, start=1):
            page.get_by_label(f"Job {slot}").select_option(job_id)
        page.get_by_role("button", name="Compare").click()
        table = page.get_by_role("table")
        for words in ("lottery ticket reset", "fine tune", "Weights left"):
            expect(table).to_contain_text(words)
        images = page.locator("#plots img")
        expect(images).to_have_count(4)
        for image in images.all():
            drawn(image)
        assert all("theme=dark" in address for address in images.evaluate_all("all => all.map(i => i.currentSrc)"))


@pytest.mark.timeout(300)
def test_a_download_is_the_artifact(browser: Browser, service: Service, http: httpx2.Client, ended: list[str]) -> None:
    job = http.get(f"/v1/jobs/{ended[0]}").json()
    files = http.get(f"/v1/jobs/{ended[0]}/artifacts").json()["data"]
    [model] = [file for file in files if file["round"] == job["selected_round"] and file["kind"] == "model"]
    with opened_page(browser) as page:
        log_in(page, service)
        page.goto(f"{service.url}/jobs/{ended[0]}")
        with page.expect_download() as download:
            page.locator(f"#files-{job['selected_round']}").get_by_role("link", name=model["filename"]).click()
        assert hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest() == model["sha256"]


@pytest.mark.timeout(300)
def test_every_page_on_a_phone_and_what_others_wrote_is_text(
    browser: Browser, service: Service, rows: dict[str, str], ended: list[str], subtests: pytest.Subtests
) -> None:
    """Nothing but a table or a picture is wider than the screen; no name of a stranger becomes a part of a page."""
    pages = ["/", "/jobs", "/jobs/new", f"/jobs/{ended[0]}", "/models", f"/models/{rows['model']}", "/datasets"]
    grounds = set()
    for scheme in ("light", "dark"):
        with opened_page(browser, scheme, **PHONE) as page:
            page.goto(f"{service.url}/login")
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            log_in(page, service)
            for path in [*pages, f"/datasets/{rows['dataset']}", f"/compare?job={ended[0]}&job={ended[1]}"]:
                with subtests.test(path=path, scheme=scheme):
                    page.goto(service.url + path)
                    expect(page.get_by_role("main")).to_contain_text(HOSTILE[:28])
                    assert page.locator("img[src=x], main script").count() == 0
                    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@pytest.mark.timeout(300)
def test_by_keyboard_alone(browser: Browser, service: Service, ended: list[str]) -> None:
    with opened_page(browser) as page:
        page.goto(f"{service.url}/jobs/{ended[0]}")
        page.keyboard.type("esp_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("unknown")
        page.keyboard.type(API_KEY)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{service.url}/jobs/{ended[0]}")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Tab")
        for name in ("Espalier", "Overview", "Jobs"):
            expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()
            page.keyboard.press("Tab") if name != "Jobs" else page.keyboard.press("Enter")
        page.wait_for_url(f"{service.url}/jobs")
        cookies = page.context.cookies()
        assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Strict")]
        assert API_KEY not in page.content()
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.get_by_role("button", name="Log out").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert page.context.cookies() == []


def test_the_policy_holds(browser: Browser, service: Service) -> None:
    """A script that came into a page would not run: what the tests above look for would be seen."""
    with pytest.raises(AssertionError, match="Content Security Policy"), opened_page(browser) as page:
        page.goto(service.url)
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.ran = true";
                document.body.append(script);
            }"""
        )
        assert page.evaluate("window.ran") is None
