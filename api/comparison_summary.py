"""A comparison as Markdown, for a pull request: verdict, recommendation, table, plot."""

from __future__ import annotations

from api.comparison_results import Found, said
from pruning.comparing import Row
from pruning.recommending import Recommendation

MAX_ROWS = 60
"""A comment of a pull request has its limits, and its reader, too."""
_SAID = {
    "passed": "passed",
    "gate_failed": "did not pass",
    "error": "has jobs that failed",
    "timed_out": "has jobs that ran out of time",
    "canceled": "was canceled",
}


def summary(found: Found, conclusion: str | None, plot: str) -> str:
    """`plot` is where the picture is, to be replaced by whoever publishes it: it needs a key."""
    whole, results = found.whole, found.findings
    verdict = _SAID.get(conclusion or "", f"is {whole.status}")
    num_seeds = len(whole.comparison.seeds)
    lines = [
        f"### Comparison {verdict}",
        "",
        f"**{said(found)}**",
        "",
        f"Goal: {goal_said(found)}. {len(whole.names)} recipes, {num_seeds} seed{'s' * (num_seeds != 1)} "
        f"({', '.join(map(str, whole.comparison.seeds))}), {len(whole.parts)} jobs.",
        "",
        f"| recipe | round | removed | {results.goal.metric} | test | seeds | stop at step | seconds | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    shown = _shown(results.rows, results.recommended)
    lines += [_line(row, found, num_seeds) for row in shown]
    if len(shown) < len(results.rows):
        lines += ["", f"{len(results.rows) - len(shown)} more rows are in the table of `{whole.comparison.id}`."]
    lines += [
        "",
        f"![{results.goal.metric} against what remains, for all recipes]({plot})",
        "",
        f"Mean ± sample standard deviation over seeds, of validation unless said; removed: of all parameters; seconds: "
        f"of a job up to that round. `{whole.comparison.id}`",
        "",
    ]
    return "\n".join(lines)


def goal_said(found: Found) -> str:
    """`smallest with accuracy at least 0.99 x dense, in all seeds`."""
    goal, more = found.findings.goal, found.findings.is_more_better
    parts = []
    if goal.keep_ratio is not None:
        parts.append(f"at least {goal.keep_ratio:g} x dense" if more else f"at most dense / {goal.keep_ratio:g}")
    if goal.value is not None:
        parts.append(f"at {'least' if more else 'most'} {goal.value:g}")
    if goal.min_removed is not None:
        parts.append(f"at least {goal.min_removed:.0%} removed")
    seeds = "all seeds" if goal.min_seeds is None else f"{goal.min_seeds} of {len(found.whole.comparison.seeds)} seeds"
    wanted = f"smallest with {goal.metric}" if goal.want == "smallest" else f"best {goal.metric},"
    return f"{wanted} {' and '.join(parts)}, in {seeds}"


def _shown(rows: list[Row], best: Recommendation | None) -> list[Row]:
    """All, where they are few; else those on the front, and the recommended one."""
    if len(rows) <= MAX_ROWS:
        return rows
    chosen = [row for row in rows if row.pareto or (best is not None and row == best.row)]
    return chosen[:MAX_ROWS]


def _line(row: Row, found: Found, num_seeds: int) -> str:
    marks = []
    if found.findings.is_recommended(row):
        marks.append("**recommended**")
    if row.pareto:
        marks.append("front")
    name = row.recipe if row.control is None else f"{row.recipe}: {row.control.replace('_', ' ')}"
    number = "final" if row.number is None else row.number
    return (
        f"| {name} | {number} | {row.removed:.1%} | {_spread(row.mean, row.std)} "
        f"| {_spread(row.test_mean, row.test_std)} | {row.num_seeds} of {num_seeds} | {_number(row.stop_step)} "
        f"| {_number(row.seconds_so_far, 1)} | {', '.join(marks)} |"
    )


def _spread(mean: float | None, std: float | None) -> str:
    return "" if mean is None else f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}")


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
