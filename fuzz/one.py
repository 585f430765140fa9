"""One reader, in this process, until something is found or the time is over.

    python -m fuzz.one READER FOLDER SECONDS SEED

libFuzzer ends the process at the first finding, and leaves the file in `FOLDER/READER/found`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pruning.formats"]):
    from fuzz.readers import read
    from fuzz.seeds import SEEDS

from fuzz.variations import vary
from fuzz.watch import Watch

MEMORY_MIB = 2000
TIMEOUT_SECONDS = 20
MAX_BYTES = 1 << 18


def main(reader: str, folder: Path, seconds: int, seed: int) -> None:
    corpus, found = folder / reader / "corpus", folder / reader / "found"
    for path in (corpus, found):
        path.mkdir(parents=True, exist_ok=True)
    case = folder / reader / "case"
    for number, good in enumerate(SEEDS[reader]()):
        (corpus / f"good{number}").write_bytes(good)
        case.write_bytes(good)
        if not read(reader, case):  # and what is imported once is imported now
            raise SystemExit(f"{reader}: a good file is refused")
    watch = Watch()

    def try_out(data: bytes) -> None:
        case.write_bytes(data)
        watch.begin()
        try:
            read(reader, case)
        finally:
            seen = watch.end()
        if seen:
            raise AssertionError(f"a reader must never: {'; '.join(seen)}")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return vary(data, seed, lambda part: atheris.Mutate(part, max(64, min(2 * len(part), max_size))))[:max_size]

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={found}/",
        f"-seed={seed}",
        "-print_final_stats=1",
        "-len_control=0",
    ]
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_out, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
