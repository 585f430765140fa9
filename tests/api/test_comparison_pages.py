"""The dashboard's pages of comparisons over HTTP."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from store.database import Database
from store.keys import add_key
from store.tables import Comparison, Dataset, Model

HERE = {"Origin": "http://testserver"}
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
RECIPES = [
    {"name": "reset", "recipe": {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}}},
    {"name": "continue", "recipe": {"strategy": "lottery_ticket_continue", "stop": {"rounds": 2}}},
]
Opened = Callable[..., TestClient]
Posted = Callable[..., dict[str, Any]]


@pytest.fixture
def compared(client: TestClient, body: dict[str, Any]) -> Posted:
    """Two recipes, two seeds."""

    def post(**changes: Any) -> dict[str, Any]:
        asked = {"model": body["model"], "dataset": body["dataset"], "recipes": RECIPES, "seeds": [3, 5]}
        answer = client.post("/v1/comparisons", json={**asked, **changes})
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    return post


@pytest.fixture
def opened(client: TestClient, database: Database, project: str) -> Opened:
    """A browser with the cookie of a session whose key has these scopes; the client that was there is it."""

    def log_in(*scopes: str, key: str | None = None) -> TestClient:
        if key is None:
            with database.transaction() as session:
                _, key = add_key(session, project_id=project, name="k", scopes=scopes)
        client.headers.pop("Authorization", None)
        client.cookies.clear()
        answer = client.post("/login", data={"key": key, "next": "/"}, headers=HERE, follow_redirects=False)
        assert answer.status_code == 303
        return client

    return log_in


def run(bench: Any, num_jobs: int = 4, **changes: Any) -> None:
    """Works as a worker does: `continue` loses 0.1 a round, and seed 5 is 0.02 better."""
    for _ in range(num_jobs):
        job = bench.claim()
        loses = 0.1 if job.recipe["strategy"] == "lottery_ticket_continue" else 0.0
        for number, removed in enumerate((0.0, 0.2, 0.4)):
            accuracy = 0.9 - loses * number + (0.02 if job.recipe["seed"] == 5 else 0.0)
            bench.store_round(job, number, accuracy, removed, **{"compression_ratio": 1 / (1 - removed), **changes})
        bench.complete(job, 2)


def section(page: str, name: str) -> str:
    """Its text, tags left out."""
    found = re.search(rf'<section[^>]* id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None, name
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[0])).split())


def buttons(page: str) -> list[str]:
    return re.findall(r'data-post="([^"]+)"', page)


def test_a_page_from_the_first_look_to_the_end(compared: Posted, opened: Opened, bench: Any) -> None:
    whole = compared()
    browser = opened("write", "read")
    path = f"/comparisons/{whole['id']}"
    before = browser.get(path)
    assert "data-live" in before.text
    assert "0 of 4 jobs" in section(before.text, "state")
    assert "No pruned round is stored yet." in section(before.text, "recommendation")
    for part in whole["parts"]:
        assert f'href="/jobs/{part["job"]}"' in before.text
    same = browser.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")

    run(bench)
    after = browser.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert "data-live" not in after.text
    recommendation = section(after.text, "recommendation")
    assert "goal met" in recommendation
    assert "Take round 2 of reset, 40.0% of all parameters removed" in recommendation
    table = section(after.text, "table")
    assert "2 recommended front 40.00% 40.00% 91.00% ± 1.41% 90.00% 92.00% – 2" in table
    assert "2 40.00% 40.00% 71.00% ± 1.41% 70.00% 72.00% – 2" in table
    front = section(after.text, "front")
    assert "40.00% reset 2 91.00% ± 1.41% 2 front recommended" in front
    assert "40.00% continue 2 71.00% ± 1.41% 2 dominated" in front

    best = browser.get(f"/v1{path}/recommendation").json()
    assert best["artifacts"]
    for artifact in best["artifacts"]:
        assert f'href="/v1/artifacts/{artifact["id"]}/content"' in after.text
    for address in re.findall(r'(?:src|srcset)="(/v1/comparisons/[^"]+)"', after.text):
        assert browser.get(html.unescape(address)).headers["content-type"] == "image/svg+xml"
    for address in re.findall(r'href="(/v1/comparisons/[^"]+)"', after.text):
        assert browser.get(address).status_code == 200


def test_what_came_nearest_is_told_as_such(compared: Posted, opened: Opened, bench: Any) -> None:
    whole = compared(goal={"metric": "accuracy", "value": 0.95})
    run(bench)
    told = section(opened("read").get(f"/comparisons/{whole['id']}").text, "recommendation")
    assert "nearest, goal missed" in told
    assert "Nothing meets the goal. Nearest came" in told


def test_controls_stand_in_the_table_and_on_no_front(compared: Posted, opened: Opened, bench: Any) -> None:
    whole = compared(controls=["random_mask"])
    measured = {"validation": {"accuracy": 0.5, "loss": 1.0}}
    run(bench, controls={"random_mask": {"metrics": measured, "steps": 10}})
    page = opened("read").get(f"/comparisons/{whole['id']}").text
    assert "reset control: random mask" in section(page, "table")
    assert "random mask" not in section(page, "front")


def test_listed_and_linked(compared: Posted, opened: Opened, bench: Any) -> None:
    whole = compared(metadata={"branch": "main"})
    browser = opened("read")
    assert 'href="/comparisons"' in browser.get("/").text
    for asked, is_there in (("", True), ("?done=false", True), ("?done=true", False), ("?done=&model=", True)):
        page = browser.get(f"/comparisons{asked}")
        assert (page.status_code, f'href="/comparisons/{whole["id"]}"' in page.text) == (200, is_there), asked
    assert browser.get("/comparisons?model=%3Cb%3E").status_code == 422
    assert f'href="/comparisons/{whole["id"]}"' in browser.get(f"/jobs/{whole['parts'][0]['job']}").text


def test_buttons_are_what_its_jobs_and_the_key_allow(compared: Posted, opened: Opened) -> None:
    whole = compared()
    path = f"/comparisons/{whole['id']}"
    browser = opened("read")
    assert buttons(browser.get(path).text) == []
    assert browser.post(f"/v1{path}/cancel", headers=HERE).status_code == 403
    browser = opened("read", "write")
    for expected, pressed in (
        (["pause", "cancel"], "pause"),
        (["resume", "cancel"], "resume"),
        (["pause", "cancel"], "cancel"),
        (["retry"], "retry"),
        (["pause", "cancel"], None),
    ):
        assert buttons(browser.get(path).text) == [f"/v1{path}/{verb}" for verb in expected]
        if pressed is not None:
            assert browser.post(f"/v1{path}/{pressed}", headers=HERE).json()["object"] == "comparison"


def test_what_others_wrote_is_text(
    compared: Posted, opened: Opened, bench: Any, database: Database, subtests: pytest.Subtests
) -> None:
    whole = compared(metadata={HOSTILE[:64]: HOSTILE})
    control = {"metrics": {"validation": {"accuracy": 0.5}}}
    run(bench, controls={HOSTILE: control}, steps=HOSTILE, seconds=HOSTILE)
    with database.transaction() as session:
        row = session.get_one(Comparison, whole["id"])
        row.recipes = [{**recipe, "name": HOSTILE + str(index)} for index, recipe in enumerate(row.recipes)]
        session.get_one(Model, whole["model"]).name = HOSTILE
        session.get_one(Dataset, whole["dataset"]).name = HOSTILE
    browser = opened("read", "write")
    for path in ("/comparisons", f"/comparisons/{whole['id']}"):
        with subtests.test(path=path):
            page = browser.get(path)
            assert page.status_code == 200, page.text
            assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
            assert "<img src=x" not in page.text
            assert not re.search(r"<style|<script>| style=|javascript:|https?://", page.text)
            assert page.headers["content-security-policy"].startswith("default-src 'none';")


@pytest.mark.parametrize("accuracy", [1.7e308, -1e300, 10**400, "=cmd()", None, 1e99])
def test_numbers_that_are_none(compared: Posted, opened: Opened, bench: Any, accuracy: Any) -> None:
    """A report comes from a process that is not trusted."""
    whole = compared()
    odd = {"metrics": {"validation": {"accuracy": accuracy, "loss": 0.1}}, "steps": 10**400, "early_stopping": 5}
    run(bench, num_jobs=1, **odd)
    run(bench, num_jobs=3)
    browser = opened("read")
    for path in ("/comparisons", f"/comparisons/{whole['id']}", f"/v1/comparisons/{whole['id']}/plot.svg"):
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text


def test_a_part_and_a_model_that_are_deleted(compared: Posted, opened: Opened, bench: Any) -> None:
    whole = compared()
    run(bench)
    browser = opened("read", "write")
    assert browser.delete(f"/v1/jobs/{whole['parts'][0]['job']}", headers=HERE).status_code == 204
    page = browser.get(f"/comparisons/{whole['id']}")
    assert page.status_code == 200
    assert "reset deleted passed" in section(page.text, "parts")


def test_only_its_own_project_sees_it(compared: Posted, opened: Opened, other: dict[str, str]) -> None:
    whole = compared()
    browser = opened(key=other["Authorization"].removeprefix("Bearer "))
    assert browser.get(f"/comparisons/{whole['id']}").status_code == 404
    assert whole["id"] not in browser.get("/comparisons").text


def test_without_a_session_there_is_the_login(anonymous: TestClient) -> None:
    for path in ("/comparisons", "/comparisons/cmp_0"):
        answer = anonymous.get(path, follow_redirects=False)
        assert answer.status_code == 303
        leads_to = answer.headers["location"].partition("next=")[2]
        form = {"key": "esp_a-key-for-tests-only", "next": path}
        assert leads_to == path.replace("/", "%2F")
        assert anonymous.post("/login", data=form, headers=HERE, follow_redirects=False).headers["location"] == path
        anonymous.cookies.clear()
