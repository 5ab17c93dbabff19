"""Work on items in several threads at once, results in order."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any, TypeVar

import torch

MOST_WORKERS = 8  # more would wait for the one that writes
SPARE = 2  # items held beyond those being worked on

Item = TypeVar("Item")
Result = TypeVar("Result")
_crews: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crews.clear)  # a child has none of its parent's threads


def workers() -> int:
    """How many threads there are for work: one a core of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Run torch on one thread, if that is `wanted`, and in full precision; both are then as the caller had them."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute on one core."""
    threads = _threads(workers())
    with one_thread():
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def crew(size: int) -> ThreadPoolExecutor:
    """At most `size` threads that each compute on one core, kept for the next call, within `one_thread`.

    What torch sets up in a new thread takes as long as a block of rows. All are there at once: one that began later
    would set the number of threads of others anew.
    """
    size = min(size, workers())
    if size not in _crews:
        threads, all_there = _threads(size), Barrier(size)
        deque(threads.map(lambda _: all_there.wait(), range(size)), maxlen=0)
        _crews[size] = threads
    return _crews[size]


def _threads(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, "anomaly-ae", torch.set_num_threads, (1,))


def in_order(threads: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `work`, one an item, in the order of the items; items are taken as results are."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(threads.submit(work, item))
            if len(waiting) >= workers() + SPARE:
                yield waiting[0].result()
                waiting.popleft()
        while waiting:
            yield waiting[0].result()
            waiting.popleft()
    finally:  # nothing goes on when this is over
        wait([future for future in waiting if not future.cancel()])


def by_turns(work: Callable[[Item], Result], items: Sequence[Item], size: int) -> list[Result]:
    """Results of `work`, one an item, in the order of the items, by `size` threads of which this is one.

    Each takes the next item when it is done with the last: nobody waits for a result, who would take the interpreter
    from those at work.
    """
    results: list[Any] = [None] * len(items)
    turns = iter(enumerate(items))

    def take_turns() -> None:
        try:
            for place, item in turns:
                results[place] = work(item)
        finally:
            deque(turns, maxlen=0)  # after an error there is nothing left to do

    others: list[Future[None]] = []
    with one_thread():
        try:
            others.extend(crew(size - 1).submit(take_turns) for _ in range(min(size, len(items), workers()) - 1))
            take_turns()
        finally:  # nothing goes on when this is over, and who has not begun, busy for another, is not waited for
            deque(turns, maxlen=0)
            begun = [other for other in others if not other.cancel()]
            wait(begun)
    for other in begun:
        other.result()  # raises what it raised
    return results
