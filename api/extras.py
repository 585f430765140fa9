"""What an artifact needs of a worker that not every worker has, asked before any training."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.problems import Problem
from api.schemas import NEED_ONNX, JobRequest
from store import workers


def check_extras(session: Session, given: JobRequest, pool: str, heartbeat_seconds: float) -> None:
    """Any worker of the pool may take the job, so all that live must have it. Where none lives nobody can know yet: a
    worker that has it not fails the job before the first round. Raises Problem."""
    for index, kind in enumerate(given.artifacts or []):
        if kind not in NEED_ONNX:
            continue
        lacking, num_workers = workers.without_extra(session, heartbeat_seconds, pool, "onnx")
        if lacking:
            raise Problem(
                "extra_missing",
                f"{kind} needs the extra onnx, which {lacking} of the {num_workers} workers of the pool {pool} "
                f"has not; install it there (pip install 'espalier-server[worker,onnx]'), or leave {kind} out",
                param=f"/artifacts/{index}",
            )
        return
