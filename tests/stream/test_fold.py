"""Folding: no reader's answer changes, wherever it is cut off, and a second one ends it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from lakefactor.config import Config
from lakefactor.pipelines.fold import FoldResult, fold
from lakefactor.query import Reader
from lakefactor.spark.live_factors import optimizer_states, read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.live_factors import (
    ITEMS,
    LIVE,
    OTHER,
    USERS,
    append_rows,
    factor_row,
    rows_of,
    update_row,
    write_trained,
)
from lakefactor.types import SIDES

RETIRED = "20261001-080000-cccc"


class Killed(Exception):
    """The process dies at this moment."""


class Doomed(Tables):
    """Tables whose user dies after some commits."""

    commits_left = 0

    def merge_newer(self, *args: Any) -> int:
        return self._then_die(super().merge_newer, *args)

    def replace_where(self, *args: Any) -> None:
        self._then_die(super().replace_where, *args)

    def _then_die(self, write: Callable[..., Any], *args: Any) -> Any:
        answer = write(*args)
        self.commits_left -= 1
        if not self.commits_left:
            raise Killed
        return answer


@pytest.fixture(scope="module")
def streamed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three micro-batches: known and new users and items, some again, some with an optimizer's state."""
    config = Config(tables={"root": str(tmp_path_factory.mktemp("streamed") / "warehouse")})
    tables = write_trained(spark, config)
    first = [
        update_row("user", "ann", 0, [1.0]),
        update_row("user", "bob", 0),
        update_row("user", "new", 0),
        update_row("item", "i1", 0),
        update_row("item", "i4", 0, [2.0]),
        update_row("user", "cid", 9, version=OTHER),
        update_row("user", "cid", 9, version=RETIRED),
    ]
    second = [update_row("user", "ann", 1, [3.0]), update_row("user", "new", 1), update_row("item", "i1", 1)]
    third = [update_row("user", "bob", 2), update_row("item", "i5", 2)]
    for rows in (first, second, third):
        append_rows(spark, tables, "factor_updates", rows)
    return config


@pytest.fixture(scope="module")
def answers(spark: SparkSession, streamed: Config) -> Any:
    return seen(Tables(spark, streamed.tables), streamed)


@pytest.fixture
def tables(spark: SparkSession, streamed: Config, config: Config) -> Tables:
    shutil.copytree(streamed.tables.root, config.tables.root)
    return Tables(spark, config.tables)


def seen(tables: Tables, config: Config) -> Any:
    """Return everything that readers, with and without Spark, see of the live version."""
    frames = [read(tables, side, LIVE) for read in (read_factors, optimizer_states) for side in SIDES]
    together = reduce(lambda one, two: one.unionByName(two, allowMissingColumns=True), frames)
    reader = Reader(config.tables)
    return rows_of(together), [
        reader.sql(f"SELECT * FROM live_{side}_factors ORDER BY 2").to_pylist() for side in SIDES
    ]


def keys(frame: DataFrame) -> set[tuple[Any, ...]]:
    return {(row.model_version, row.side, row.user_id or row.item_id, row.batch_id) for row in frame.collect()}


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_fold_that_is_cut_off_changes_no_answer_and_is_done_again(
    spark: SparkSession, config: Config, tables: Tables, answers: Any, commits: int
) -> None:
    doomed = Doomed(spark, config.tables)
    doomed.commits_left = commits
    with pytest.raises(Killed):
        fold(doomed, LIVE)
    assert seen(tables, config) == answers
    fold(tables, LIVE)
    assert seen(tables, config) == answers

    # The tables themselves: the newest row of each id in the factor tables, and of the updates what must stay.
    stay = {(LIVE, "user", "ann", 1), (LIVE, "item", "i4", 0), (OTHER, "user", "cid", 9)}
    assert keys(tables.read("factor_updates")) == stay
    for side, names, streamed in (
        ("user", USERS, {"ann": 1, "bob": 2, "new": 1}),
        ("item", ITEMS, {"i1": 1, "i4": 0, "i5": 2}),
    ):
        rows = [factor_row(side, name, batch) for name, batch in (dict.fromkeys(names, -1) | streamed).items()]
        rows += [factor_row(side, name, version=OTHER) for name in names]
        table = tables.read(f"{side}_factors").drop("updated_at")
        assert rows_of(table) == sorted(({name: row[name] for name in table.columns} for row in rows), key=str)


def test_a_fold_says_what_it_did(spark: SparkSession, tables: Tables) -> None:
    assert fold(tables, LIVE) == FoldResult(model_version=LIVE, batch_id=2, users=3, items=3, kept=2)
    assert fold(tables, LIVE) == FoldResult(model_version=LIVE, batch_id=1, users=0, items=0, kept=2)
    append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 3, [4.0]), update_row("user", "bob", 3)])
    assert fold(tables, LIVE) == FoldResult(model_version=LIVE, batch_id=3, users=2, items=0, kept=2)
    assert rows_of(optimizer_states(tables, "user", LIVE)) == [{"user_id": "ann", "optimizer_state": [4.0]}]


def test_there_is_nothing_to_fold(spark: SparkSession, config: Config) -> None:
    tables = write_trained(spark, config)
    assert fold(tables, LIVE) == FoldResult(model_version=LIVE)
    append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 4, version=OTHER)])
    versions = {side: tables.version(f"{side}_factors") for side in SIDES}
    assert fold(tables, LIVE) == FoldResult(model_version=LIVE)
    assert {side: tables.version(f"{side}_factors") for side in SIDES} == versions
