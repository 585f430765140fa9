"""What a finished job gives besides its files: its front, its picture, links, and proof of where a file comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from espalier.files import write_whole
from espalier.shapes import Artifact, Envelope, Link, Pareto
from espalier.transport import Transport
from espalier.transport import api_path as _path


class Results:
    """The part of `Client` that reads these."""

    _transport: Transport

    def pareto(self, job_id: str, *, rounds: Literal["front", "all"] = "front") -> Pareto:
        """The trained rounds that no other one beats in both sparsity and validation accuracy; or all, as a table."""
        pareto: Pareto = self._transport.get(_path("jobs", job_id, "pareto"), rounds=rounds)
        return pareto

    def sensitivity(self, job_id: str) -> dict[str, Any]:
        """Of a job whose recipe has `sensitivity`: {"metric", "dense", "data": [{"layer", "size", "points":
        [{"sparsity", "metrics"}]}]}, validation metrics of the dense network with one layer pruned alone."""
        scan: dict[str, Any] = self._transport.get(_path("jobs", job_id, "sensitivity"))
        return scan

    def download_plot(self, job_id: str, path: Path | str, *, theme: Literal["light", "dark"] = "light") -> Path:
        """Store the job's plot: accuracy against what remains, by round. `path` ends in .svg or .png."""
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"{path.name}: a plot is a .svg or a .png")

        def attempt() -> Path:
            plot = _path("jobs", job_id, f"plot{path.suffix}")
            with self._transport.stream("GET", plot, params={"theme": theme}) as response:
                write_whole(response.iter_bytes(), path)
            return path

        return self._transport.patiently(attempt)

    def link(self, artifact: Artifact | str, *, expires_in_seconds: int = 300) -> Link:
        """A URL that opens this artifact's content without a key, for at most an hour."""
        body = {"expires_in_seconds": expires_in_seconds}
        link: Link = self._transport.patiently(
            lambda: self._transport.send("POST", _path("artifacts", _id(artifact), "links"), json=body)
        )
        return link

    def provenance(self, artifact: Artifact | str) -> Envelope:
        """The signed statement of where it comes from, for `espalier.verify`."""
        envelope: Envelope = self._transport.get(_path("artifacts", _id(artifact), "provenance"))
        return envelope

    def provenance_key(self) -> bytes:
        """The service's public key, PEM. Keep a copy: a key that came with what it is to prove proves nothing."""

        def attempt() -> bytes:
            with self._transport.stream("GET", "/.well-known/espalier-key") as response:
                return response.read()

        return self._transport.patiently(attempt)


def _id(artifact: Artifact | str) -> str:
    return artifact if isinstance(artifact, str) else artifact["id"]
