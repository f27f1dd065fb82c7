"""Factors as the stream left them, read without Spark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lakefactor.errors import TableError, UnknownIdError
from lakefactor.query import Reader

WriteTable = Callable[..., None]

LIVE, OTHER = "it's live", "20261122-090000-bbbb"
SHOWN = ["model_version", "user_id", "factors", "batch_id"]


def row(user: str, batch: int, value: float, version: str = LIVE) -> dict[str, object]:
    return {"model_version": version, "user_id": user, "factors": [value, 0.5], "batch_id": batch}


def update(user: str, batch: int, value: float, version: str = LIVE) -> dict[str, object]:
    return row(user, batch, value, version) | {"side": "user"}


@pytest.fixture
def lake(write: WriteTable) -> None:
    write("live_model", [{"name": "default", "model_version": LIVE}])
    write("models", [{"model_version": LIVE}, {"model_version": OTHER}])
    write(
        "user_factors",
        [
            row(user, -1, value, version)
            for user, value in (("ann", 1), ("bob", 2), ("cid", 3))
            for version in (LIVE, OTHER)
        ],
    )
    write("item_factors", [{"model_version": LIVE, "item_id": "i1", "factors": [4.0], "batch_id": -1}])


@pytest.fixture
def updated(lake: None, write: WriteTable) -> None:
    write("factor_updates", [update("bob", 2, 23), update("new", 2, 24), update("ann", 2, 25, OTHER)])
    write("factor_updates", [update("bob", 1, 13)])
    item = {"model_version": LIVE, "side": "item", "item_id": "i1", "factors": [5.0], "batch_id": 2}
    write("factor_updates", [item, item | {"item_id": "i2", "factors": [6.0]}])
    write("user_factors", [row("dora", 3, 33)])
    write("factor_updates", [update("dora", 1, 13)])  # older than the row that a fold has written meanwhile


WHOLE = [row("ann", -1, 1), row("bob", 2, 23), row("cid", -1, 3), row("dora", 3, 33), row("new", 2, 24)]


@pytest.mark.usefixtures("updated")
def test_factors_are_the_newest(reader: Reader) -> None:
    for wanted in WHOLE:
        assert reader.factors(user=wanted["user_id"]).select(SHOWN).to_pylist() == [wanted]
    assert reader.factors(user="ann", model_version=OTHER)["factors"].to_pylist() == [[25.0, 0.5]]
    assert [reader.factors(item=item)["factors"].to_pylist() for item in ("i1", "i2")] == [[[5.0]], [[6.0]]]
    with pytest.raises(UnknownIdError, match="user 'new' is not in user_factors of model version 20261122"):
        reader.factors(user="new", model_version=OTHER)


@pytest.mark.usefixtures("updated")
def test_the_live_views_are_the_resolved_rows_and_the_tables_stay_what_they_are(reader: Reader) -> None:
    shown = ", ".join(SHOWN)
    assert reader.sql(f"SELECT {shown} FROM live_user_factors ORDER BY user_id").to_pylist() == WHOLE
    assert reader.sql("SELECT item_id, factors FROM live_item_factors ORDER BY 1").to_pylist() == [
        {"item_id": "i1", "factors": [5.0]},
        {"item_id": "i2", "factors": [6.0]},
    ]
    counts = """
        SELECT (SELECT count(*) FROM user_factors) AS plain, (SELECT count(*) FROM factor_updates) AS updates,
               (SELECT count(*) FROM LIVE_USER_FACTORS) AS live
    """
    assert reader.sql(counts).to_pylist() == [{"plain": 7, "updates": 7, "live": 5}]


@pytest.mark.usefixtures("lake")
def test_without_a_stream_the_views_are_the_live_version(reader: Reader) -> None:
    rows = reader.sql(f"SELECT {', '.join(SHOWN)} FROM live_user_factors ORDER BY user_id").to_pylist()
    assert rows == [row("ann", -1, 1), row("bob", -1, 2), row("cid", -1, 3)]


@pytest.mark.usefixtures("updated")
def test_a_user_that_the_stream_brought_is_known(reader: Reader, write: WriteTable) -> None:
    write("recommendations", [{"model_version": LIVE, "user_id": "ann", "position": 1, "item_id": "i1"}])
    assert reader.recommendations("new").num_rows == 0
    with pytest.raises(UnknownIdError):
        reader.recommendations("nobody")


def test_a_live_view_needs_a_live_version(reader: Reader, write: WriteTable, root: Path) -> None:
    with pytest.raises(TableError, match="no model is published"):
        reader.sql("SELECT * FROM live_user_factors")
    write("live_model", [{"name": "default", "model_version": LIVE}])
    with pytest.raises(TableError, match="table user_factors does not exist"):
        reader.sql("SELECT * FROM live_user_factors")
    assert not (root / "factor_updates").exists()
