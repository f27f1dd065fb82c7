"""Pages of one user and of one item, and the way to them by search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from starlette.datastructures import QueryParams

from lakefactor.client import Client
from lakefactor.dashboard.catalogue import exposure
from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import MODEL_TABLES, USER_TABLES, Look
from lakefactor.errors import ConfigError, InputError, UnknownIdError
from lakefactor.metrics import popularity_rank
from lakefactor.query.ids import guesses, parse_id
from lakefactor.types import Side

SHOWN_RECOMMENDATIONS, SHOWN_REASONS, SHOWN_EVENTS, SHOWN_SIMILAR = 10, 3, 15, 8
SIMILAR_USERS_MOST = 300_000
"""Users of a model whose factors are all read without being asked for."""

EXAMPLES = 12
_EVENT_COLUMNS = ("item_id", "event_type", "value", "event_time", "ingested_at")


def find_user(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the search form for users, or the way to the user that was searched."""
    return _find("user", look, query)


def find_item(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the search form for items, or the way to the item that was searched."""
    return _find("item", look, query)


def user(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the page of a user."""
    return _one("user", path["id"], look, query)


def item(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the page of an item."""
    return _one("item", path["id"], look, query)


def _find(side: Side, look: Look, query: QueryParams) -> Page:
    given = query.get("id", "")
    if given in (".", ".."):
        return _one(side, given, look, query)
    if given:
        return Page("", see=(side, given))
    if look.live_version is None:
        return _unpublished(look, f"{side.capitalize()}s", 200)
    return Page("find.html", {"side": side, "examples": _examples(side, look)})


def _one(side: Side, given: str, look: Look, query: QueryParams) -> Page:
    if not given:
        return _find(side, look, query)
    if look.live_version is None:
        return _unpublished(look, f"{side.capitalize()} {given}", 404)
    kind = _type_of_ids(side, look)
    try:
        parse_id(given, kind, f"{side}_id of table {side}_factors")
    except InputError as error:
        return Page("unknown.html", {"side": side, "given": given, "close": [], "said": str(error)}, 404)
    try:
        if side == "item":
            return Page("item.html", look.hold(("item", given), _ITEM_TABLES, lambda: _item(look, given)))
        wants_similar = "similar" in query
        key = ("user", given, wants_similar)
        return Page("user.html", look.hold(key, USER_TABLES, lambda: _user(look, given, wants_similar)))
    except UnknownIdError:
        return _unknown(side, given, look)


_ITEM_TABLES = (*MODEL_TABLES, "recommendations")


def _type_of_ids(side: Side, look: Look) -> pa.DataType:
    if side == "item":
        return look.client().items.ids.type
    table = "user_factors"
    return look.hold("type of users", [table], lambda: look.lake.schema(table).field("user_id").type)


def _unpublished(look: Look, title: str, status: int) -> Page:
    return Page.empty(title, "No model is published yet.", command(look.config, "publish"), status)


def _unknown(side: Side, given: str, look: Look) -> Page:
    """Return the page for an id that the live model lacks, with those that look like it."""
    client, key = look.client(), f"{side}_id"
    if side == "item":
        ids = pa.table({key: client.items.ids})
        close = guesses(ds.dataset(ids), key, given)
    else:
        close = guesses(look.lake.dataset("user_factors", {"model_version": client.model_version}), key, given)
    said = f"Model version {client.model_version} has no {side} of this id."
    return Page("unknown.html", {"side": side, "given": given, "close": close, "said": said}, 404)


def _examples(side: Side, look: Look) -> list[str | int]:
    """Return some ids: the most popular items, or any users."""
    client = look.client()
    if side == "item":
        return [row["item_id"] for row in client.popular(EXAMPLES).to_pylist()]

    def some() -> list[str | int]:
        of_live = {"model_version": client.model_version}
        found = look.lake.dataset("user_factors", of_live).head(EXAMPLES, columns=["user_id"])
        return sorted(found["user_id"].to_pylist())

    return look.hold("some users", (*MODEL_TABLES, "user_factors"), some)


def _user(look: Look, given: str, wants_similar: bool) -> dict[str, Any]:
    client = look.client()
    row = look.reader.factors(user=given, model_version=client.model_version).to_pylist()[0]
    recommended = client.recommend(given, SHOWN_RECOMMENDATIONS, rules=look.config.recommend)
    known = client.surprising(given, 1_000_000).to_pylist()
    reasons, said = _reasons(client, known, [row["item_id"] for row in recommended.to_pylist()])
    n_users = look.rows("models", ("n_users",), model_version=client.model_version)[0]["n_users"]
    similar = None
    if wants_similar or n_users <= SIMILAR_USERS_MOST:
        similar = client.similar_users(given, SHOWN_SIMILAR).to_pylist()
    return {
        "user": row["user_id"],
        "row": row,
        "version": client.model_version,
        "recommended": [one | {"reasons": reasons.get(one["item_id"], [])} for one in recommended.to_pylist()],
        "no_reasons": said,
        "events": _events(look, row["user_id"]),
        "n_known": len(known),
        "surprising": known[:SHOWN_SIMILAR],
        "similar": similar,
        "n_users": n_users,
    }


def _reasons(
    client: Client, known: list[dict[str, Any]], items: list[str | int]
) -> tuple[dict[str | int, list[dict[str, Any]]], str]:
    """Return what adds most to the score of each item, and why there is nothing to tell."""
    strengths = {row["item_id"]: row["strength"] for row in known}
    if not strengths:
        return {}, "No event of this user is left, so there is nothing to explain it by."
    found = {}
    try:
        for one in items:
            parts = client.explain(None, one, items=strengths).rows.slice(0, SHOWN_REASONS).to_pylist()
            found[one] = [part for part in parts if part["contribution"] > 0]
    except ConfigError as error:
        return {}, f"No reasons: {error}"
    return found, ""


def _events(look: Look, user_id: str | int) -> list[dict[str, Any]]:
    """Return a user's newest events."""
    if not look.exists("events"):
        return []
    ids = pa.array([user_id], look.lake.schema("events").field("user_id").type)
    rows = look.lake.of_ids("events", _EVENT_COLUMNS, "user_id", ids).to_pylist()
    rows.sort(key=lambda row: (row["event_time"] or row["ingested_at"], row["ingested_at"]), reverse=True)
    return rows[:SHOWN_EVENTS]


def _item(look: Look, given: str) -> dict[str, Any]:
    client = look.client()
    items = client.items
    item_id = parse_id(given, items.ids.type, "item_id")
    column = int(items.columns_of(pa.array([item_id], items.ids.type))[0])
    similar = client.similar_items(given, 2 * SHOWN_SIMILAR).to_pylist()  # refuses an unknown one
    shown = exposure(look)
    count = None if shown is None else int(shown.counts[column])
    rank = popularity_rank(items.n_entries)[column]
    return {
        "item": item_id,
        "version": client.model_version,
        "n_entries": int(items.n_entries[column]),
        "rank": round(float(rank)),
        "n_items": len(items.ids),
        "bias": float(items.bias[column]) if np.any(items.bias) else None,
        "similar": similar,
        "count": count,
        "n_lists": 0 if shown is None else shown.n_lists,
        "best": None if shown is None else int(shown.best[column]) or None,
        "recommend": command(look.config, "recommend"),
    }
