"""Ordered parallel maps on threads; numpy, scipy and the compiled loops release the interpreter lock.

`ordered_map` starts threads and gives them items; `shared_map`, called from an item, lets threads that would
be idle take parts of it, so that one large tensor keeps all of them busy.

`begin` is for one thing beside them.

Law: results are those of `map`, in its order, whatever the number of threads.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_AHEAD = 8  # items per thread, so that one that takes long does not leave the other threads without work
_own = threading.local()  # .pool: the pool that a thread belongs to


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    jobs: int,
    size: Callable[[_Item], int] | None = None,
) -> Iterator[_Result]:
    """Maps in order on `jobs` threads, at most eight items per thread ahead of what has been asked for.

    With a size the largest of the first items are begun first: what is begun last may leave threads idle.
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    waiting = iter(items)

    def join() -> None:
        _own.pool = pool

    with ThreadPoolExecutor(jobs, initializer=join) as pool:
        first = list(islice(waiting, _AHEAD * jobs))
        order = sorted(range(len(first)), key=lambda place: -size(first[place]) if size else place)
        begun = {place: pool.submit(function, first[place]) for place in order}
        flying: list[Future[_Result]] = [begun[place] for place in range(len(first))]
        try:
            while flying:
                result = flying.pop(0).result()
                flying += [pool.submit(function, item) for item in islice(waiting, 1)]
                yield result
        finally:
            for future in flying:
                future.cancel()


def shared_map(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Maps items, some of them on other threads of the pool that the caller is a thread of.

    The caller does itself whatever no other thread has begun, so that it never waits for one that waits too.
    """
    pool: ThreadPoolExecutor | None = getattr(_own, "pool", None)
    if pool is None or len(items) < 2:
        return [function(item) for item in items]
    offered = [pool.submit(function, item) for item in items[1:]]
    try:
        results = [function(items[0])]
        for item, future in zip(items[1:], offered, strict=True):
            results.append(function(item) if future.cancel() else future.result())
    finally:
        for future in offered:
            future.cancel()
    return results


def begin(function: Callable[[], _Result]) -> Callable[[], _Result]:
    """Begins a call on a thread of its own, which no exit waits for; returns what gives its result."""
    future: Future[_Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result
