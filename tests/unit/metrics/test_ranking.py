"""Rank metrics against plain-Python formulas, scikit-learn, and a data set whose figures are known by maths."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefactor.errors import ShapeError
from lakefactor.metrics import RANK_METRICS, rank_metrics


def csr(rows):
    """Return (indptr, indices) of lists of columns, sorted."""
    indptr = np.cumsum([0, *map(len, rows)])
    return indptr, np.array([c for row in rows for c in sorted(row)], dtype=np.int32)


def oracle(ranked, relevant, k):
    """All metrics of one user by their definitions, in plain Python; ``relevant`` may hold -1 several times."""
    hit = [item >= 0 and item in relevant for item in ranked[:k]]
    positions = [p for p, h in enumerate(hit, start=1) if h]
    best = min(k, len(relevant))
    return {
        "precision": len(positions) / k,
        "recall": len(positions) / len(relevant),
        "ndcg": sum(1 / log2(p + 1) for p in positions) / sum(1 / log2(p + 1) for p in range(1, best + 1)),
        "map": sum(sum(hit[:p]) / p for p in positions) / best,
        "mrr": 1 / positions[0] if positions else 0.0,
        "hit_rate": 1.0 if positions else 0.0,
    }


@st.composite
def blocks(draw):
    """Draw ranked lists (some padded) and relevant columns (some outside the catalogue)."""
    m, b = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    n = draw(st.integers(1, m))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranked = np.stack([rng.permutation(m)[:n] for _ in range(b)]).astype(np.int32)
    for row in ranked:
        row[n - rng.integers(0, n) :] = -1
    inside = [rng.permutation(m)[: rng.integers(1, m + 1)].tolist() for _ in range(b)]
    return ranked, [[*columns, *[-1] * rng.integers(0, 3)] for columns in inside]


def test_worked_example():
    # List d a c e b, relevant {a, b, z}; z is outside the catalogue. Hits at positions 2 and 5.
    d, a, c, e, b = range(5)
    got = rank_metrics(np.array([[d, a, c, e, b]]), *csr([[a, b, -1]]), ks=[2, 5])
    ideal_2, ideal_3 = 1 + 1 / log2(3), 1 + 1 / log2(3) + 1 / 2
    expected = {
        ("precision", 2): 1 / 2, ("precision", 5): 2 / 5,
        ("recall", 2): 1 / 3, ("recall", 5): 2 / 3,
        ("ndcg", 2): (1 / log2(3)) / ideal_2, ("ndcg", 5): (1 / log2(3) + 1 / log2(6)) / ideal_3,
        ("map", 2): (1 / 2) / 2, ("map", 5): (1 / 2 + 2 / 5) / 3,
        ("mrr", 2): 1 / 2, ("mrr", 5): 1 / 2,
        ("hit_rate", 2): 1.0, ("hit_rate", 5): 1.0,
    }  # fmt: skip
    assert {key: value[0] for key, value in got.items()} == pytest.approx(expected, abs=1e-15)


@given(blocks())
@settings(max_examples=200, deadline=None)
def test_equals_the_definitions(block):
    ranked, relevant = block
    ks = range(1, ranked.shape[1] + 1)
    got = rank_metrics(ranked, *csr(relevant), ks=ks)
    for user, (row, wanted) in enumerate(zip(ranked.tolist(), relevant, strict=True)):
        for k in ks:
            expected = oracle(row, wanted, k)
            assert {name: got[name, k][user] for name in RANK_METRICS} == pytest.approx(expected, abs=1e-12)


@given(blocks())
@settings(max_examples=100, deadline=None)
def test_range_and_equal_users(block):
    ranked, relevant = block
    order = np.random.default_rng(0).permutation(len(ranked))
    ks = [1, ranked.shape[1]]
    got = rank_metrics(ranked, *csr(relevant), ks=ks)
    shuffled = rank_metrics(ranked[order], *csr([relevant[u] for u in order]), ks=ks)
    for key, values in got.items():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
        np.testing.assert_array_equal(values[order], shuffled[key])


@given(st.integers(1, 8), st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_best_list_scores_one(n_relevant, n_more):
    ranked = np.arange(n_relevant + n_more, dtype=np.int32)[None, :]
    ks = range(1, n_relevant + n_more + 1)
    got = rank_metrics(ranked, *csr([range(n_relevant)]), ks=ks)
    for k in ks:
        for name in ("ndcg", "map", "mrr", "hit_rate"):
            assert got[name, k][0] == pytest.approx(1.0, abs=1e-12)
        assert got["precision", k][0] == min(k, n_relevant) / k
        assert got["recall", k][0] == min(k, n_relevant) / n_relevant


def test_scikit_learn_agrees():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    b, m = 40, 30
    scores = rng.normal(size=(b, m))
    labels = rng.random((b, m)) < 0.2
    labels[:, 0] = True
    ranked = np.argsort(-scores, axis=1).astype(np.int32)
    got = rank_metrics(ranked, *csr([np.flatnonzero(row).tolist() for row in labels]), ks=[1, 5, m])
    for k in (1, 5, m):
        assert got["ndcg", k].mean() == pytest.approx(sklearn.ndcg_score(labels, scores, k=k), abs=1e-12)
    # scikit-learn's average precision has no cut-off: it is AP over the whole list.
    average_precision = [sklearn.average_precision_score(labels[u], scores[u]) for u in range(b)]
    np.testing.assert_allclose(got["map", m], average_precision, atol=1e-12)


@pytest.mark.parametrize("m", [20, 500])
def test_popularity_on_a_staircase_is_known_exactly(m):
    # Item r (r = 1..m) is the r-th most popular, and user r's one held-out item is r: popularity puts it at rank r.
    # So every metric is a finite sum: hit rate k/m, precision 1/m, MRR H_k/m, NDCG (1/m) sum_{r<=k} 1/log2(r+1).
    n_entries = np.arange(m, 0, -1)
    ranked = np.tile(np.argsort(-n_entries).astype(np.int32), (m, 1))
    ks = [1, 10, 20]
    got = {key: v.mean() for key, v in rank_metrics(ranked, *csr([[r] for r in range(m)]), ks=ks).items()}
    for k in ks:
        harmonic = sum(1 / r for r in range(1, k + 1))
        expected = {
            "hit_rate": k / m,
            "recall": k / m,
            "precision": 1 / m,
            "mrr": harmonic / m,
            "map": harmonic / m,
            "ndcg": sum(1 / log2(r + 1) for r in range(1, k + 1)) / m,
        }
        assert {name: got[name, k] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_users_without_relevant_items_are_undefined():
    got = rank_metrics(np.array([[0, 1], [1, 0]]), *csr([[], [1]]), ks=[1, 2])
    for values in got.values():
        assert np.isnan(values[0])
        assert not np.isnan(values[1])


def test_only_unreachable_relevant_items_score_zero():
    got = rank_metrics(np.array([[0, -1]]), *csr([[-1, -1]]), ks=[2])
    assert {values[0] for values in got.values()} == {0.0}


@pytest.mark.parametrize(
    ("indptr", "indices", "ks", "message"),
    [
        ([0, 1], [0], [3], "cut-off k = 3, lists hold 2"),
        ([0, 1], [0], [0], "cut-off k = 0"),
        ([0, 2], [0], [1], "indptr has length 2 from 0 to 2"),
        ([0, 1, 1], [0], [1], "1 users with 1 indices need length 2"),
        ([0, 2], [1, 0], [1], "row 0 are not ascending"),
        ([0, 2], [1, 1], [1], "row 0 are not ascending"),
    ],
)
def test_arrays_that_disagree_are_refused(indptr, indices, ks, message):
    with pytest.raises(ShapeError, match=message):
        rank_metrics(np.array([[0, 1]]), np.array(indptr), np.array(indices, dtype=np.int32), ks=ks)
