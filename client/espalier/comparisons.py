"""Several recipes and seeds as one: posted, waited for, and what came of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

from espalier import watching
from espalier.errors import EspalierError
from espalier.files import written_whole
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
    """The part of `AsyncClient` that has to do with comparisons."""

    _transport: Transport

    async def compare(
        self,
        /,
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
        body = _request(model, dataset, recipes, grid, seeds, options)
        made: Comparison = await self._transport.post("/v1/comparisons", body)
        return made

    async def plan_comparison(
        self,
        /,
        *,
        model: Model | str,
        dataset: Dataset | str,
        recipes: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]] | None = None,
        grid: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        **options: Any,
    ) -> dict[str, Any]:
        """What `compare` would make, checked, filled in and counted (`num_jobs`). Stores nothing."""
        body = _request(model, dataset, recipes, grid, seeds, options)
        plan: dict[str, Any] = await self._transport.post("/v1/comparisons", body, validate_only="true")
        return plan

    async def comparison(self, comparison_id: str) -> Comparison:
        comparison: Comparison = await self._transport.get(_path("comparisons", comparison_id))
        return comparison

    def comparisons(self, /, **filters: Any) -> AsyncGenerator[Comparison, None]:
        """Every comparison, page by page; `filters` such as `done`, `model`, and `metadata={"key": "value"}`."""
        labels = filters.pop("metadata", None) or {}
        filters |= {f"metadata[{key}]": value for key, value in labels.items()}
        return self._transport.pages("/v1/comparisons", **filters)

    async def follow_comparison(
        self, comparison_id: str, *, interval_seconds: float = 1.0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Comparison, None]:
        """The comparison now and each time it has changed, until all of its jobs have ended.

        Raises:
            WaitTimedOut: it is not done yet, and goes on.
        """
        path = _path("comparisons", comparison_id)
        async with aclosing(watching.states(self._transport, path, interval_seconds, timeout_seconds)) as states:
            async for state in states:
                yield dict(state)
                if state["done"]:
                    return

    async def wait_comparison(
        self, comparison_id: str, *, timeout_seconds: float | None = None, interval_seconds: float = 1.0
    ) -> Comparison:
        """The comparison once all of its jobs have succeeded (whether it passed is its `conclusion`).

        Raises:
            ComparisonFailed: a job failed or was canceled.
            WaitTimedOut: it is not done yet, and goes on.
        """
        path = _path("comparisons", comparison_id)
        async with aclosing(watching.states(self._transport, path, interval_seconds, timeout_seconds)) as states:
            async for state in states:
                if state["done"]:
                    break
        if state["status"] != "succeeded":
            raise ComparisonFailed(dict(state))
        return dict(state)

    async def comparison_table(self, comparison_id: str) -> dict[str, Any]:
        """{metric, data}: a row for each recipe and round, with mean and std over seeds; for a control, too."""
        table: dict[str, Any] = await self._transport.get(_path("comparisons", comparison_id, "table"))
        return table

    async def comparison_csv(self, comparison_id: str) -> str:
        """The same as CSV."""
        return (await self._transport.read(_path("comparisons", comparison_id, "table.csv"))).decode()

    async def comparison_front(self, comparison_id: str) -> dict[str, Any]:
        """The rows of the recipes alone; `pareto` is true for those that no other one beats."""
        front: dict[str, Any] = await self._transport.get(_path("comparisons", comparison_id, "front"))
        return front

    async def recommendation(self, comparison_id: str) -> dict[str, Any]:
        """Which recipe and round to take: `met`, `passed`, `held` of `seeds`, `summary`, and its `artifacts`, each fit
        for `download`."""
        recommended: dict[str, Any] = await self._transport.get(_path("comparisons", comparison_id, "recommendation"))
        return recommended

    async def comparison_summary(self, comparison_id: str, *, plot: str | None = None) -> str:
        """Markdown for a pull request; `plot` is where you have put the picture for its readers."""
        params = {} if plot is None else {"plot": plot}
        return (await self._transport.read(_path("comparisons", comparison_id, "summary.md"), params=params)).decode()

    async def download_comparison_plot(
        self, comparison_id: str, path: Path | str, *, theme: Literal["light", "dark"] = "light"
    ) -> Path:
        """Store the plot of all recipes. `path` ends in .svg or .png."""
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"{path.name}: a plot is a .svg or a .png")
        drawn = _path("comparisons", comparison_id, f"plot{path.suffix}")
        plot = await self._transport.read(drawn, params={"theme": theme})
        with written_whole(path) as file:
            file.write(plot)
        return path

    async def cancel_comparison(self, comparison_id: str) -> Comparison:
        """All of its jobs that have not ended. Safe to repeat."""
        return await self._order_all(comparison_id, "cancel")

    async def pause_comparison(self, comparison_id: str) -> Comparison:
        """All of its jobs that wait or run. Safe to repeat."""
        return await self._order_all(comparison_id, "pause")

    async def resume_comparison(self, comparison_id: str) -> Comparison:
        """All of its jobs that are paused. Safe to repeat."""
        return await self._order_all(comparison_id, "resume")

    async def retry_comparison(self, comparison_id: str) -> Comparison:
        """Its jobs that failed or were canceled, made again. Safe to repeat."""
        return await self._order_all(comparison_id, "retry")

    async def delete_comparison(self, comparison_id: str, *, keep_jobs: bool = False) -> None:
        """With its jobs, once all have ended; or they stay as jobs of their own. It may be gone already."""
        await self._transport.delete(_path("comparisons", comparison_id) + ("?keep_jobs=true" if keep_jobs else ""))

    async def _order_all(self, comparison_id: str, verb: str) -> Comparison:
        comparison: Comparison = await self._transport.post(_path("comparisons", comparison_id, verb))
        return comparison


def _request(
    model: Model | str,
    dataset: Dataset | str,
    recipes: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]] | None,
    grid: Mapping[str, Any] | None,
    seeds: Sequence[int],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    if isinstance(recipes, Mapping):
        recipes = [{"name": name, "recipe": recipe} for name, recipe in recipes.items()]
    return {
        "model": model if isinstance(model, str) else model["id"],
        "dataset": dataset if isinstance(dataset, str) else dataset["id"],
        "recipes": None if recipes is None else list(recipes),
        "grid": grid,
        "seeds": list(seeds),
        **options,
    }
