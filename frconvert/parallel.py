"""Ordered parallel map on threads; numpy and scipy release the interpreter lock in their long loops."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_map(function: Callable[[_Item], _Result], items: Iterable[_Item], jobs: int) -> Iterator[_Result]:
    """Maps in order on `jobs` threads, with at most one item per thread and one more in flight."""
    if jobs <= 1:
        yield from map(function, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(jobs) as pool:
        flying: list[Future[_Result]] = [pool.submit(function, item) for item in islice(waiting, jobs + 1)]
        try:
            while flying:
                result = flying.pop(0).result()
                flying += [pool.submit(function, item) for item in islice(waiting, 1)]
                yield result
        finally:
            for future in flying:
                future.cancel()
