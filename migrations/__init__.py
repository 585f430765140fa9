"""The schema's history. `python -m migrations` brings a database to its head and makes sure of a first key."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def config(url: str) -> Config:
    config = Config(Path(__file__).parent / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str) -> None:
    command.upgrade(config(url), "head")


def downgrade(url: str) -> None:
    command.downgrade(config(url), "base")
