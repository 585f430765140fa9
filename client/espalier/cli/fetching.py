"""Results to files."""

from __future__ import annotations

import json
from pathlib import Path

from espalier.cli import words
from espalier.cli.output import Output
from espalier.client import Client
from espalier.errors import EspalierError
from espalier.shapes import Artifact, Job


def fetch(client: Client, output: Output, artifact: Artifact, folder: Path) -> Path:
    """Under the name that the service gives it, of which the last part alone is heeded."""
    path = folder / Path(artifact["filename"]).name
    with output.transfer(f"downloading {path.name} ({words.size(artifact['size_bytes'])})") as progress:
        return client.download(artifact, path, progress=progress)


def fetch_all(client: Client, output: Output, job: Job, folder: Path) -> list[Path]:
    """The selected round's files; the report, the table of all rounds and the plot."""
    paths = fetch_round(client, output, job, folder, job["selected_round"], ())
    report, table = folder / "report.json", folder / "rounds.csv"
    report.write_text(json.dumps(client.report(job["id"]), indent=2) + "\n")
    table.write_text(client.pareto_csv(job["id"], rounds="all"))
    return [*paths, report, table, client.download_plot(job["id"], folder / "plot.svg")]


def fetch_comparison(client: Client, output: Output, comparison_id: str, folder: Path) -> list[Path]:
    """The recommended round's files, where there is one; the table, the plot and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    recommended = client.recommendation(comparison_id)
    paths = [fetch(client, output, artifact, folder) for artifact in recommended["artifacts"]]
    table, summary = folder / "table.csv", folder / "summary.md"
    table.write_text(client.comparison_csv(comparison_id))
    plot = client.download_comparison_plot(comparison_id, folder / "plot.svg")
    summary.write_text(client.comparison_summary(comparison_id, plot=plot.name))
    return [*paths, table, plot, summary]


def fetch_round(
    client: Client, output: Output, job: Job, folder: Path, number: int | str | None, kinds: tuple[str, ...]
) -> list[Path]:
    """
    Raises:
        EspalierError: the job has selected no round; or nothing of that round, or of these kinds, is there.
    """
    if number is None:
        raise EspalierError(f"{job['id']} has no results: it is {words.state(job)}; of its rounds so far: --round N")
    offered = [artifact for artifact in client.artifacts(job["id"]) if artifact["round"] == number]
    wanted = [artifact for artifact in offered if not kinds or artifact["kind"] in kinds]
    if not wanted:
        there = ", ".join(sorted({artifact["kind"] for artifact in offered})) or "none"
        raise EspalierError(f"{job['id']} has no such files of round {number}; of these kinds it has some: {there}")
    folder.mkdir(parents=True, exist_ok=True)
    return [fetch(client, output, artifact, folder) for artifact in wanted]
