"""The rules of `pipelines.interactions` applied to one event after the other: an oracle."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lakefactor.config import Config

SECONDS_PER_DAY = 86_400

Event = tuple[Any, Any, str, float, int | None, int]
"""User, item, type, value, and the seconds since 1970 of the event, if known, and of its ingestion."""


def drawn_events(seed: int, n: int, users: int, items: int) -> list[Event]:
    """Draw views, purchases and deletes of few pairs within twelve days, three in ten without a time."""
    random = np.random.default_rng(seed)
    return [
        (
            f"u{random.integers(users)}",
            f"i{random.integers(items)}",
            str(random.choice(["view", "purchase", "delete"], p=[0.5, 0.3, 0.2])),
            float(random.normal(1.0)),
            None if random.random() < 0.3 else int(random.integers(12)) * SECONDS_PER_DAY,
            int(random.integers(3)),
        )
        for _ in range(n)
    ]


def expected(events: Sequence[Event], config: Config) -> dict[tuple[Any, Any], tuple[float, int, int | None]]:
    """Return the interactions of events by pair: strength, number of events, seconds of the last."""
    delete, weights = config.ingest.delete_event_type, config.ingest.event_weights
    times = [event[4] for event in events if event[4] is not None]
    by_pair: dict[tuple[Any, Any], list[Any]] = defaultdict(list)
    for number, (user, item, kind, value, time, ingested) in enumerate(events):
        moment = (-math.inf, ingested) if time is None else (time, 0)
        by_pair[user, item].append((moment, kind == delete, ingested, number, kind, value, time))
    result: dict[tuple[Any, Any], tuple[float, int, int | None]] = {}
    for pair, history in by_pair.items():
        live: list[Any] = []
        for event in sorted(history):
            live = [] if event[1] else [*live, event]
        if not live:
            continue
        strength = live[-1][5]
        if config.model.feedback == "implicit":
            strength = 0.0
            for *_, kind, value, time in live:
                share = weights[kind] * value
                if config.interactions.half_life_days and times:
                    age = max(times) - (min(times) if time is None else time)
                    share *= 2 ** (-age / SECONDS_PER_DAY / config.interactions.half_life_days)
                strength += share
            if strength <= 0:
                continue
            if config.interactions.log_scale:
                strength = math.log(1 + strength / config.interactions.log_scale)
        known = [event[6] for event in live if event[6] is not None]
        result[pair] = (strength, len(live), max(known) if known else None)
    return result
