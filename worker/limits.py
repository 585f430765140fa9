"""What a training process may use up, told to its user: which limit it was, how far it went, and the remedy."""

from __future__ import annotations

from worker.messages import MAX_LINE_BYTES

MIB = 1 << 20


class OverLimit(Exception):
    """A second try would meet the same limit: the job fails at once."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def folder_full(used_bytes: int, most_bytes: int) -> OverLimit:
    return OverLimit(
        "out_of_disk",
        f"the training process left {_mib(used_bytes)} MiB in its folder, more than its {_mib(most_bytes)} MiB; "
        "prune a smaller model, ask for fewer artifacts, or raise ESPALIER_FOLDER_MAX_BYTES on the worker",
    )


def too_many_files(most: int) -> OverLimit:
    return OverLimit("out_of_disk", f"the training process left more than {most} files in its folder")


def file_too_large(written_bytes: int, most_bytes: int) -> OverLimit:
    return OverLimit(
        "out_of_disk",
        f"a file of the training process grew past its {_mib(most_bytes)} MiB ({_mib(written_bytes)} MiB of others lie "
        "in its folder); prune a smaller model, or raise ESPALIER_FOLDER_MAX_BYTES on the worker",
    )


def took_too_long(most_seconds: float) -> OverLimit:
    return OverLimit(
        "out_of_time",
        f"it was not validated within {most_seconds:g} s; upload something smaller, or raise "
        "ESPALIER_VALIDATION_SECONDS on the worker",
    )


def message_too_long(num_bytes: int | None = None) -> OverLimit:
    """None: it was not read to its end."""
    how_long = f"{num_bytes} bytes" if num_bytes is not None else "longer"
    return OverLimit(
        "report_too_large",
        f"a message of the training process may have {MAX_LINE_BYTES} bytes, and one was {how_long}: the model has too "
        "many layers or units to be reported",
    )


def allocation_failed(words: str, peak_bytes: int | None, most_bytes: int) -> OverLimit | None:
    """Of a process that could not even say so itself, by its last words."""
    if not any(sign in words for sign in ("bad_alloc", "MemoryError", "can't allocate memory")):
        return None
    return OverLimit(
        "out_of_memory",
        f"the training process asked for more than its {most_bytes // MIB} MiB of memory (peak: "
        f"{(peak_bytes or 0) // MIB} MiB resident): {words}; lower training.batch_size, or raise "
        "ESPALIER_CHILD_MEMORY_BYTES on the worker",
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:.1f}"
