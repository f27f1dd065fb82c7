"""Scans of all items in a thread of their own: the event loop goes on meanwhile, and many that wait become one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from lakefactor.service.ranking import TOGETHER, Found, Ranking, Wanted

MOST = 64
"""Rankings that are taken out of the queue together."""

SHORT = 128
"""Lists up to here are not held up by the places of longer ones."""


class _Job(NamedTuple):
    ranking: Ranking
    by_cosine: bool
    wanted: Wanted
    done: asyncio.Future[Found]


class Scans:
    """Ranks for coroutines. Nobody is made to wait for others to come: what waits already is taken together."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Take what comes, from now on."""
        self._thread = Thread(target=self._run, name="scans", daemon=True)
        self._thread.start()

    async def best(self, ranking: Ranking, wanted: Wanted) -> Found:
        """Return the items that score best."""
        return await self._put(ranking, False, wanted)

    async def similar(self, ranking: Ranking, wanted: Wanted) -> Found:
        """Return the items of the largest cosine."""
        return await self._put(ranking, True, wanted)

    def stop(self) -> None:
        """End the thread after what is in the queue."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    async def _put(self, ranking: Ranking, by_cosine: bool, wanted: Wanted) -> Found:
        done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(ranking, by_cosine, wanted, done))
        return await done

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs, ended = [job], False
            while len(jobs) < MOST:
                try:
                    more = self._queue.get_nowait()
                except Empty:
                    break
                if more is None:
                    ended = True
                    break
                jobs.append(more)
            for group in _groups(jobs):
                _work(group)
            if ended:
                return


def _groups(jobs: list[_Job]) -> list[list[_Job]]:
    """Return the jobs that one product can do; where it is not worth it, one by one."""
    alike = defaultdict(list)
    for job in jobs:
        length = job.wanted.n > SHORT if job.by_cosine or job.ranking.is_nested else job.wanted.n
        alike[id(job.ranking), job.by_cosine, length].append(job)
    groups: list[list[_Job]] = []
    for some in alike.values():
        groups += [some] if len(some) >= TOGETHER else [[job] for job in some]
    return groups


def _work(group: list[_Job]) -> None:
    rank = group[0].ranking.similar if group[0].by_cosine else group[0].ranking.best
    try:
        results: list[Found | Exception] = [*rank([job.wanted for job in group])]
    except Exception as error:  # whoever waits gets it
        results = [error] * len(group)
    for job, result in zip(group, results, strict=True):
        job.done.get_loop().call_soon_threadsafe(_settle, job.done, result)


def _settle(done: asyncio.Future[Found], result: Found | Exception) -> None:
    if done.cancelled():  # the caller has gone
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
