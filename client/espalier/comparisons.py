"""Several recipes and seeds as one: posted, waited for, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from espalier import watching
from espalier.errors import ApiError, EspalierError
from espalier.files import write_whole
from espalier.shapes import Dataset, Model
from espalier.transport import Transport
from espalier.transport import api_path as _path

Comparison = dict[str, Any]
"""id, status, done, conclusion, recipes, seeds, goal, gates, progress, parts (recipe, seed, job, status), ..."""


class ComparisonFailed(EspalierError):
    """Not all of its jobs succeeded. Its table and its recommendation tell of those that did; `comparison` is all."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        bad = [
            f"{part['recipe']}, seed {part['seed']}" for part in comparison["parts"] if part["status"] != "succeeded"
        ]
        super().__init__(f"{comparison['id']} is {comparison['status']}: {'; '.join(bad[:5])}")


class Comparisons:
    """The part of `Client` that has to do with comparisons."""

    _transport: Transport

    def compare(
        self,
        *,
        model: Model | str,
        dataset: Dataset | str,
        recipes: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]] | None = None,
        grid: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        **options: Any,
    ) -> Comparison:
        """Post several recipes, each with every seed. `recipes` maps names to recipes, or lists {name, recipe}; or give
        `grid={"recipe": {...}, "axes": {"/schedule/fraction": [0.2, 0.5]}}`. `options` are the other fields (`budget`,
        `controls`, `goal`, `gates`, `priority`, `metadata`, ...). Sent again where no answer came, and made once."""
        if isinstance(recipes, Mapping):
            recipes = [{"name": name, "recipe": recipe} for name, recipe in recipes.items()]
        body = {
            "model": model if isinstance(model, str) else model["id"],
            "dataset": dataset if isinstance(dataset, str) else dataset["id"],
            "recipes": None if recipes is None else list(recipes),
            "grid": grid,
            "seeds": list(seeds),
            **options,
        }
        made: Comparison = self._transport.send_once("/v1/comparisons", body)
        return made

    def comparison(self, comparison_id: str) -> Comparison:
        comparison: Comparison = self._transport.get(_path("comparisons", comparison_id))
        return comparison

    def comparisons(self, **filters: Any) -> Iterator[Comparison]:
        """Every comparison, page by page; `filters` such as `done`, `model`, and `metadata={"key": "value"}`."""
        labels = filters.pop("metadata", None) or {}
        filters |= {f"metadata[{key}]": value for key, value in labels.items()}
        while True:
            page = self._transport.get("/v1/comparisons", **filters)
            yield from page["data"]
            if not page["has_more"]:
                return
            filters["after"] = page["next_cursor"]

    def follow_comparison(self, comparison_id: str, *, interval_seconds: float = 1.0) -> Iterator[Comparison]:
        """The comparison now and each time it has changed, until all of its jobs have ended."""
        return self._until_done(comparison_id, interval_seconds, None)

    def wait_comparison(
        self, comparison_id: str, *, timeout_seconds: float | None = None, interval_seconds: float = 1.0
    ) -> Comparison:
        """The comparison once all of its jobs have succeeded (whether it passed is its `conclusion`).

        Raises:
            ComparisonFailed: a job failed or was canceled.
            WaitTimedOut: it is not done yet, and goes on.
        """
        *_, comparison = self._until_done(comparison_id, interval_seconds, timeout_seconds)
        if comparison["status"] != "succeeded":
            raise ComparisonFailed(comparison)
        return comparison

    def comparison_table(self, comparison_id: str) -> dict[str, Any]:
        """{metric, data}: a row for each recipe and round, with mean and std over seeds; for a control, too."""
        table: dict[str, Any] = self._transport.get(_path("comparisons", comparison_id, "table"))
        return table

    def comparison_front(self, comparison_id: str) -> dict[str, Any]:
        """The rows of the recipes alone; `pareto` is true for those that no other one beats."""
        front: dict[str, Any] = self._transport.get(_path("comparisons", comparison_id, "front"))
        return front

    def recommendation(self, comparison_id: str) -> dict[str, Any]:
        """Which recipe and round to take: `met`, `passed`, `held` of `seeds`, `summary`, and its `artifacts`, each fit
        for `Client.download`."""
        recommended: dict[str, Any] = self._transport.get(_path("comparisons", comparison_id, "recommendation"))
        return recommended

    def comparison_summary(self, comparison_id: str, *, plot: str | None = None) -> str:
        """Markdown for a pull request; `plot` is where you have put the picture for its readers."""

        def attempt() -> str:
            params = {} if plot is None else {"plot": plot}
            with self._transport.stream("GET", _path("comparisons", comparison_id, "summary.md"), params=params) as got:
                return got.read().decode()

        return self._transport.patiently(attempt)

    def download_comparison_plot(
        self, comparison_id: str, path: Path | str, *, theme: Literal["light", "dark"] = "light"
    ) -> Path:
        """Store the plot of all recipes. `path` ends in .svg or .png."""
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"{path.name}: a plot is a .svg or a .png")

        def attempt() -> Path:
            plot = _path("comparisons", comparison_id, f"plot{path.suffix}")
            with self._transport.stream("GET", plot, params={"theme": theme}) as response:
                write_whole(response.iter_bytes(), path)
            return path

        return self._transport.patiently(attempt)

    def cancel_comparison(self, comparison_id: str) -> Comparison:
        """All of its jobs that have not ended. Safe to repeat."""
        return self._order(comparison_id, "cancel")

    def pause_comparison(self, comparison_id: str) -> Comparison:
        return self._order(comparison_id, "pause")

    def resume_comparison(self, comparison_id: str) -> Comparison:
        return self._order(comparison_id, "resume")

    def retry_comparison(self, comparison_id: str) -> Comparison:
        """Its jobs that failed or were canceled, made again. Safe to repeat."""
        comparison: Comparison = self._transport.send_once(_path("comparisons", comparison_id, "retry"))
        return comparison

    def delete_comparison(self, comparison_id: str, *, keep_jobs: bool = False) -> None:
        """With its jobs, once all have ended; or they stay as jobs of their own. It may be gone already."""

        def attempt() -> None:
            try:
                params = {"keep_jobs": str(keep_jobs).lower()}
                with self._transport.stream("DELETE", _path("comparisons", comparison_id), params=params):
                    pass
            except ApiError as error:
                if error.status != 404:
                    raise

        self._transport.patiently(attempt)

    def _order(self, comparison_id: str, verb: str) -> Comparison:
        path = _path("comparisons", comparison_id, verb)
        comparison: Comparison = self._transport.patiently(lambda: self._transport.send("POST", path))
        return comparison

    def _until_done(
        self, comparison_id: str, interval_seconds: float, timeout_seconds: float | None
    ) -> Iterator[Comparison]:
        path = _path("comparisons", comparison_id)
        for state in watching.states(self._transport, path, interval_seconds, timeout_seconds):
            comparison: Comparison = dict(state)
            yield comparison
            if comparison["done"]:
                return
