"""Prequential metrics against plain-Python definitions over all items, and scikit-learn."""

from __future__ import annotations

from math import log2, sqrt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from lakefactor.errors import ShapeError
from lakefactor.metrics.prequential import (
    FactorModel,
    batch_means,
    popular_items,
    rank_scores,
    rating_errors,
    sample_users,
)


def csr(rows):
    indptr = np.cumsum([0, *map(len, rows)])
    return indptr, np.array([column for row in rows for column in sorted(row)], dtype=np.int32)


class Batch:
    """A random model and micro-batch; some users and items are unknown, some events are repeated or already seen."""

    def __init__(self, seed, biased=True):
        random = np.random.default_rng(seed)
        n, m, self.b, events = random.integers(1, 8), random.integers(2, 12), random.integers(1, 7), random.integers(40)
        rank = random.integers(1, 5)
        self.model = FactorModel(
            random.normal(size=(n, rank)).astype(np.float32),
            random.normal(size=(m, rank)).astype(np.float32),
            random.normal(size=n).astype(np.float32) if biased else None,
            random.normal(size=m).astype(np.float32) if biased else None,
            float(random.normal()) if biased else 0.0,
        )
        self.m = m
        self.user_rows = random.integers(-1, n, size=self.b)
        self.event_users = random.integers(self.b, size=events)
        self.event_items = random.integers(-3, m, size=events)
        self.popular = random.random(m) < 0.4
        self.seen = [set(np.flatnonzero(random.random(m) < 0.3).tolist()) for _ in range(self.b)]
        self.ratings = random.integers(1, 6, size=events).astype(np.float64)

    def ranking(self, place):
        """Rank all items that the user has not seen, by the definition."""
        if self.user_rows[place] < 0:
            return []
        model = self.model
        scores = model.item_factors.astype(np.float64) @ model.user_factors[self.user_rows[place]]
        if model.item_bias is not None:
            scores = scores + model.item_bias
        return sorted(set(range(self.m)) - self.seen[place], key=lambda item: -scores[item])

    def expected(self, k):
        events = list(zip(self.event_users.tolist(), self.event_items.tolist(), strict=True))
        popular = [bool(item >= 0 and self.popular[item]) for _, item in events]
        known = [self.user_rows[user] >= 0 for user, _ in events]
        keep = {
            "all": [True] * len(events),
            "new_users": [not is_known for is_known in known],
            "known_users": known,
            "popular_items": popular,
            "tail_items": [not is_popular for is_popular in popular],
        }
        result = {}
        for segment, chosen in keep.items():
            recalls, ndcgs = [], []
            for place in range(self.b):
                wanted = {item for (user, item), keeps in zip(events, chosen, strict=True) if keeps and user == place}
                wanted -= self.seen[place]
                if wanted:
                    at = [p for p, item in enumerate(self.ranking(place)[:k], 1) if item in wanted]
                    ideal = sum(1 / log2(p + 1) for p in range(1, min(k, len(wanted)) + 1))
                    recalls.append(len(at) / len(wanted))
                    ndcgs.append(sum(1 / log2(p + 1) for p in at) / ideal)
            if recalls:
                result[segment] = {f"recall_at_{k}": recalls, f"ndcg_at_{k}": ndcgs}
        return result


@given(st.integers(0, 2**32 - 1), st.integers(1, 14))
@settings(max_examples=150, deadline=None)
def test_ranks_equal_the_definitions(seed, k):
    batch = Batch(seed)
    got = rank_scores(
        batch.model, batch.user_rows, batch.event_users, batch.event_items, k, csr(batch.seen), batch.popular
    )
    expected = batch.expected(k)
    assert got.keys() == expected.keys()
    for segment, metrics in expected.items():
        assert got[segment].keys() == metrics.keys()
        for metric, values in metrics.items():
            np.testing.assert_allclose(got[segment][metric], values, atol=1e-12, err_msg=f"{segment} {metric}")


def test_ndcg_equals_scikit_learn():
    random = np.random.default_rng(5)
    b, m, k = 40, 60, 10
    model = FactorModel(random.normal(size=(b, 4)).astype(np.float32), random.normal(size=(m, 4)).astype(np.float32))
    relevant = random.random((b, m)) < 0.15
    relevant[np.arange(b), random.integers(m, size=b)] = True
    users, items = np.nonzero(relevant)
    order = random.permutation(len(users))
    got = rank_scores(model, np.arange(b), users[order], items[order], k)
    scores = model.user_factors.astype(np.float64) @ model.item_factors.T.astype(np.float64)
    assert batch_means(got)["ndcg_at_10"] == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-12)


def test_order_and_repetition_of_events_do_not_matter():
    batch = Batch(11)
    again = np.random.default_rng(0).permutation(np.tile(np.arange(len(batch.event_users)), 2))
    once = rank_scores(batch.model, batch.user_rows, batch.event_users, batch.event_items, 3, csr(batch.seen))
    twice = rank_scores(
        batch.model, batch.user_rows, batch.event_users[again], batch.event_items[again], 3, csr(batch.seen)
    )
    assert once
    for segment, metrics in once.items():
        for metric, values in metrics.items():
            np.testing.assert_array_equal(twice[segment][metric], values)


def test_a_batch_of_seen_items_says_nothing():
    model = FactorModel(np.ones((1, 1), np.float32), np.ones((3, 1), np.float32))
    assert rank_scores(model, np.array([0]), np.array([0, 0]), np.array([1, 2]), 2, csr([{1, 2}])) == {}
    assert rank_scores(model, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), 2) == {}


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rating_errors_equal_the_definition(seed, biased):
    batch = Batch(seed, biased)
    model, rows = batch.model, batch.user_rows[batch.event_users]
    expected = {name: [] for name in ("all", "new_users", "known_users", "popular_items", "tail_items")}
    for user, item, rating in zip(rows, batch.event_items, batch.ratings, strict=True):
        predicted = model.mean
        if user >= 0 and biased:
            predicted += float(model.user_bias[user])
        if item >= 0 and biased:
            predicted += float(model.item_bias[item])
        if user >= 0 and item >= 0:
            predicted += float(model.user_factors[user].astype(float) @ model.item_factors[item].astype(float))
        error = (min(max(predicted, 1.0), 5.0) - rating) ** 2
        is_popular = item >= 0 and batch.popular[item]
        expected["all"].append(error)
        expected["new_users" if user < 0 else "known_users"].append(error)
        expected["popular_items" if is_popular else "tail_items"].append(error)
    got = rating_errors(model, rows, batch.event_items, batch.ratings, batch.popular, (1.0, 5.0))
    expected = {name: values for name, values in expected.items() if values}
    assert got.keys() == expected.keys()
    for segment, values in expected.items():
        np.testing.assert_allclose(got[segment]["squared_error"], values, atol=1e-12, err_msg=segment)
        name = "rmse" if segment == "all" else f"rmse.{segment}"
        assert batch_means(got)[name] == pytest.approx(sqrt(sum(values) / len(values)))


@pytest.mark.parametrize("long_ids", [False, True])
def test_the_sample_hangs_on_ids_and_batch_alone(long_ids):
    ids = np.arange(5000) * 7 + 3
    random = np.random.default_rng(1)

    def sample(order, batch_id, limit):
        given = pa.array(order if long_ids else [f"u{number}" for number in order])
        return set(given.take(pa.array(sample_users(given, batch_id, limit))).to_pylist())

    first = sample(ids, 3, 1000)
    assert len(first) == 1000
    assert sample(random.permutation(ids), 3, 1000) == first
    assert sample(ids, 3, 200) < first
    # Another batch draws anew: two independent samples of a fifth share a fifth; six standard deviations are 55.
    assert abs(len(first & sample(ids, 4, 1000)) - 200) < 55
    assert len(sample(ids[:10], 3, 1000)) == 10
    assert sample(ids, 3, 0) == set()


@given(st.lists(st.integers(0, 50), max_size=30))
def test_popular_items_are_the_fewest_that_hold_half(counts):
    popular = popular_items(np.array(counts, dtype=np.int64))
    assert popular.shape == (len(counts),)
    if not sum(counts):
        assert not popular.any()
        return
    held = sorted(counts, reverse=True)
    fewest = next(n for n in range(1, len(held) + 1) if sum(held[:n]) >= sum(counts) / 2)
    assert popular.sum() == fewest
    assert sorted(np.array(counts)[popular], reverse=True) == held[:fewest]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_users": np.array([2])}, "event_users"),
        ({"event_items": np.array([3])}, "event_items"),
        ({"user_rows": np.array([1, 0])}, "user_rows"),
        ({"event_items": np.array([1, 1])}, "1 users and 2 items"),
        ({"popular": np.array([True])}, "popular has 1"),
        ({"seen": csr([{0}])}, "seen rows"),
    ],
)
def test_refuses_arrays_that_disagree(arguments, message):
    model = FactorModel(np.ones((1, 1), np.float32), np.ones((3, 1), np.float32))
    good = {"user_rows": np.array([0, -1]), "event_users": np.array([1]), "event_items": np.array([2]), "k": 2}
    rank_scores(model, **good)
    with pytest.raises(ShapeError, match=message):
        rank_scores(model, **(good | arguments))


def test_refuses_ratings_of_other_events():
    model = FactorModel(np.ones((1, 1), np.float32), np.ones((3, 1), np.float32))
    with pytest.raises(ShapeError, match="2 ratings of 1 events"):
        rating_errors(model, np.array([0]), np.array([0]), np.array([1.0, 2.0]))
