"""`make zoo`: python -m zoo [--only PART ...] [--quick] [--jobs 2] [--seconds 600] [--gib 12] ...."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from zoo.families import FAMILIES
from zoo.page import write_page
from zoo.running import try_family

_ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="programs of many families: read, trained, pruned, taken home")
    parser.add_argument("--only", nargs="*", default=[], help="families whose names contain one of these: timm:resnet")
    parser.add_argument("--quick", action="store_true", help="only export, read and inspect")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--seconds", type=float, default=600, help="limit for each")
    parser.add_argument("--gib", type=float, default=12, help="of address space, for each")
    parser.add_argument("--results", type=Path, default=_ROOT / "docs" / "models.jsonl", help="one line a family")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "models.md")
    given = parser.parse_args()
    names = [name for name in FAMILIES if not given.only or any(part in name for part in given.only)]
    lines = _read(given.results)
    with ThreadPoolExecutor(given.jobs) as pool:
        running = [pool.submit(try_family, name, given.seconds, given.gib, given.quick) for name in names]
        for number, done in enumerate(as_completed(running), 1):
            found = done.result()
            lines[found["family"]] = found
            print(f"{number}/{len(names)} {found['family']}: {_summary(found)}", flush=True)
            given.results.write_text("".join(json.dumps(line) + "\n" for line in _in_order(lines)))
            write_page(given.page, list(_in_order(lines)))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs found: families that are not tried now keep their lines."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["family"]: line for line in lines}


def _in_order(lines: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (lines[name] for name in FAMILIES if name in lines)


def _summary(found: dict[str, Any]) -> str:
    if found["failed"]:
        return "; ".join(f"{step}: {why}" for step, why in found["failed"].items())
    speed = f", {found['speed']:.2f} of eager speed" if "speed" in found else ""
    return f"{found['unit_layers']} of {found['layers']} layers by unit{speed}"


if __name__ == "__main__":
    main()
