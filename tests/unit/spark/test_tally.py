"""Sums of executors, added up over blocks and partitions, against figures computed from all values at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.metrics import coverage, item_counts, mean_popularity
from lakefactor.spark.tally import ALL, SHOWN, Figure, Tally, figures

RNG = np.random.default_rng(1)
USERS, ITEMS, REPLICATES = 40, 6, 5
COUNTS = RNG.poisson(1, (USERS, REPLICATES)).astype(np.uint8)
VALUES = np.where(RNG.random(USERS) < 0.2, np.nan, RNG.random(USERS))
ERRORS, RATINGS = RNG.random(USERS) * 4, RNG.integers(0, 3, USERS)
LIGHT = RNG.random(USERS) < 0.5
RANKED = np.where(RNG.random((USERS, 3)) < 0.1, -1, RNG.integers(0, ITEMS, (USERS, 3))).astype(np.int32)
POPULARITY = np.array([9, 7, 5, 3, 2, 1])


def summed(*tallies: Tally) -> pa.Table:
    """Add up the rows of partitions as Spark does."""
    rows = pa.Table.from_batches([batch for tally in tallies for batch in tally.rows()])
    keys = ["recommender", "metric", "segment", "k", "column"]
    sums = rows.group_by(keys).aggregate([("total", "sum"), ("n", "sum")])
    return sums.rename_columns([*keys, "total", "n"])


def tallied(*blocks: slice) -> Tally:
    tally = Tally([3], REPLICATES)
    for block in blocks:
        tally.begin(COUNTS[block], {"light_users": LIGHT[block]})
        tally.add("model", "ndcg", 3, VALUES[block])
        tally.add_sums("model", "rmse", 0, ERRORS[block], RATINGS[block])
        tally.add_segment("tail_items", "model", "ndcg", 3, VALUES[block])
        tally.show("model", 3, RANKED[block], POPULARITY)
    return tally


@pytest.fixture
def sums() -> pa.Table:
    return summed(tallied(slice(0, 7), slice(7, 20)), tallied(slice(20, USERS)))


def means(values: np.ndarray, ns: np.ndarray, users: np.ndarray) -> list[float]:
    """Average over users, then in every replicate over the users as often as they are drawn."""
    draws = [np.arange(USERS)] + [np.repeat(np.arange(USERS), column) for column in COUNTS.T]
    draws = [draw[users[draw]] for draw in draws]
    return [values[draw].sum() / ns[draw].sum() for draw in draws]


def test_figures_are_means_over_all_users_and_over_those_that_are_drawn(sums):
    said = ~np.isnan(VALUES)
    every = np.ones(USERS, np.bool_)
    plain, one = np.nan_to_num(VALUES), said.astype(int)
    filled = RANKED >= 0
    shown = np.where(filled, POPULARITY[RANKED], 0).sum(axis=1)
    expected = {
        ("mean_popularity", ALL, 3): means(shown, filled.sum(axis=1), every),
        ("mean_popularity", "light_users", 3): means(shown, filled.sum(axis=1), LIGHT),
        ("ndcg", ALL, 3): means(plain, one, every),
        ("ndcg", "light_users", 3): means(plain, one, LIGHT),
        ("ndcg", "tail_items", 3): means(plain, one, every),
        ("rmse", ALL, 0): np.sqrt(means(ERRORS, RATINGS, every)),
        ("rmse", "light_users", 0): np.sqrt(means(ERRORS, RATINGS, LIGHT)),
    }
    found = [*figures(sums.filter(pa.compute.not_equal(sums["metric"], SHOWN)))]
    assert [(figure.metric, figure.segment, figure.k) for figure in found] == [*expected]
    for figure, wanted in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose([figure.value, *figure.replicates], wanted, rtol=1e-12)
    whole = mean_popularity(item_counts(RANKED, 3, ITEMS), POPULARITY)
    assert found[0].value == pytest.approx(whole)
    assert found[2].n == said.sum()


def test_how_often_items_are_shown_adds_up(sums):
    shown = sums.filter(pa.compute.equal(sums["metric"], SHOWN))
    counts = np.zeros(ITEMS, np.int64)
    counts[shown["column"].to_numpy()] = shown["n"].to_numpy()
    np.testing.assert_array_equal(counts, item_counts(RANKED, 3, ITEMS))
    assert coverage(counts) == 1.0


def test_of_nobody_there_is_no_figure_and_of_few_no_replicates():
    tally = Tally([3], 2)
    tally.begin(np.array([[1, 0]], np.uint8), {"new_users": np.array([False])})
    tally.add("model", "ndcg", 3, np.array([0.5]))
    tally.add("model", "map", 3, np.array([np.nan]))
    assert [*figures(summed(tally))] == [Figure("model", "ndcg", ALL, 3, 0.5, 1)]
    assert not len(next(figures(summed(tally))).replicates)
    assert not [*Tally([3], 2).rows()]
