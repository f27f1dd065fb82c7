from __future__ import annotations

import pytest

from lakefactor.config import Ingest
from lakefactor.errors import InputError
from lakefactor.spark.roles import Roles, assign_roles


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["user", "item", "plays"], Roles("user", "item", "plays", None, None)),
        (["userId", "movieId", "rating", "timestamp"], Roles("userId", "movieId", "rating", "timestamp", None)),
        (["TS", "Customer ID", "SKU", "event"], Roles("Customer ID", "SKU", None, "TS", "event")),
        (["genre", "artist", "uid"], Roles("uid", "artist", None, None, None)),
    ],
)
def test_usual_names_are_found_in_any_case_and_order(columns, expected):
    assert assign_roles(columns, Ingest(), "x.csv") == expected


def test_configured_columns_win_over_usual_names():
    ingest = Ingest(user_column="who", item_column="ITEM", value_column="score")
    found = assign_roles(["user", "who", "item", "item_id", "rating", "score"], ingest, "x.csv")
    assert found == Roles("who", "item", "score", None, None)


@pytest.mark.parametrize(
    ("columns", "ingest", "parts"),
    [
        (["item", "rating"], Ingest(), ["x.csv has no user column", "'item', 'rating'", "ingest.user_column"]),
        (["196", "242", "3"], Ingest(), ["x.csv has no user column", "ingest.header = false"]),
        (["user", "title"], Ingest(), ["no item column", "'user', 'title'", "ingest.item_column"]),
        (["user", "item"], Ingest(time_column="when"), ["no column 'when'", "'user', 'item'", "ingest.time_column"]),
        (["user", "uid", "item"], Ingest(), ["the user may be 'user' or 'uid'", "ingest.user_column"]),
        (["user", "item", "date", "time"], Ingest(), ["the time may be 'date' or 'time'", "ingest.time_column"]),
        (["user", "item", "rating"], Ingest(user_column="item"), ["column 'item' is used for two things"]),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_columns_found(columns, ingest, parts):
    with pytest.raises(InputError) as refusal:
        assign_roles(columns, ingest, "x.csv")
    for part in parts:
        assert part in str(refusal.value)
