"""The bell: a message says that a queue has work, and nothing else. The row is the truth; a lost ring loses nothing.

Each pool of workers has a queue of its own, and uploads have one that every worker listens to.
"""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

log = logging.getLogger(__name__)

RUN_NEXT = "run_next"
INTAKE = "intake"
"""The queue of uploads to be validated, and so no name of a pool."""


def make_celery(broker_url: str) -> Celery:
    """The Celery app that API, sweeper and worker share: early acknowledgement, no prefetch, no results."""
    app = Celery("espalier", broker=broker_url)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_publish_retry=False,
        task_create_missing_queues=True,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        accept_content=["json"],
        task_serializer="json",
        # A publisher must not hang where the broker is away: the sweeper rings again.
        broker_transport_options={
            "max_retries": 0,
            "socket_connect_timeout": 1,
            "socket_timeout": 5,
            "socket_keepalive": True,
        },
    )
    return app


class Bell:
    def __init__(self, broker_url: str) -> None:
        self._celery = make_celery(broker_url)
        self._redis = Redis.from_url(broker_url, socket_connect_timeout=1, socket_timeout=2)

    def ring(self, queue: str) -> bool:
        """Tell the workers of a pool (with INTAKE: all) of waiting work. False, and a line in the log, if it failed."""
        try:
            self._celery.send_task(RUN_NEXT, kwargs={"queue": queue}, queue=queue, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("could not ring queue %s: %s; the sweeper will", queue, error)
            return False
        return True

    def waiting_messages(self, queue: str) -> int | None:
        """How many messages no worker has taken yet; None where the broker does not answer."""
        try:
            return int(self._redis.llen(queue))
        except (RedisError, OSError):
            return None

    def ping(self) -> bool:
        try:
            return bool(self._redis.ping())
        except (RedisError, OSError):
            return False

    def close(self) -> None:
        self._celery.close()
        self._redis.close()
