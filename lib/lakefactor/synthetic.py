"""Synthetic events with known taste: power-law popularity, planted groups, timestamps, drift.

Every item belongs to one group, every user likes one or two. An event falls in the user's own groups with probability
``affinity`` and outside them otherwise; within either part, items are drawn in proportion to their popularity. Halfway
through the history a share ``drift`` of the users gives up its groups for a new one (those who like every group keep
them). Because all of this is known, a test can state what must come out, and the demo can say how many recommendations
hit a user's own groups.

Memory is O(users + items) plus one batch, whatever the number of events; a batch depends on the configuration and its
own number only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.config import Synthetic
from lakefactor.errors import UnknownIdError

BATCH_EVENTS = 1 << 18
START = np.datetime64("2025-01-01T00:00:00", "us")
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("event_type", pa.string()),
        ("value", pa.float64()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
    ]
)

EVENT_TYPES = ("view", "cart", "purchase")
TYPE_CHANCES_INSIDE = (0.70, 0.18, 0.12)
TYPE_CHANCES_OUTSIDE = (0.90, 0.07, 0.03)
"""Chances of the event types for an item of the user's own groups, and for any other item."""

SECOND_GROUP_CHANCE = 0.5
ACTIVITY_SIGMA = 0.8
"""Standard deviation of the logarithm of the users' activity (events per user are log-normal)."""

RATING_MEAN, BIAS_STD, GROUP_EFFECT, NOISE_STD = 3.4, 0.35, 0.6, 0.5
"""Ratings in stars: mean, std of user and item biases, gain inside (loss outside) the own groups, std of the noise."""

_TASTE, _RATINGS, _EVENTS = range(3)
"""Streams of random numbers; the last one is split by batch."""


@dataclass(frozen=True)
class Planted:
    """The truth behind the events of a configuration.

    Attributes
    ----------
    item_group : int32 array, shape (items,)
        Group of each item, range [0, groups).
    taste_before, taste_after : int32 arrays, shape (users, 2)
        Groups that a user likes in the first and in the second half, equal twice for a user with one group.
    item_weight : float64 array, shape (items,)
        Popularity ``rank^-exponent`` of each item; the most popular item has weight 1.
    """

    item_group: NDArray[np.int32]
    taste_before: NDArray[np.int32]
    taste_after: NDArray[np.int32]
    item_weight: NDArray[np.float64]

    def group_of_item(self, item: str) -> int:
        """Return the group of an item id as ``item-00007``; UnknownIdError where there is no such item."""
        return int(self.item_group[_number(item, "item", len(self.item_group))])

    def groups_of_user(self, user: str, *, late: bool = True) -> frozenset[int]:
        """Return the groups that a user, as ``user-00042``, likes in the second half or (not ``late``) in the first."""
        taste = self.taste_after if late else self.taste_before
        return frozenset(taste[_number(user, "user", len(taste))].tolist())

    def n_in_own_groups(self, user: str, items: Iterable[str]) -> int:
        """Count the items that belong to the groups that the user likes in the second half of the history."""
        groups = self.groups_of_user(user)
        return sum(self.group_of_item(item) in groups for item in items)


def plant(config: Synthetic) -> Planted:
    """Return the taste groups and item weights that `generate` draws events from.

    Examples
    --------
    >>> planted = plant(Synthetic(users=100, items=50, groups=5))
    >>> items = [item for item in ("item-00003", "item-00007") if planted.group_of_item(item) == 1]
    >>> planted.n_in_own_groups("user-00042", items) <= len(items)
    True
    """
    rng = _rng(config, _TASTE)
    # Ranks are dealt to groups in turn, so that each has popular and rare items; ids say nothing about popularity.
    popularity_rank = rng.permutation(config.items)
    item_group = (popularity_rank % config.groups).astype(np.int32)
    item_weight = np.power(popularity_rank + 1.0, -config.popularity_exponent, dtype=np.float64)

    upper = np.cumsum(np.bincount(item_group, item_weight, config.groups), dtype=np.float64)
    before = _draw(upper, rng.random((config.users, 2)))
    before[:, 1] = np.where(rng.random(config.users) < SECOND_GROUP_CHANCE, before[:, 1], before[:, 0])
    after = before.copy()
    drifting = rng.permutation(config.users)[: round(config.drift * config.users)]
    drifting = drifting[_n_groups(before[drifting]) < config.groups]
    after[drifting] = _draw_outside(upper, np.sort(before[drifting], axis=1), rng.random(len(drifting)))[:, None]
    return Planted(item_group, before, after, item_weight)


def generate(config: Synthetic, *, ratings: bool = False) -> pa.Table:
    """Return all events as one table; see `generate_batches`.

    Examples
    --------
    >>> events = generate(Synthetic(users=20, items=10, groups=2, events=100))
    >>> events.num_rows, events.column_names
    (100, ['user', 'item', 'event_type', 'value', 'timestamp'])
    """
    return pa.Table.from_batches(generate_batches(config, ratings=ratings), SCHEMA)


def generate_batches(config: Synthetic, *, ratings: bool = False) -> Iterator[pa.RecordBatch]:
    """Yield the events in order of time.

    Parameters
    ----------
    config : Synthetic
        Sizes, exponent, affinity, drift and seed. The same configuration gives the same events, bit for bit.
    ratings : bool
        False: implicit events ``view``, ``cart`` and ``purchase`` of value 1, the stronger types more often inside the
        user's own groups. True: events ``rating`` with a value of 1 to 5 in half steps, the sum of a mean, a user and
        an item bias, the effect of the user's own groups, and noise.

    Yields
    ------
    RecordBatch of `SCHEMA`
        ``user`` as ``user-00042``, ``item`` as ``item-00007``, ``event_type``, ``value``, ``timestamp`` (UTC, from
        2025-01-01 for ``config.days`` days). At most `BATCH_EVENTS` rows.
    """
    planted = plant(config)
    shelves = _Shelves.of(planted, config.groups)
    users, items = _ids("user", config.users), _ids("item", config.items)
    rng = _rng(config, _RATINGS)
    activity = np.cumsum(rng.lognormal(sigma=ACTIVITY_SIGMA, size=config.users))
    bias = rng.normal(scale=BIAS_STD, size=config.users), rng.normal(scale=BIAS_STD, size=config.items)

    for start in range(0, config.events, BATCH_EVENTS):
        rng = _rng(config, _EVENTS, start)
        n = min(BATCH_EVENTS, config.events - start)
        # Event e happens at a random moment of the e-th of `events` equal slices: sorted, and exact in number.
        moment = (start + np.arange(n) + rng.random(n)) / config.events
        user = _draw(activity, rng.random(n))
        taste = np.where((moment < 0.5)[:, None], planted.taste_before[user], planted.taste_after[user])
        inside = (rng.random(n) < config.affinity) | (_n_groups(taste) == config.groups)
        item = shelves.draw(taste, inside, rng)
        if ratings:
            stars = RATING_MEAN + bias[0][user] + bias[1][item] + np.where(inside, GROUP_EFFECT, -GROUP_EFFECT)
            value = np.clip(np.round(2 * (stars + rng.normal(scale=NOISE_STD, size=n))) / 2, 1, 5)
            event_type = pa.array(["rating"]).take(pa.array(np.zeros(n, dtype=np.int8)))
        else:
            value = np.ones(n)
            event_type = _event_types(inside, rng.random(n))
        timestamp = START + (moment * config.days * 86_400e6).astype("timedelta64[us]")
        columns = [users.take(pa.array(user)), items.take(pa.array(item)), event_type, pa.array(value)]
        yield pa.record_batch([*columns, pa.array(timestamp).cast(SCHEMA.field("timestamp").type)], schema=SCHEMA)


@dataclass(frozen=True)
class _Shelves:
    """Items sorted by group, each as long on the shelf as its weight: a point on the shelf is an item.

    With groups {0: items a, c; 1: item b} and weights a 3, b 4, c 1 the shelf is ``|---a---|-c-|----b----|``: ``item``
    is [a, c, b], ``item_upper`` [3, 4, 8] and ``group_upper`` [4, 8].
    """

    item: NDArray[np.int64]
    item_upper: NDArray[np.float64]
    group_upper: NDArray[np.float64]

    @staticmethod
    def of(planted: Planted, groups: int) -> _Shelves:
        order = np.argsort(planted.item_group, kind="stable")
        item_upper = np.cumsum(planted.item_weight[order])
        last = np.cumsum(np.bincount(planted.item_group, minlength=groups)) - 1
        return _Shelves(order, item_upper, item_upper[last])

    def draw(self, taste: NDArray[np.int32], inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one item per event: from one of the two groups in ``taste`` where ``inside``, else from all others."""
        outside = ~inside
        group = np.where(rng.integers(0, 2, len(taste)) == 0, taste[:, 0], taste[:, 1])
        group[outside] = _draw_outside(self.group_upper, np.sort(taste[outside], axis=1), rng.random(outside.sum()))
        lower = np.concatenate([[0.0], self.group_upper[:-1]])
        point = lower[group] + rng.random(len(group)) * (self.group_upper - lower)[group]
        # Rounding can put a point on the border of the next group: the last item of its own is meant.
        point = np.minimum(point, np.nextafter(self.group_upper, 0)[group])
        return self.item[np.searchsorted(self.item_upper, point, side="right")]


def _draw(upper: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[Any]:
    """Draw numbers in proportion to weights, given their cumulative sums and uniform chances in [0, 1)."""
    return np.minimum(np.searchsorted(upper, chance * upper[-1], side="right"), len(upper) - 1).astype(np.int32)


def _draw_outside(upper: NDArray[np.float64], own: NDArray[np.int32], chance: NDArray[np.float64]) -> NDArray[np.int32]:
    """Draw a group that is neither of the two (or one, twice) in ``own``, sorted, in proportion to the weights."""
    lower = np.concatenate([[0.0], upper[:-1]])
    width = upper - lower
    second = np.where(own[:, 0] == own[:, 1], 0.0, width[own[:, 1]])
    point = chance * (upper[-1] - width[own[:, 0]] - second)
    # Step over the own groups, left one first: what is drawn is a point of the shelf with both cut out.
    point += np.where(point >= lower[own[:, 0]], width[own[:, 0]], 0.0)
    point += np.where(point >= lower[own[:, 1]], second, 0.0)
    drawn = np.minimum(np.searchsorted(upper, point, side="right"), len(upper) - 1).astype(np.int32)
    while (clash := (drawn[:, None] == own).any(axis=1)).any():  # by rounding at a border only
        drawn[clash] = (drawn[clash] + 1) % len(upper)
    return drawn


def _n_groups(taste: NDArray[np.int32]) -> NDArray[np.int64]:
    return 1 + (taste[:, 0] != taste[:, 1]).astype(np.int64)


def _event_types(inside: NDArray[np.bool_], chance: NDArray[np.float64]) -> pa.Array:
    code = np.where(
        inside,
        np.searchsorted(np.cumsum(TYPE_CHANCES_INSIDE)[:-1], chance, side="right"),
        np.searchsorted(np.cumsum(TYPE_CHANCES_OUTSIDE)[:-1], chance, side="right"),
    )
    return pa.array(EVENT_TYPES).take(pa.array(code))


def _ids(prefix: str, n: int) -> pa.Array:
    """Return ``prefix-00000``, ``prefix-00001``, ...; the number never has fewer than five digits."""
    numbers = pc.utf8_lpad(pa.array(np.arange(n)).cast(pa.string()), 5, "0")
    return pc.binary_join_element_wise(prefix, numbers, "-")


def _number(name: str, prefix: str, n: int) -> int:
    head, _, digits = name.rpartition("-")
    if head == prefix and digits.isascii() and digits.isdigit() and int(digits) < n and f"{int(digits):05d}" == digits:
        return int(digits)
    raise UnknownIdError(f"{name!r} is not a synthetic {prefix}; ids run from {prefix}-00000 to {prefix}-{n - 1:05d}")


def _rng(config: Synthetic, *stream: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, *stream])
