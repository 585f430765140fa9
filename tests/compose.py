"""docker-compose.yml, read as Docker does: its variables filled in, and its services started without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
IMAGE = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "HOME": "/tmp"}
"""What the Dockerfile sets, beside the data directory."""


def read(values: dict[str, str]) -> dict[str, Any]:
    """The file, with `values` for its variables. Raises KeyError for one that it asks for and does not get."""
    document: dict[str, Any] = _filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), values)
    return document


def example_names() -> list[str]:
    """The variables that .env.example tells of."""
    return re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)


def _filled(part: Any, values: dict[str, str]) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, values) for value in part]
    if not isinstance(part, str):
        return part

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        value = values.get(found["name"], "")
        if not value and found["rule"] == ":?":
            raise KeyError(found["name"])
        return value or found["rest"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?P<rule>:[?-])(?P<rest>[^}]*)\}", fill, part)


class Machine:
    """Runs services of the file as processes: each in an empty folder, with nothing in its environment but what the
    file and the image say. `addresses` says where the servers of the file really are."""

    def __init__(self, document: dict[str, Any], addresses: dict[str, str], root: Path) -> None:
        self._services, self._addresses, self._root = document["services"], addresses, root
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str) -> str:
        """To its end; what it said."""
        return subprocess.run(**self._call(name, self._services[name]["command"]), check=True, capture_output=True,
                              text=True).stdout  # fmt: skip

    def start(self, name: str) -> None:
        with (self._root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                **self._call(name, self._services[name]["command"]), stdout=log, stderr=log, start_new_session=True
            )

    def is_healthy(self, name: str) -> bool:
        """By the file's own test."""
        kind, *words = self._services[name]["healthcheck"]["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return subprocess.run(**self._call(name, words), capture_output=True, timeout=30).returncode == 0

    def stop(self, name: str) -> int:
        """As Docker does: SIGTERM, and its grace period."""
        seconds = int(self._services[name]["stop_grace_period"].removesuffix("s"))
        self.processes[name].terminate()
        return self.processes[name].wait(seconds)

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def data_dir(self, name: str) -> Path:
        return self._root / name / "data"

    def log(self, name: str) -> str:
        return (self._root / f"{name}.log").read_text()

    def _call(self, name: str, words: list[str]) -> dict[str, Any]:
        self.data_dir(name).mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "ESPALIER_DATA_DIR": str(self.data_dir(name)),
            **IMAGE,
            **self._services[name]["environment"],
        }
        return {
            "args": [self._here(word) for word in words],
            "env": {name: self._here(str(value)) for name, value in environment.items()},
            "cwd": self._root / name,
        }

    def _here(self, text: str) -> str:
        for theirs, ours in self._addresses.items():
            text = text.replace(theirs, ours)
        return text
