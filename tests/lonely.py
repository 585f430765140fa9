"""A Python environment of its own, with some packages and what they require, and none of ours."""

from __future__ import annotations

import subprocess
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

OURS = ("api", "embedded", "espalier", "migrations", "pruning", "store", "worker")


def make_environment(folder: Path, packages: list[str]) -> Path:
    """Its interpreter. Packages are links to those of this environment: nothing is fetched."""
    venv.create(folder, with_pip=False, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    waiting, done = list(packages), set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        found = distribution(name)
        for top in {Path(str(file)).parts[0] for file in found.files or () if ".." not in Path(str(file)).parts}:
            source = Path(str(found.locate_file(top)))
            if not (site / top).exists() and source.exists():
                (site / top).symlink_to(source)
        requirements = [Requirement(line) for line in found.requires or ()]
        waiting += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python"


def run(python: Path, folder: Path, script: str) -> str:
    """What it prints, run in `folder`. It must not be able to import anything of ours."""
    first = f"""
import importlib.util, sys
assert not [name for name in {OURS} if importlib.util.find_spec(name)], sys.path
sys.path.insert(0, {str(folder)!r})
assert not [name for name in {OURS} if importlib.util.find_spec(name)], sys.path
"""
    ran = subprocess.run(
        [python, "-I", "-c", first + script], cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
