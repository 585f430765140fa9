"""Run once before the services start: schema to its head, first key made."""

from __future__ import annotations

from migrations import upgrade
from store.database import Database
from store.keys import ensure_first_key
from store.settings import Settings


def main() -> None:
    settings = Settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database)
    database = Database(settings.database)
    given = settings.api_key.get_secret_value() if settings.api_key else None
    with database.transaction() as session:
        made = ensure_first_key(session, given)
    database.close()
    if made is not None:
        print(f"API key (shown this once, keep it): {made}", flush=True)


if __name__ == "__main__":
    main()
