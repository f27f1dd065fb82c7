"""Which column of the user's file is the user, the item, the value, the time and the event type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lakefactor.config import Ingest
from lakefactor.errors import InputError

USUAL_NAMES = {
    "user": """user user_id userid uid customer customer_id customerid visitor visitor_id visitorid member_id memberid
        account_id accountid reviewer_id reviewerid""",
    "item": """item item_id itemid iid movie movie_id movieid product product_id productid artist artist_id artistid
        track_id trackid song_id songid book_id bookid article_id articleid sku asin""",
    "value": "value rating strength score weight count plays quantity",
    "time": "timestamp event_time eventtime time ts date datetime event_timestamp",
    "type": "event_type eventtype type action event",
}
"""Names under which a role's column is found without being configured; `Item ID` and `item-id` count as `item_id`."""

_CSV = (".csv", ".csv.gz", ".csv.bz2")


@dataclass(frozen=True)
class Roles:
    """Columns of a source by what they mean; None: the source has no such column."""

    user: str
    item: str
    value: str | None
    time: str | None
    type: str | None


def assign_roles(columns: Sequence[str], ingest: Ingest, source: str) -> Roles:
    """Find the column of every role.

    Parameters
    ----------
    columns : sequence of str
        Column names of the source.
    ingest : Ingest
        ``*_column`` name a column outright; empty ones are found by their usual names.
    source : str
        Where the columns were found, for the error text.

    Raises
    ------
    InputError
        A configured column or the user's or item's column is missing, or a role could be played by several.

    Examples
    --------
    >>> assign_roles(["userId", "Movie ID", "rating", "genre"], Ingest(), "ratings.csv")
    Roles(user='userId', item='Movie ID', value='rating', time=None, type=None)
    """
    found = {role: _column(role, columns, getattr(ingest, f"{role}_column"), source) for role in USUAL_NAMES}
    for role in ("user", "item"):
        if found[role] is None:
            hint = "; if the file begins with a row, set ingest.header = false" if source.endswith(_CSV) else ""
            raise InputError(
                f"{source} has no {role} column; its columns are {_listed(columns)}; "
                f"set ingest.{role}_column to one of them{hint}"
            )
    taken = [column for column in found.values() if column is not None]
    if twice := {column for column in taken if taken.count(column) > 1}:
        raise InputError(f"{source}: column {_listed(sorted(twice))} is used for two things; correct ingest.*_column")
    user, item = found["user"], found["item"]
    assert user is not None
    assert item is not None
    return Roles(user, item, found["value"], found["time"], found["type"])


def assign_message_roles(keys: Sequence[str], ingest: Ingest, source: str) -> Roles:
    """Find the key of every role among those that the messages at hand have; an absent key is empty in all of them.

    Parameters
    ----------
    keys : sequence of str
    ingest : Ingest
    source : str
        As for `assign_roles`.

    Raises
    ------
    InputError
        A role could be played by several keys.

    Examples
    --------
    >>> assign_message_roles(["user", "price"], Ingest(value_column="amount"), "kafka:clicks")
    Roles(user='user', item='item', value='amount', time=None, type=None)
    """
    columns = list(keys)
    for role in USUAL_NAMES:
        configured = getattr(ingest, f"{role}_column")
        if configured and configured.lower() not in [name.lower() for name in columns]:
            columns.append(configured)
        elif not configured and role in ("user", "item") and _column(role, columns, "", source) is None:
            columns.append(role)
    return assign_roles(columns, ingest, source)


def find_column(role: str, usual: str, columns: Sequence[str], configured: str, source: str, key: str) -> str | None:
    """Return the column of one role: the configured one (by `key`), or one of a usual name; None: there is none.

    Raises
    ------
    InputError
        The configured column is missing, or several have usual names.
    """
    if configured:
        same = [name for name in columns if name == configured]
        matches = same or [name for name in columns if name.lower() == configured.lower()]
        if not matches:
            raise InputError(f"{source} has no column {configured!r}; its columns: {_listed(columns)}; correct {key}")
    else:
        names = usual.split()
        matches = [name for name in columns if re.sub(r"[^a-z0-9]+", "_", name.strip().lower()) in names]
    if len(matches) > 1:
        raise InputError(f"{source}: the {role} may be {' or '.join(map(repr, matches))}; set {key} to one of them")
    return matches[0] if matches else None


def _column(role: str, columns: Sequence[str], configured: str, source: str) -> str | None:
    return find_column(role, USUAL_NAMES[role], columns, configured, source, f"ingest.{role}_column")


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns)) or "none"
