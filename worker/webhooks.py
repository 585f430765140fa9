"""Sends what is due to webhooks: several messages at once, one at a time to each webhook."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from httpcore2 import default_ssl_context
from standardwebhooks import Webhook

from store import deliveries
from store.database import AWAY, Database
from store.deliveries import Claimed
from store.settings import Settings
from store.version import VERSION
from store.webhooks import secrets_of
from worker.outgoing import TIMEOUT_SECONDS, post

log = logging.getLogger(__name__)

PARALLEL = 8
IDLE_SECONDS = 1.0
"""Between two looks for what is due, at most."""


class Sender:
    """Call `turn` again and again, then `close`. Any number of them may run: a message is claimed by one."""

    def __init__(self, database: Database, settings: Settings, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._database, self._settings, self._timeout_seconds = database, settings, timeout_seconds
        self._ssl_context = default_ssl_context()
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="webhook")
        self._busy: set[str] = set()
        """Webhooks that a thread of ours sends to. One thread each: a slow receiver takes one, not all."""
        self._freed = threading.Event()

    def turn(self) -> None:
        """Wait for a moment or until a thread is free, then give every free thread a message that is due."""
        self._freed.wait(min(IDLE_SECONDS, self._settings.sweep_seconds))
        self._freed.clear()
        with self._database.reading() as session:
            if not deliveries.any_due(session):  # nearly always: nothing is written then
                return
        for _ in range(PARALLEL - len(self._busy)):  # no longer, however much is due: whoever calls may want to end
            with self._database.transaction() as session:
                claimed = deliveries.claim(session, self._busy.copy())
            if claimed is None:
                return
            self._busy.add(claimed.webhook_id)
            self._pool.submit(self._send, claimed)

    def close(self) -> None:
        """Waits for what is being sent."""
        self._pool.shutdown()

    def _send(self, claimed: Claimed) -> None:
        try:
            self._send_and_settle(claimed)
        except AWAY as error:
            log.warning("%s; the message goes out again", error, extra=_about(claimed))
        except Exception:
            log.exception("a message could not be sent", extra=_about(claimed))
        finally:
            self._busy.discard(claimed.webhook_id)
            self._freed.set()

    def _send_and_settle(self, claimed: Claimed) -> None:
        content = message(claimed)
        headers = signed(claimed, content, self._settings.secret())
        outcome = post(
            claimed.url,
            headers,
            content,
            self._ssl_context,
            allow_private=self._settings.webhook_allow_private,
            timeout_seconds=self._timeout_seconds,
        )
        with self._database.transaction() as session:
            status = deliveries.settle(session, claimed, outcome)
        if status == "failed":
            log.warning("a message is given up: %s", outcome.error, extra=_about(claimed))


def message(claimed: Claimed) -> bytes:
    """The same bytes at every attempt."""
    at = datetime.fromtimestamp(claimed.created_at, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": claimed.type, "timestamp": at, "data": claimed.data}, sort_keys=True).encode()


def signed(claimed: Claimed, content: bytes, service_secret: bytes) -> dict[str, str]:
    """The headers. The time is the attempt's, by the database's clock: receivers refuse what is five minutes off."""
    secrets = secrets_of(service_secret, claimed.webhook_id, claimed.rotation, claimed.rotated_at, claimed.at)
    at = datetime.fromtimestamp(claimed.at, UTC)
    signatures = [Webhook(secret).sign(claimed.id, at, content.decode()) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": f"Espalier/{VERSION}",
        "webhook-id": claimed.id,
        "webhook-timestamp": str(int(claimed.at)),
        "webhook-signature": " ".join(signatures),
    }


def _about(claimed: Claimed) -> dict[str, str]:
    """Never the URL: some are secrets."""
    return {"webhook_id": claimed.webhook_id, "delivery_id": claimed.id}
