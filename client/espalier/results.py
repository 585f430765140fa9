"""What a job gives: its report, its front, its picture, files, links, and proof of where a file comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from espalier.downloads import download
from espalier.files import Progress, written_whole
from espalier.shapes import Artifact, Envelope, Link, Pareto
from espalier.transport import Transport
from espalier.transport import api_path as _path


class Results:
    """The part of `AsyncClient` that reads these."""

    _transport: Transport

    async def report(self, job_id: str) -> dict[str, Any]:
        """The job, its dense control and every round in one document, to be kept beside the model."""
        report: dict[str, Any] = await self._transport.get(_path("jobs", job_id, "report"))
        return report

    async def artifacts(self, job_id: str) -> list[Artifact]:
        return [artifact async for artifact in self._transport.pages(_path("jobs", job_id, "artifacts"))]

    async def artifact(self, artifact_id: str) -> Artifact:
        artifact: Artifact = await self._transport.get(_path("artifacts", artifact_id))
        return artifact

    async def download(self, artifact: Artifact | str, path: Path | str, *, progress: Progress | None = None) -> Path:
        """Store an artifact's content at `path`: all of it, checked against its digest, or nothing. A connection that
        is cut is made again, and goes on where it was.

        Raises:
            DigestMismatch: what came is not what the digest promises.
        """
        known = await self.artifact(artifact) if isinstance(artifact, str) else artifact
        return await download(self._transport, known, Path(path), progress)

    async def pareto(self, job_id: str, *, rounds: Literal["front", "all"] = "front") -> Pareto:
        """The trained rounds that no other one beats in both sparsity and validation accuracy; or all, as a table."""
        pareto: Pareto = await self._transport.get(_path("jobs", job_id, "pareto"), rounds=rounds)
        return pareto

    async def pareto_csv(self, job_id: str, *, rounds: Literal["front", "all"] = "front") -> str:
        """The same as CSV."""
        return (await self._transport.read(_path("jobs", job_id, "pareto.csv"), params={"rounds": rounds})).decode()

    async def sensitivity(self, job_id: str) -> dict[str, Any]:
        """Of a job whose recipe has `sensitivity`: {"metric", "dense", "data": [{"layer", "size", "points":
        [{"sparsity", "metrics"}]}]}, validation metrics of the dense network with one layer pruned alone."""
        scan: dict[str, Any] = await self._transport.get(_path("jobs", job_id, "sensitivity"))
        return scan

    async def sensitivity_csv(self, job_id: str) -> str:
        """The same as CSV."""
        return (await self._transport.read(_path("jobs", job_id, "sensitivity.csv"))).decode()

    async def download_plot(
        self,
        job_id: str,
        path: Path | str,
        *,
        theme: Literal["light", "dark"] = "light",
        of: Literal["plot", "sensitivity"] = "plot",
    ) -> Path:
        """Store the job's plot: accuracy against what remains, by round; or its layers' sensitivity. `path` ends in
        .svg or .png."""
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"{path.name}: a plot is a .svg or a .png")
        plot = await self._transport.read(_path("jobs", job_id, f"{of}{path.suffix}"), params={"theme": theme})
        with written_whole(path) as file:
            file.write(plot)
        return path

    async def link(self, artifact: Artifact | str, *, expires_in_seconds: int = 300) -> Link:
        """A URL that opens this artifact's content without a key, for at most an hour."""
        body = {"expires_in_seconds": expires_in_seconds}
        link: Link = await self._transport.post(_path("artifacts", _id(artifact), "links"), body)
        return link

    async def provenance(self, artifact: Artifact | str) -> Envelope:
        """The signed statement of where it comes from, for `espalier.verify`."""
        envelope: Envelope = await self._transport.get(_path("artifacts", _id(artifact), "provenance"))
        return envelope

    async def provenance_key(self) -> bytes:
        """The service's public key, PEM. Keep a copy: a key that came with what it is to prove proves nothing."""
        return await self._transport.read("/.well-known/espalier-key")


def _id(artifact: Artifact | str) -> str:
    return artifact if isinstance(artifact, str) else artifact["id"]
