"""A model card: a job's result as markdown, for the repository in which the pruned network ends up.

It needs nothing but itself and `plot.png` beside it, the job's own plot, named by a relative link: GitHub and Hugging
Face show that, and neither shows a picture that is written into the text. Numbers come from a process that is not
trusted, and names from users: a number is shown only where there is one, and no name is markup.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from store.tables import Artifact, Dataset, Job, Model, Round
from store.version import VERSION
from worker.messages import printable

METRICS = ("accuracy", "loss", "f1", "mae", "r2", "perplexity")
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$:@])")

LOADING = {
    "model": """import torch
from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"))  # your own network: the keys are its own, zeros are in place""",
    "program": """import torch

network = torch.export.load("model.pt2").module()
outputs = network(torch.from_numpy(inputs))""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(outputs,) = session.run(None, {"inputs": inputs})""",
    "reduced_program": """import torch

smaller = torch.export.load("reduced.pt2").module()  # without the units that were pruned
outputs = smaller(torch.from_numpy(inputs))""",
    "reduced_onnx": """import onnxruntime

session = onnxruntime.InferenceSession("reduced.onnx")  # without the units that were pruned
(outputs,) = session.run(None, {"inputs": inputs})""",
}
"""By kind, how to use it without this service. `inputs` is a NumPy array of a batch of examples."""


def card(
    job: Job,
    model: Model,
    dataset: Dataset,
    rounds: Sequence[Round],
    artifacts: Sequence[Artifact],
    selected_position: int,
    passed: bool,
) -> str:
    """
    Args:
        rounds: all that are stored, in order.
        artifacts: of the selected round, those that the job offers.
    """
    strategy = job.recipe.get("strategy") or "a recipe of its own"
    selected = next(row for row in rounds if row.position == selected_position)
    made = datetime.fromtimestamp(selected.created_at, UTC).date().isoformat()
    sections = [
        f"# {_plain(model.name)}, pruned by {_plain(strategy)}",
        _summary(job, rounds, selected, passed),
        "![The metric by what remains of the network, round by round](plot.png)",
        "## Rounds\n\n" + _rounds(rounds, selected_position),
        "## Recipe\n\n```json\n" + json.dumps(job.recipe, indent=2, sort_keys=True) + "\n```",
        "## Files\n\n" + _files(artifacts),
        *_loading(artifacts),
        "## Where it comes from\n\n" + _origins(job, model, dataset),
        f"Made by Espalier {VERSION} on {made}, job {job.id}.",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(job: Job, rounds: Sequence[Round], selected: Round, passed: bool) -> str:
    metric = _metric(rounds)
    now, dense = (_measured(row, "validation", metric) for row in (selected, rounds[0]))
    units = "units" if job.recipe.get("granularity") == "unit" else "weights"
    words = f"{_name(selected)} is selected: **{_percent(selected.sparsity)} of the prunable {units} are removed**"
    if now is not None:
        words += f", validation {metric} {now:.4g}"
        words += f" (dense: {dense:.4g})" if dense is not None else ""
    if job.gates:
        gates = ", ".join(f"{gate['metric']} {gate['op']} {gate['value']:g}" for gate in job.gates)
        words += f". Gates ({_plain(gates)}): {'passed' if passed else '**failed**'}"
    return words + "."


def _rounds(rounds: Sequence[Round], selected_position: int) -> str:
    metric = _metric(rounds)
    head = ["round", "removed", f"validation {metric}", f"test {metric}", "non-zero weights", "compression", "size"]
    rows = []
    for row in rounds:
        sizes = row.report.get("size_bytes")
        cells = [
            _name(row),
            _percent(row.sparsity),
            _shown(_measured(row, "validation", metric)),
            _shown(_measured(row, "test", metric)),
            _shown(_number(row.report, "num_nonzero"), ",.0f"),
            _shown(_number(row.report, "compression_ratio"), ".3g", "x"),
            _shown(_number(sizes, "sparse"), ",.0f", " bytes"),
        ]
        rows.append([f"**{cell}**" for cell in cells] if row.position == selected_position else cells)
    under = (
        "The selected round is in bold; its size is that of the compact sparse file. Compression: all parameters over "
    )
    return _table(head, rows) + "\n\n" + under + "those that no mask takes away."


def _files(artifacts: Sequence[Artifact]) -> str:
    rows = [
        [f"`{file.filename}`", file.kind.replace("_", " "), f"{file.size_bytes:,}", f"`{file.blob_digest}`"]
        for file in sorted(artifacts, key=lambda file: file.filename)
    ]
    table = _table(["file", "what", "bytes", "sha256"], rows)
    checks = [_check(file.filename, file.verified) for file in artifacts if file.verified]
    return "\n\n".join([table, *checks])


def _check(filename: str, verified: dict[str, Any]) -> str:
    found, largest = verified["max_difference"], verified["largest_output"]
    runtime = _plain(verified["runtime"])
    differ = f"its outputs differ from the network's by {found:.2g} at most, the largest is {largest:.3g}"
    return f"`{filename}`: with {runtime} {differ}."


def _loading(artifacts: Sequence[Artifact]) -> list[str]:
    kinds = {artifact.kind for artifact in artifacts}
    blocks = [f"```python\n{code}\n```" for kind, code in LOADING.items() if kind in kinds]
    if not blocks:
        return []
    return ["## Loading\n\n`inputs` is a batch of examples, a NumPy array.\n\n" + "\n\n".join(blocks)]


def _origins(job: Job, model: Model, dataset: Dataset) -> str:
    """The recipe's digest is that of the service's statements of provenance."""
    recipe = json.dumps(job.recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    digests = [
        ("network", _plain(model.name), model.blob_digest),
        ("dataset", _plain(dataset.name), dataset.blob_digest),
        ("recipe", "the JSON above, keys sorted, without spaces", hashlib.sha256(recipe).hexdigest()),
    ]
    return _table(["from", "name", "sha256"], [[what, name, f"`{digest}`"] for what, name, digest in digests])


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _name(row: Round) -> str:
    return "The final entry" if row.number is None else f"Round {row.number}"


def _metric(rounds: Sequence[Round]) -> str:
    """The first that any round measured."""
    found = (metric for metric in METRICS if any(_measured(row, "validation", metric) is not None for row in rounds))
    return next(found, "accuracy")


def _measured(row: Round, split: str, metric: str) -> float | None:
    return _number(row.report["metrics"].get(split), metric)


def _number(values: Any, name: str) -> float | None:
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer that no float reaches
        return None


def _shown(value: float | None, form: str = ".4g", unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _percent(fraction: float) -> str:
    """Two digits more where little is left: 99.95% is not 100%."""
    return f"{fraction * 100:.1f}%" if fraction < 0.99 else f"{fraction * 100:.3f}%"


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", printable(" ".join(text.split())))
