"""From the tables to a snapshot, and from one snapshot to the next by what has been added since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from lakefactor.client.loaded import catalogue_of, load_model
from lakefactor.config import Config
from lakefactor.errors import TableError
from lakefactor.query.lake import Lake
from lakefactor.query.live_factors import UPDATES, live_side, newest_rows
from lakefactor.query.reader import live_version
from lakefactor.service.past import base_histories, pairs_of_users, users_since
from lakefactor.service.snapshot import Snapshot, ranking_of, with_items
from lakefactor.service.users import Histories, Users
from lakefactor.types import Side

WATCHED = ("live_model", "user_factors", "item_factors", UPDATES, "interactions", "events", "items")
_ADDED_TO = (UPDATES, "events")
"""Tables whose changes can be followed row by row; after one of another table everything is read again."""

_ROW = ("factors", "bias", "n_entries", "batch_id")


def look(lake: Lake, old: Snapshot | None, config: Config) -> Snapshot | None:
    """Return the snapshot of the live model as it is now, the old one itself if nothing has changed.

    None: no model is published.

    Raises
    ------
    TableError
        A table is missing or cannot be read.
    """
    states = {table: lake.state(table) for table in WATCHED}
    versions = {table: -1 if state is None else state[1] for table, state in states.items()}
    if old is not None and not _must_reload(old, versions):
        return old if versions == old.versions else _followed(lake, old, versions, config)
    version = live_version(lake)
    return None if version is None else _loaded(lake, version, versions, config)


def _must_reload(old: Snapshot, now: Mapping[str, int]) -> bool:
    """Tell whether more has changed than can be followed; `interactions` only spare the reading of many events."""
    followed = {*_ADDED_TO, "interactions"} if old.model.span is not None else {UPDATES, "events"}
    changed = {table for table in WATCHED if now[table] != old.versions[table]}
    return bool(changed - followed) or any(now[table] < old.versions[table] for table in changed)


def _loaded(lake: Lake, version: str, versions: Mapping[str, int], config: Config) -> Snapshot:
    """Read a model as a whole.

    The sides are read one after the other, and a micro-batch may be committed between: the rows of both that came after
    what was read of the first are read again, in one go.
    """
    model = load_model(lake, version)
    users = Users.of_rows(live_side(lake, "user", version))
    histories = base_histories(lake, model, versions["events"])
    read = Snapshot(model, model.batch_id, ranking_of(model, users, config), users, histories, versions)
    return _with_updates(lake, read, config).warm()


def _followed(lake: Lake, old: Snapshot, versions: Mapping[str, int], config: Config) -> Snapshot:
    """Return the next snapshot by the rows that have come."""
    new = replace(old, versions=versions)
    if versions[UPDATES] != old.versions[UPDATES]:
        new = _with_updates(lake, new, config)
    if old.model.span is not None and versions["events"] != old.versions["events"]:
        changed = users_since(lake, old.versions["events"], versions["events"])
        if changed is None:
            new = replace(new, histories=base_histories(lake, new.model, versions["events"]))
        else:
            new = replace(new, histories=_retold(lake, new, changed))
    return new if new.ranking is old.ranking else new.warm()


def _with_updates(lake: Lake, old: Snapshot, config: Config) -> Snapshot:
    """Return a snapshot with the factors of the micro-batches after its last."""
    if not lake.exists(UPDATES):
        return old
    try:
        rows = lake.dataset(UPDATES, {"model_version": old.model.model_version}).to_table(
            columns=["side", "user_id", "item_id", *_ROW], filter=pc.field("batch_id") > old.batch_id
        )
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"table {UPDATES} cannot be read: {error}") from error
    users, items = _newest(rows, "user"), _newest(rows, "item")
    new = old
    if users.num_rows:
        new = replace(new, users=new.users.with_rows(users))
    if items.num_rows:
        new = _with_items(lake, new, items, config)
    return replace(new, batch_id=pc.max(rows["batch_id"]).as_py()) if rows.num_rows else new


def _newest(rows: pa.Table, side: Side) -> pa.Table:
    rows = rows.filter(pc.equal(rows["side"], side))
    return newest_rows([rows], f"{side}_id") if rows.num_rows else rows


def _with_items(lake: Lake, old: Snapshot, rows: pa.Table, config: Config) -> Snapshot:
    """Return a snapshot in which some items have other factors, or have come."""
    catalogue, place, fresh = with_items(old.model.catalogue, catalogue_of(rows))
    model = replace(old.model, catalogue=catalogue)
    index = old.ranking.index
    ranking = ranking_of(model, old.users, config, None if index is None else index.updated(place, fresh))
    new = replace(old, model=model, ranking=ranking, histories=old.histories.moved(place))
    # Who has met an item before the model knew it has a longer history now.
    met = new.histories.who_met(rows["item_id"].combine_chunks())
    return replace(new, histories=_retold(lake, new, met)) if len(met) else new


def _retold(lake: Lake, snapshot: Snapshot, users: pa.Array) -> Histories:
    """Return histories in which those of some users are made anew."""
    pairs = pairs_of_users(lake, snapshot.model, users, snapshot.versions["events"])
    return snapshot.histories.with_users(users, pairs, snapshot.model.catalogue)
