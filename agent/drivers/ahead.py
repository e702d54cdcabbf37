"""Works ahead of whoever takes the results: in threads, or not at all.

Real file systems read ahead in threads. The one in memory does not: what is done there happens in
one order, the same each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# So many results are worked on, or wait. More gained nothing when measured, and each takes memory.
AHEAD_MAX = 4


class Ahead(Protocol):
    """Does something with each item, in their order."""

    def __call__(
        self, function: Callable[[T], R], items: Iterable[T], *, threads: int
    ) -> Generator[R, None, None]:
        """Yields what the function returns for each item; closing it ends what is under way."""
        ...


def inline(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,  # noqa: ARG001 - none is needed
) -> Generator[R, None, None]:
    """Works only when it is asked."""
    for item in items:
        yield function(item)


def threaded(
    function: Callable[[T], R], items: Iterable[T], *, threads: int
) -> Generator[R, None, None]:
    """Works on the next items while one is being used."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                if len(pending) == AHEAD_MAX:
                    yield pending.popleft().result()
                pending.append(pool.submit(function, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # what is under way is waited for
                future.cancel()
