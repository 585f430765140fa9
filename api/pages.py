"""What lists and single rows have in common: the shape of a page, the shape of an id, and the 404."""

from __future__ import annotations

import re
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel
from sqlalchemy.orm import Session

from api.problems import Problem
from store import listing
from store.tables import Comparison, Dataset, Job, Model, TrustRule, Webhook

Document = TypeVar("Document")
Row = TypeVar("Row", Model, Dataset, Job, TrustRule, Webhook, Comparison)

_ID = re.compile(r"[a-z]{2,4}_[0-9a-z]{1,32}")


class Page(BaseModel, Generic[Document]):
    """Newest first, but for rounds, artifacts and events, which come in their own order."""

    object: Literal["list"] = "list"
    data: list[Document]
    has_more: bool = False
    next_cursor: str | None = None
    """Give it as `after`; null on the last page."""


Limit = Annotated[int, Query(ge=1, le=100, description="rows of one page")]
After = Annotated[str | None, Query(pattern=r"^[a-z0-9_]{1,40}$", description="`next_cursor` of the page before")]


def _like_an_id(given: str) -> str:
    """What cannot be an id names nothing: 404, as any unknown one (and no database is asked about odd characters)."""
    if not _ID.fullmatch(given):
        raise missing(given)
    return given


RowId = Annotated[str, Path(description="its `id`"), AfterValidator(_like_an_id)]


def missing(what: str) -> Problem:
    """The same for another project's row as for none."""
    return Problem("not_found", f"there is no {what} in this project")


def found(session: Session, entity: type[Row], project_id: str, row_id: str, lock: listing.Lock | None = None) -> Row:
    row = listing.one(session, entity, project_id, row_id, lock)
    if row is None:
        raise missing(row_id)
    return row
