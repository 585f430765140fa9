"""`python -m espalier verify FILE --statement S --key K`: 0 where it is verified, 1 where it is not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espalier.errors import EspalierError
from espalier.provenance import verify


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="espalier")
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("verify", help="check offline where a downloaded artifact comes from")
    check.add_argument("file", type=Path)
    check.add_argument("--statement", type=Path, required=True, help="GET /v1/artifacts/ID/provenance")
    check.add_argument("--key", type=Path, required=True, help="GET /.well-known/espalier-key, from when you trust it")
    given = parser.parse_args(arguments)
    try:
        said = verify(given.file, given.statement, given.key)
    except (EspalierError, OSError) as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 1
    predicate = said["predicate"]
    origin = predicate["runDetails"]["metadata"]["invocationId"]
    print(f"verified: {given.file} is {said['subject'][0]['name']} of {origin}")
    for dependency in predicate["buildDefinition"]["resolvedDependencies"]:
        digests = dependency.get("digest", {})
        print(f"  {dependency['name']}: {dependency.get('uri', '')} sha256:{digests.get('sha256', 'not recorded')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
