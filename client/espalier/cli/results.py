"""`espalier download` and `espalier verify`."""

from __future__ import annotations

from pathlib import Path

import click

from espalier.cli.connecting import connected, printing
from espalier.cli.fetching import fetch, fetch_all, fetch_comparison, fetch_round
from espalier.cli.ordering import JOB
from espalier.cli.output import Output
from espalier.cli.references import is_comparison
from espalier.client import Client
from espalier.provenance import verify as verify_file

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@JOB
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="A folder.")
@click.option("--round", "number", help="Of another round than the selected one: its number, or final.")
@click.option("--kind", "kinds", multiple=True, help="Only these: model, masks, ticket, program, ...")
@connected
def download(
    client: Client, output: Output, job_id: str, out: Path, number: str | None, kinds: tuple[str, ...]
) -> None:
    """The results of JOB, checked against their digests; or one artifact (art_...), or what a comparison
    recommends (cmp_...), by its id."""
    if job_id.startswith("art_"):
        files = [fetch(client, output, client.artifact(job_id), out)]
    elif is_comparison(job_id):
        if number is not None or kinds:
            raise click.UsageError("of a comparison all is downloaded; --round and --kind are for one of its jobs")
        files = fetch_comparison(client, output, job_id, out)
    else:
        job = client.job(job_id)
        if number is None and not kinds:
            files = fetch_all(client, output, job, out)
        else:
            chosen = job["selected_round"] if number is None else int(number) if number.isdigit() else number
            files = fetch_round(client, output, job, out, chosen, kinds)
    output.result({"object": "files", "data": [str(file) for file in files]}, lambda: _list(output, files))


def _list(output: Output, files: list[Path]) -> None:
    for file in files:
        output.line(str(file))


@click.command()
@click.argument("file", type=FILE)
@click.option("--statement", type=FILE, required=True, help="GET /v1/artifacts/ID/provenance, as a file.")
@click.option("--key", type=FILE, required=True, help="The service's public key, from when you trust it.")
@printing
def verify(output: Output, file: Path, statement: Path, key: Path) -> None:
    """Check offline where a downloaded FILE comes from. Ends with 1 where that is not proven."""
    said = verify_file(file, statement, key)

    def show() -> None:
        predicate = said["predicate"]
        origin = predicate["runDetails"]["metadata"]["invocationId"]
        output.line(f"verified: {file} is {said['subject'][0]['name']} of {origin}")
        for dependency in predicate["buildDefinition"]["resolvedDependencies"]:
            digest = dependency.get("digest", {}).get("sha256", "not recorded")
            output.line(f"  {dependency['name']}: {dependency.get('uri', '')} sha256:{digest}")

    output.result(said, show)
