"""The retry loop of a training: attempts that fail for a lost rank go on from the last snapshot.

Spark never repeats a failed barrier stage of this kind, so the driver does. What would fail again (bad input, a
singular system, a cluster that does not fit) is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lakefactor.errors import LakefactorError, RankFailedError, SnapshotError
from lakefactor.factorization.snapshot import Manifest, Place, find

Result = TypeVar("Result")


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes
    ----------
    number : int
        1, 2, ...
    snapshot : Manifest or None
        What it goes on from; None: it begins anew.
    """

    number: int
    snapshot: Manifest | None


FIRST = Attempt(1, None)
"""The attempt of a training that keeps no snapshots."""


def attempt_until_done(
    limit: int, place: Place | None, action: Callable[[Attempt], Result], say: Callable[[str], None]
) -> Result:
    """Repeat an action until it succeeds, or fails for good.

    Parameters
    ----------
    limit : int
        ``train.attempts``. A damaged snapshot costs none: the one before it is tried instead.
    place : Place or None
        Where the snapshots are; None: every attempt begins anew.
    action : callable
    say : callable
        Told, for people, why there is another attempt and what it goes on from.

    Raises
    ------
    LakefactorError
        The action's own, where it cannot be repeated; `RankFailedError` after the last attempt.
    """
    refused: set[int] = set()
    number = 1
    while True:
        snapshot = _newest(place, frozenset(refused), say)
        if snapshot is not None:
            say(f"going on from the snapshot of iteration {snapshot.iteration}")
        elif number > 1 or refused:
            say("no usable snapshot: beginning anew")
        try:
            return action(Attempt(number, snapshot))
        except SnapshotError as error:
            if snapshot is None:
                raise
            say(str(error))
            refused.add(snapshot.iteration)
        except LakefactorError as error:
            if not error.retryable:
                raise
            if number == limit:
                raise RankFailedError(
                    f"{error} (attempt {number} of {limit}; the same command goes on from the last snapshot)"
                ) from error
            say(f"attempt {number} of {limit} failed: {error}")
            number += 1


def _newest(place: Place | None, refused: frozenset[int], say: Callable[[str], None]) -> Manifest | None:
    if place is None:
        return None
    snapshot, problems = find(place, refused)
    for problem in problems:
        say(problem)
    return snapshot
