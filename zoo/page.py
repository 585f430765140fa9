"""docs/models.md, made of what the trials found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]

_HEAD = """# Which models work

Any PyTorch network that takes one tensor and gives logits, exported by
`espalier.export_model(network, example_inputs, "network.pt2")` with torch 2.9 or later, can be uploaded
(`format=exported_program`). What such a program needs in detail: [models in](models-in.md).

This page is made by `make zoo`, which tries {count} families: each in its smallest member, with drawn weights (nothing
is downloaded), ten classes, small examples, in a process of its own. Of each it

1. exports it in training mode and in evaluation mode, reads both files, and compares the outputs with the module's;
2. trains three steps, with dropout left out, and compares all weights and statistics with the module's, trained alike;
3. prunes two rounds by weight and, where it has such layers, by unit;
4. loads the pruned state dict into the original module, writes the network as a program, loads that with torch and with
   our reader, and compares all outputs;
5. cuts the masked units out, and compares the smaller network's outputs with the masked one's (up to rounding);
6. times training steps against the module's own: CPU time with one thread, medians, in turns, a batch of 8.

**{read} of {count} are read, and can be pruned by weight.** {whole} of them have been taken through all six steps so
far (those with a speed); of the others only 1 and the intake report were tried (`python -m zoo --quick`). Where
nothing else is said, every difference is exactly 0.0. The median speed is {speed:.2f} of eager; the slowest is
{slowest:.2f} ({slowest_name}). The figures as JSON lines: [models.jsonl](models.jsonl).

- *by weight*: the part of all parameters that lies in layers pruned by weight. The rest is never pruned: biases,
  normalisations, tables of embeddings, recurrent layers, parameters without a layer of their own.
- *by unit*: layers whose neurons or filters can be pruned, of those that can be pruned by weight. Output layers never
  can; for the others, the reasons are [below](#why-not-by-unit), and a model's own in its intake report.
- *reduced*: parameters left when 51% of those units are masked and cut out.
- *exported*: "evaluating" alone where a module draws at random when it trains, which a program cannot carry.

| family | tried | parameters | exported | by weight | by unit | reduced | speed | remarks |
|---|---|--:|---|--:|--:|--:|--:|---|
"""

_NODE = re.compile(r"through \S+ \((\w+)\)")
_FEEDS = re.compile(r"^it feeds \S+: ")
_LAYER = re.compile(
    r"\b[A-Za-z_]\w*(\.\w+)+\b|(?<=weights of )\S+|(?<=bias of )\S+|(?<=inputs of )\S+|\S+(?= is a depthwise)"
)


def write_page(path: Path, lines: Sequence[Line]) -> None:
    read = [line for line in lines if not line["failed"]]
    whole = [line for line in read if "speed" in line]
    timed = sorted((line["speed"], line["family"]) for line in lines if "speed" in line)
    if not timed:
        return  # after a quick look alone there is nothing to tell
    median, (slowest, slowest_name) = timed[len(timed) // 2][0], timed[0]
    counts = {"count": len(lines), "read": len(read), "whole": len(whole)}
    head = _HEAD.format(**counts, speed=median, slowest=slowest, slowest_name=f"`{slowest_name}`")
    body = "".join(_row(line) for line in lines)
    path.write_text(head + body + _failures(lines) + _reasons(lines))


def _row(line: Line) -> str:
    size = "x".join(map(str, line.get("input_shape", [])))
    cells = [
        f"`{line['family']}`",
        f"{line.get('member', '')}, {size}",
        f"{line['num_parameters'] / 1e6:.1f} M" if "num_parameters" in line else "",
        " and ".join(line.get("difference", {})),
        f"{line['num_prunable'] / line['num_parameters']:.0%}" if "num_prunable" in line else "",
        f"{line['unit_layers']} of {line['layers']}" if "layers" in line else "",
        f"{line['num_parameters_reduced'] / line['num_parameters']:.0%}" if "num_parameters_reduced" in line else "",
        f"{line['speed']:.2f}" if "speed" in line else "",
        "; ".join(_remarks(line)),
    ]
    return f"| {' | '.join(cells)} |\n"


def _remarks(line: Line) -> list[str]:
    remarks = []
    if line["failed"]:
        remarks.append(f"fails: {', '.join(line['failed'])}")
    for mode, difference in line.get("difference", {}).items():
        if difference:
            remarks.append(f"exported {mode}, outputs differ by {difference:.1g}")
    for key, what in (
        ("trained_difference", "trained, weights differ by"),
        ("weight_home_difference", "at home, outputs differ by"),
        ("unit_home_difference", "pruned by unit, at home, outputs differ by"),
        ("written_difference", "written, outputs differ by"),
    ):
        if line.get(key):
            remarks.append(f"{what} {line[key]:.1g}")
    return remarks


def _failures(lines: Sequence[Line]) -> str:
    failed = [(line["family"], step, why) for line in lines for step, why in line["failed"].items()]
    if not failed:
        return ""
    rows = [f"- `{family}`, {step}: {' '.join(why.split())}\n" for family, step, why in failed]
    return "\n## What fails, and why\n\n" + "".join(rows)


def _reasons(lines: Sequence[Line]) -> str:
    """Why layers are not pruned by unit: layers by reason, and the families that have such."""
    layers: Counter[str] = Counter()
    families: dict[str, set[str]] = {}
    for line in lines:
        for reason, count in line.get("why_not_unit", ()):
            plain = _plain(reason)
            layers[plain] += count
            families.setdefault(plain, set()).add(line["family"].split(":")[1])
    rows = [
        f"| {reason} | {count} | {len(families[reason])}: {', '.join(sorted(families[reason])[:6])}"
        f"{', …' if len(families[reason]) > 6 else ''} |\n"
        for reason, count in layers.most_common()
    ]
    return (
        "\n## Why not by unit\n\nEvery layer here is pruned by weight. The intake report has the reason of each.\n\n"
        "| reason | layers | families |\n|---|--:|---|\n" + "".join(rows)
    )


def _plain(reason: str) -> str:
    """Without the names of nodes and layers."""
    return _LAYER.sub("…", _FEEDS.sub("it feeds …: ", _NODE.sub(r"through `\1`", reason)))
