"""A job in markdown, for a pull request or the summary of a CI run. Pure: documents of the API in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.shapes import Job, Round

SIGNS = {"passed": "✅", "gate_failed": "❌", "error": "❌", "canceled": "⚪", "timed_out": "⚪"}
MAX_POINTS = 40
"""More, and the chart's axis is a blur."""


def markdown(job: Job, rounds: Sequence[Round], url: str | None = None) -> str:
    """Conclusion, gates, a chart (mermaid, which GitHub and GitLab draw) and a table of the rounds.

    Args:
        url: of the service, to link the job's page.
    """
    conclusion = job["conclusion"] or job["status"]
    metric = "accuracy" if any("accuracy" in _validation(round_) for round_ in rounds) else "loss"
    name = f"[`{job['id']}`]({url.rstrip('/')}/jobs/{job['id']})" if url else f"`{job['id']}`"
    lines = [f"### {SIGNS.get(conclusion, '🔵')} Pruning: {conclusion.replace('_', ' ')}", ""]
    lines += [f"{_code(job['recipe'].get('strategy') or 'a recipe of its own')}, {name}", ""]
    if job["error"]:
        lines += [f"> {_text(job['error']['code'])}: {_text(job['error']['message'])}", ""]
    lines += [_verdict(job, rounds, metric), *_gates(job), *_chart(rounds, metric), *_table(job, rounds, metric)]
    return "\n".join(lines) + "\n"


def _verdict(job: Job, rounds: Sequence[Round], metric: str) -> str:
    chosen = next((round_ for round_ in rounds if _name(round_) == str(job["selected_round"])), None)
    if chosen is None:
        return "No round is selected."
    dense, value = _validation(rounds[0]).get(metric), _validation(chosen).get(metric)
    said = f"**Round {_name(chosen)}**: {_percent(chosen)} removed, {metric} {_number(value)}"
    return f"{said} (dense {_number(dense)})."


def _gates(job: Job) -> list[str]:
    if not job["gates"]:
        return []
    return ["", "Gates: " + ", ".join(f"`{gate['metric']} {gate['op']} {gate['value']:g}`" for gate in job["gates"])]


def _chart(rounds: Sequence[Round], metric: str) -> list[str]:
    """Validation against what is removed."""
    points = [(round_, _validation(round_).get(metric)) for round_ in rounds if round_["number"] is not None]
    known = [(round_, value) for round_, value in points if value is not None][-MAX_POINTS:]
    if len(known) < 2:
        return []
    values = [value for _, value in known]
    low, high = min(values), max(values)
    pad = 0.1 * (high - low) or 0.01 * abs(high) or 0.01
    names = ", ".join(f'"{_percent(round_)}"' for round_, _ in known)
    return [
        "",
        "```mermaid",
        "xychart-beta",
        f'    title "validation {metric} by weights removed"',
        f"    x-axis [{names}]",
        f'    y-axis "{metric}" {low - pad:.4f} --> {high + pad:.4f}',
        f"    line [{', '.join(f'{value:.4f}' for value in values)}]",
        "```",
    ]


def _table(job: Job, rounds: Sequence[Round], metric: str) -> list[str]:
    if not rounds:
        return []
    dense = _validation(rounds[0]).get(metric)
    lines = ["", f"| round | removed | {metric} | - dense | weights | |", "|---|---:|---:|---:|---:|---|"]
    for round_ in rounds:
        value = _validation(round_).get(metric)
        delta = "" if value is None or dense is None else f"{value - dense:+.4f}"
        marks = ["selected"] if _name(round_) == str(job["selected_round"]) else []
        marks += ["Pareto"] if round_.get("pareto") else []
        cells = [
            _name(round_),
            _percent(round_),
            _number(value),
            delta,
            f"{round_.get('num_nonzero', 0):,}",
            ", ".join(marks),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _validation(round_: Round) -> dict[str, float]:
    return round_["metrics"].get("validation", {})


def _name(round_: Round) -> str:
    return "final" if round_["number"] is None else str(round_["number"])


def _percent(round_: Round) -> str:
    return f"{100 * round_['sparsity']['actual']:.1f}%"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"


def _text(text: str) -> str:
    """Of strangers: no markup, no mention, no further line."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|@~" else " " if c.isspace() else c for c in text)
