"""Numbers and states as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.shapes import Job, Round


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}%"


def measure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{left} s"


def size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "-"
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:.1f} kB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"


def state(job: Job) -> str:
    if job["done"]:
        return f"{job['status']}, {job['conclusion']}"
    progress = job["progress"]
    if progress["round"] is None:
        return job["status"]
    return f"{job['status']}, round {progress['round']} of {progress['rounds']}"


def name_of(round_: Round) -> str:
    return "final" if round_["number"] is None else str(round_["number"])


def metric_of(rounds: Sequence[Round]) -> str:
    """What the validation split is judged by: accuracy, or the loss where the task has none."""
    return (
        "loss" if rounds and "accuracy" not in rounds[0]["metrics"].get("validation", {"accuracy": 0}) else "accuracy"
    )


def validation(round_: Round, metric: str) -> float | None:
    return round_["metrics"].get("validation", {}).get(metric)


def selected(job: Job, rounds: Sequence[Round]) -> Round | None:
    if job["selected_round"] is None:
        return None
    number = None if job["selected_round"] == "final" else job["selected_round"]
    return next((round_ for round_ in rounds if round_["number"] == number), None)


def sparsity(round_: Round) -> float | None:
    return (round_.get("sparsity") or {}).get("actual")


def line(round_: Round, metric: str) -> str:
    """A round as one plain line."""
    return (
        f"round {name_of(round_)}: sparsity {percent(sparsity(round_))}, {metric} {measure(validation(round_, metric))}"
    )


def rows(job: Job, rounds: Sequence[Round], metric: str) -> list[list[str]]:
    """round, sparsity, metric, its distance to the dense network's, weights left, marks."""
    dense = validation(rounds[0], metric) if rounds else None
    chosen = selected(job, rounds)
    table = []
    for round_ in rounds:
        value = validation(round_, metric)
        delta = "-" if value is None or dense is None else f"{value - dense:+.4f}"
        marks = " ".join(
            word for word, is_so in (("selected", round_ is chosen), ("pareto", round_.get("pareto"))) if is_so
        )
        left = round_.get("num_nonzero")
        table.append(
            [
                name_of(round_),
                percent(sparsity(round_)),
                measure(value),
                delta,
                "-" if left is None else f"{left:,}",
                marks,
            ]
        )
    return table


def columns(metric: str) -> list[str]:
    return ["round", "sparsity", metric, "- dense", "weights", ""]


def clean(text: str) -> str:
    """Without what a terminal would take for orders: names come from others."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
