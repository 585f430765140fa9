"""What the pages in docs/ promise each other: links lead somewhere, and no strategy or page is left out."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from pruning.strategies import STRATEGIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def targets(page: Path) -> list[str]:
    """Of links and images, those to files."""
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """As GitHub names its headings: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == DOCS else "top")
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def test_links_are_found() -> None:
    assert "deploy.md" in targets(DOCS / "README.md")
    assert "strategies-dropnet.svg" in targets(DOCS / "strategies.md")
    assert "ci-without-a-stored-secret" in anchors(DOCS / "access.md")


def test_every_strategy_has_its_section_and_nothing_else_has() -> None:
    sections = re.findall(r"^### (.+)$", prose(DOCS / "strategies.md"), re.MULTILINE)
    assert sorted(sections) == sorted(STRATEGIES)


def test_every_page_is_in_the_index() -> None:
    indexed = {target.partition("#")[0] for target in targets(DOCS / "README.md")}
    assert [page.name for page in PAGES if page.parent == DOCS and page.name not in {*indexed, "README.md"}] == []
