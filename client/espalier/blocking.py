"""The protocol is written once, as coroutines. Over a wire that waits in place a coroutine never waits for a loop: one
step runs it to its end. So the blocking client is the asynchronous one, stepped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine waited for a loop, and there is none")


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    async def next_one() -> list[T]:
        async for item in items:
            return [item]
        return []

    try:
        while found := run(next_one()):
            yield found[0]
    finally:
        run(items.aclose())


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """A method of `Client` out of one of its asynchronous twin: the same name, arguments and words."""

    @wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._twin, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """As `blocking`, of what is read one by one."""

    @wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return iterate(method(self._twin, *args, **kwargs))

    return call
