"""Every claim, by the name under which it is reported."""

from __future__ import annotations

from chaos import file_checks, job_checks
from chaos.evidence import Check, Evidence

CHECKS: dict[str, Check] = {
    "no job is lost": job_checks.no_job_is_lost,
    "no upload is lost": job_checks.no_upload_is_lost,
    "each job ends once": job_checks.each_job_ends_once,
    "no stale write is accepted": job_checks.no_stale_write_is_accepted,
    "attempts are closed": job_checks.attempts_are_closed,
    "results are the same": job_checks.results_are_the_same,
    "rounds are whole": job_checks.rounds_are_whole,
    "posts are stored once": job_checks.posts_are_stored_once,
    "nothing was refused": job_checks.nothing_was_refused,
    "references hold": file_checks.references_hold,
    "bytes match digests": file_checks.bytes_match_digests,
    "no folder is left": file_checks.no_folder_is_left,
    "no blob is without use": file_checks.no_blob_is_without_use,
    "no process is left": file_checks.no_process_is_left,
}


def judge(evidence: Evidence) -> dict[str, list[str]]:
    """What is wrong, by claim."""
    return {name: check(evidence) for name, check in CHECKS.items()}
