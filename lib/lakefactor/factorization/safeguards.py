"""What keeps a few events from doing much harm: each is off, or acts and is counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.types import FACTOR_DTYPE


def newest_events(users: NDArray[np.integer], order: NDArray[np.integer], most: int) -> NDArray[np.bool_]:
    """Return which events to keep: of each user the newest ``most``.

    Parameters
    ----------
    users : int array, shape (n,)
        User of each event, as any number.
    order : int array, shape (n,)
        Place of each event in time, all different for a user's events.
    most : int
        0: all are kept.

    Examples
    --------
    >>> newest_events(np.array([0, 0, 1, 0]), np.array([3, 1, 0, 2]), 2)
    array([ True, False,  True,  True])
    """
    if most == 0 or len(users) == 0:
        return np.ones(len(users), bool)
    newest_first = np.lexsort([-np.asarray(order, np.int64), users])
    grouped = users[newest_first]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    place = np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
    keep = np.empty(len(users), bool)
    keep[newest_first] = place < most
    return keep


def in_quarantine(users: NDArray[np.integer], is_new: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Return which events are of a new user with more than ``most`` of them in this micro-batch.

    Parameters
    ----------
    users : int array, shape (n,)
        User of each event, as any number.
    is_new : bool array, shape (n,)
        Whether the live model lacks the event's user.
    most : int
        0: nobody is in quarantine.

    Examples
    --------
    >>> in_quarantine(np.array([7, 7, 8, 9, 9]), np.array([True, True, True, False, False]), 1)
    array([ True,  True, False, False, False])
    """
    if most == 0:
        return np.zeros(len(users), bool)
    _, place, events = np.unique(users, return_inverse=True, return_counts=True)
    return is_new & (events[place] > most)


def bound_change(
    old: NDArray[np.float32], new: NDArray[np.float32], largest: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Shorten each row's change to ``largest`` times the old length; return the rows, and which were shortened.

    Rows that were zeros are new, and free. ``largest`` of 0: no bound.

    Examples
    --------
    >>> old, new = np.float32([[3, 4], [0, 0]]), np.float32([[3, 9], [5, 5]])
    >>> rows, bounded = bound_change(old, new, 0.5)
    >>> rows.tolist(), bounded.tolist()
    ([[3.0, 6.5], [5.0, 5.0]], [True, False])
    """
    if largest == 0:
        return new, np.zeros(len(new), bool)
    change = new.astype(np.float64) - old
    length = np.linalg.norm(change, axis=1)
    allowed = largest * np.linalg.norm(old.astype(np.float64), axis=1)
    bounded = (allowed > 0) & (length > allowed)
    shorter = old + change * np.divide(allowed, length, out=np.ones_like(length), where=bounded)[:, None]
    return np.where(bounded[:, None], shorter, new).astype(FACTOR_DTYPE), bounded
