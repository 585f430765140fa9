"""The table of statuses, written a second time by hand from the promise to users: from status and trigger to status."""

from __future__ import annotations

PROMISED = {
    "queued": {"cancel": "canceled", "pause": "paused", "queue_timeout": "failed", "deadline": "failed"},
    "running": {
        "cancel": "canceling", "pause": "pausing", "complete": "succeeded", "fail": "failed", "drain": "queued",
        "lose": "queued", "give_up": "failed", "deadline": "failed",
    },
    "pausing": {
        "cancel": "canceling", "complete": "succeeded", "stop": "paused", "lose": "paused", "give_up": "paused",
        "drain": "paused", "fail": "failed", "deadline": "failed",
    },
    "paused": {"resume": "queued", "cancel": "canceled", "deadline": "failed"},
    "canceling": {
        "complete": "succeeded", "stop": "canceled", "lose": "canceled", "give_up": "canceled", "drain": "canceled",
        "fail": "canceled", "deadline": "failed",
    },
    "succeeded": {},
    "failed": {},
    "canceled": {},
}  # fmt: skip
HELD = {"running", "pausing", "canceling"}
"""Statuses in which a worker holds the job."""
