"""The one Celery task: a message says that a queue has work; the database says which."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import celeryd_init, setup_logging, worker_init, worker_shutdown, worker_shutting_down

from store import logs, traces
from store.database import AWAY
from store.queue import RUN_NEXT, make_celery
from store.settings import Settings
from worker.devices import NoDevice, job_slots
from worker.sandbox import SandboxMissing
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)
settings = Settings()
app = make_celery(settings.broker_url)
try:
    slots = job_slots(settings)
except NoDevice as error:
    raise SystemExit(f"worker: {error}") from error
# A thread for each job, and one for an upload: `Supervisor.run_next` never blocks more of either kind.
app.conf.worker_concurrency = len(slots) + 1
_supervisor: Supervisor | None = None


@app.task(name=RUN_NEXT)
def run_next(queue: str) -> None:
    assert _supervisor is not None, "tasks run in a worker, which makes its supervisor when it starts"
    _supervisor.run_next(queue)


@celeryd_init.connect
def _observe(**_kwargs: Any) -> None:
    """Before anything that Celery may have to say."""
    logs.configure(settings, "worker")
    traces.start("worker")


@setup_logging.connect
def _keep_logging(**_kwargs: Any) -> None:
    """Celery sets up no loggers of its own where somebody answers this."""


@worker_init.connect
def _open(**_kwargs: Any) -> None:
    global _supervisor  # Celery gives a task no other way to what its worker holds
    try:
        _supervisor = Supervisor(settings, slots)
    # Celery goes on past any other exception here, and would take messages for a worker that cannot work.
    except (SandboxMissing, NoDevice) as error:
        raise SystemExit(f"worker: {error}") from error
    except AWAY as error:
        raise SystemExit(f"worker: the database is away: {error}") from error
    except Exception as error:  # a full disk, a blob folder that is not mounted: whoever keeps it starts it again
        log.exception("the worker cannot start")
        raise SystemExit(f"worker: {type(error).__name__}: {error}") from error


@worker_shutting_down.connect
def _drain(**_kwargs: Any) -> None:
    """SIGTERM: no new claim; running children are asked to stop, and their jobs are given back."""
    if _supervisor is not None:
        _supervisor.draining.set()


@worker_shutdown.connect
def _close(**_kwargs: Any) -> None:
    if _supervisor is not None:
        _supervisor.close()
