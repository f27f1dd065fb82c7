"""AUC against the pair-counting definition, scikit-learn and `implicit`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefactor.errors import ShapeError
from lakefactor.metrics import auc, auc_at_k, rank_metrics


def csr(rows):
    """Return (indptr, indices) of lists of columns, sorted."""
    indptr = np.cumsum([0, *map(len, rows)])
    return indptr, np.array([c for row in rows for c in sorted(row)], dtype=np.int32)


def oracle(scores, seen, relevant):
    """Count pairs by the definition; a relevant item that is outside or seen loses all of its pairs."""
    others = [j for j in range(len(scores)) if j not in seen and j not in relevant]
    wins = 0.0
    for i in relevant:
        if i >= 0 and i not in seen:
            wins += sum(1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0 for j in others)
    return wins / (len(relevant) * len(others)) if relevant and others else np.nan


@st.composite
def blocks(draw):
    """Draw scores with many ties, and seen and relevant rows that may overlap or lie outside the catalogue."""
    b, m = draw(st.integers(1, 4)), draw(st.integers(1, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(-2, 3, size=(b, m)).astype(np.float32)
    seen = [rng.permutation(m)[: rng.integers(0, m + 1)].tolist() for _ in range(b)]
    relevant = [[*rng.permutation(m)[: rng.integers(0, m)].tolist(), *[-1] * rng.integers(0, 2)] for _ in range(b)]
    return scores, seen, relevant


@given(blocks())
@settings(max_examples=300, deadline=None)
def test_equals_pair_counting(block):
    scores, seen, relevant = block
    got = auc(scores, *csr(seen), *csr(relevant))
    np.testing.assert_allclose(got, [oracle(*user) for user in zip(scores, seen, relevant, strict=True)], atol=1e-12)


def test_scikit_learn_agrees():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 50, size=(30, 200)).astype(np.float32)
    seen = [rng.choice(100, 20, replace=False).tolist() for _ in range(30)]
    relevant = [(100 + rng.choice(100, 10, replace=False)).tolist() for _ in range(30)]
    got = auc(scores, *csr(seen), *csr(relevant))
    for user in range(30):
        open_items = np.setdiff1d(np.arange(200), seen[user])
        labels = np.isin(open_items, relevant[user])
        assert got[user] == pytest.approx(sklearn.roc_auc_score(labels, scores[user, open_items]), abs=1e-12)


def test_popularity_on_a_staircase_is_one_half():
    # The held-out item of user r is the r-th of m by popularity: it beats m - r of the m - 1 others.
    m = 25
    popularity = np.tile(np.arange(m, 0, -1, dtype=np.float32), (m, 1))
    got = auc(popularity, *csr([[]] * m), *csr([[r] for r in range(m)]))
    np.testing.assert_allclose(got, [(m - r) / (m - 1) for r in range(1, m + 1)], atol=1e-15)
    assert got.mean() == pytest.approx(0.5, abs=1e-15)


def test_nan_never_wins():
    scores = np.array([[np.nan, -1.0, 0.0]], dtype=np.float32)
    assert auc(scores, *csr([[]]), *csr([[0]])).tolist() == [0.0]
    assert auc(scores, *csr([[]]), *csr([[1]])).tolist() == [0.5]


def test_undefined_without_relevant_items_or_others():
    scores = np.zeros((2, 2), dtype=np.float32)
    assert np.isnan(auc(scores, *csr([[], [1]]), *csr([[], [0]]))).all()


@pytest.mark.parametrize(("seen", "relevant"), [([2], [0]), ([0], [2])])
def test_columns_beyond_the_scores_are_refused(seen, relevant):
    with pytest.raises(ShapeError, match="column 2, but there are scores of 2 items"):
        auc(np.zeros((1, 2), dtype=np.float32), *csr([seen]), *csr([relevant]))


@given(st.integers(2, 15), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_auc_at_k_over_all_candidates_is_the_exact_auc(m, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(m).astype(np.float32)[None, :]
    n_seen = rng.integers(0, m - 1)
    seen, rest = np.split(rng.permutation(m), [n_seen])
    relevant = [*rest[: rng.integers(1, len(rest))].tolist(), *[-1] * rng.integers(0, 2)]
    ranked = np.full((1, m), -1, dtype=np.int32)
    ranked[0, : len(rest)] = rest[np.argsort(-scores[0, rest])]
    limited = auc_at_k(ranked, *csr([relevant]), np.array([len(rest)]), ks=[m])
    np.testing.assert_allclose(limited["auc", m], auc(scores, *csr([seen]), *csr([relevant])), atol=1e-12)


def test_implicit_agrees_on_all_of_its_metrics():
    implicit = pytest.importorskip("implicit.evaluation")
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(7)
    b, m, k = 50, 40, 8
    ranked = np.stack([rng.permutation(m)[:k] for _ in range(b)]).astype(np.int32)
    test = sparse.csr_matrix(rng.random((b, m)) < 0.1, dtype=np.float64)
    test, ranked = test[np.diff(test.indptr) > 0], ranked[np.diff(test.indptr) > 0]

    class Fixed:
        """A recommender that always answers with the drawn lists."""

        def recommend(self, users, user_items, N):
            return ranked[users, :N], None

    peer = implicit.ranking_metrics_at_k(Fixed(), test, test, K=k, show_progress=False)
    # `implicit` counts the whole catalogue as candidates, seen items too.
    limited = auc_at_k(ranked, test.indptr, test.indices, np.full(len(ranked), m), ks=[k])["auc", k]
    metrics = rank_metrics(ranked, test.indptr, test.indices, ks=[k])
    assert limited.mean() == pytest.approx(peer["auc"], abs=1e-12)
    assert metrics["map", k].mean() == pytest.approx(peer["map"], abs=1e-12)
    assert metrics["ndcg", k].mean() == pytest.approx(peer["ndcg"], abs=1e-12)
    # Its "precision" divides all hits by the sum of min(k, n_relevant).
    n_relevant = np.diff(test.indptr)
    hits = (metrics["precision", k] * k).sum() / np.minimum(k, n_relevant).sum()
    assert hits == pytest.approx(peer["precision"], abs=1e-12)
