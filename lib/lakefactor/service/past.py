"""What all users have done, as a model sees it: `client.history` for everybody.

Strengths are made of events. Where `interactions` were made of the same events in the same way, their rows are taken
instead, and only the users that have had events since are looked at.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from lakefactor.client.history import EVENT_COLUMNS
from lakefactor.client.loaded import LoadedModel
from lakefactor.factorization.strengths import PairEvents, settings_of
from lakefactor.query.lake import Lake
from lakefactor.service.users import Histories

PAIR = ("user_id", "item_id", "strength")
RECENT_COMMITS = 100


def base_histories(lake: Lake, model: LoadedModel, events_version: int) -> Histories:
    """Return the histories of all users by the events up to a version."""
    if model.span is None:
        return Histories.of_pairs(lake.rows("interactions", PAIR), model.catalogue)
    version = lake.version("interactions") if lake.exists("interactions") else None
    made_of = None if version is None else _made_of(lake, model, version)
    later = None if made_of is None else users_since(lake, made_of, events_version)
    if later is None:
        events = lake.dataset("events", version=events_version).to_table(columns=list(EVENT_COLUMNS))
        return Histories.of_pairs(_pairs(events, model), model.catalogue)
    rows = lake.dataset("interactions", version=version).to_table(columns=list(PAIR))
    histories = Histories.of_pairs(rows, model.catalogue)
    if not len(later):
        return histories
    return histories.with_users(later, pairs_of_users(lake, model, later, events_version), model.catalogue)


def pairs_of_users(lake: Lake, model: LoadedModel, users: pa.Array, events_version: int) -> pa.Table:
    """Return ``user_id, item_id, strength`` of some users by their events up to a version.

    A model of which nothing tells what it was trained on goes by `interactions`.
    """
    if model.span is None:
        return lake.of_ids("interactions", PAIR, "user_id", users)
    return _pairs(lake.of_ids("events", EVENT_COLUMNS, "user_id", users, events_version), model)


def users_since(lake: Lake, version: int, now: int) -> pa.Array | None:
    """Return the users, each once, of whom `events` have come or gone after a version; None: nobody can tell."""
    opened = lake.open("events", now)
    ids = pa.schema(opened.schema().to_arrow()).field("user_id").type
    if now <= version:
        return pa.array([], ids)
    try:
        changes = opened.load_cdf(starting_version=version + 1, ending_version=now, columns=["user_id"])
        return pc.unique(pa.table(changes)["user_id"].cast(ids))
    except (DeltaError, OSError, ValueError):  # no change feed, or the log no longer reaches back
        return None


def _pairs(events: pa.Table, model: LoadedModel) -> pa.Table:
    assert model.span is not None
    return PairEvents(events, model.config, model.span).interactions()


def _made_of(lake: Lake, model: LoadedModel, version: int) -> int | None:
    """Return the version of `events` that `interactions` were made of as this model's would be; None: otherwise."""
    record = _record(lake, version)
    made = record.get("made_from", {})
    if made.get("events") != lake.open("events").metadata().id or made.get("settings") != settings_of(model.config):
        return None
    assert model.span is not None
    decays = model.config.interactions.half_life_days > 0
    if decays and (record["span"]["oldest"], record["span"]["newest"]) != (model.span.oldest, model.span.newest):
        return None
    return int(made["events_version"])


def _record(lake: Lake, version: int) -> dict[str, Any]:
    """Return what the newest commit that filled `interactions` says of them; empty: none says anything."""
    for commit in lake.open("interactions", version).history(RECENT_COMMITS):
        record: dict[str, Any] = json.loads(commit.get("userMetadata") or "{}")
        if "span" in record:
            return record
    return {}
