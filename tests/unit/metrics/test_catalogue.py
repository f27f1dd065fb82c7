"""Coverage and popularity of lists: worked examples, merging of blocks, ranks against scipy."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefactor.errors import ShapeError
from lakefactor.metrics import coverage, exposure_gini, item_counts, mean_popularity, popularity_rank

RANKED = np.array([[0, 1, 2], [0, 3, -1], [1, 0, 4]], dtype=np.int32)


def test_worked_example():
    # Within 2: items 0 (three times), 1 (twice), 3 (once) of a catalogue of 6.
    counts = item_counts(RANKED, 2, n_items=6)
    assert counts.tolist() == [3, 2, 0, 1, 0, 0]
    assert coverage(counts) == pytest.approx(3 / 6)
    n_entries = np.array([100, 50, 20, 10, 5, 1])
    assert mean_popularity(counts, n_entries) == pytest.approx((3 * 100 + 2 * 50 + 10) / 6)
    assert mean_popularity(counts, popularity_rank(n_entries)) == pytest.approx((3 * 1 + 2 * 2 + 4) / 6)


def test_one_list_for_all_covers_exactly_k_items():
    m, k = 50, 10
    everyone = np.tile(np.arange(m, dtype=np.int32), (7, 1))
    assert coverage(item_counts(everyone, k, m)) == pytest.approx(k / m)


def test_counts_of_blocks_add_up():
    parts = sum(item_counts(RANKED[u : u + 1], 3, 6) for u in range(3))
    np.testing.assert_array_equal(parts, item_counts(RANKED, 3, 6))


def test_empty_lists_have_no_popularity():
    counts = item_counts(np.full((2, 3), -1, dtype=np.int32), 3, n_items=4)
    assert coverage(counts) == 0.0
    assert isnan(mean_popularity(counts, np.ones(4)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_popularity_rank_is_the_mean_rank_of_ties(n_entries):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.rankdata([-n for n in n_entries], method="average")
    np.testing.assert_allclose(popularity_rank(np.array(n_entries)), expected)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ShapeError, match="item column 4 in a catalogue of 3"):
        item_counts(RANKED, 3, n_items=3)
    with pytest.raises(ShapeError, match="cut-off k = 4"):
        item_counts(RANKED, 4, n_items=6)
    with pytest.raises(ShapeError, match="counts of 6 items, popularity of 2"):
        mean_popularity(item_counts(RANKED, 3, 6), np.ones(2))


def test_the_gini_of_exposure_is_the_mean_difference_of_two_items():
    """Gini's own definition: the mean absolute difference over all pairs, by twice the mean."""
    counts = np.random.default_rng(5).zipf(1.7, 60) - 1
    pairs = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert exposure_gini(counts) == pytest.approx(pairs)
    assert exposure_gini(counts * 3) == pytest.approx(exposure_gini(counts))
    assert np.isnan(exposure_gini(np.zeros(4, np.int64)))
    assert np.isnan(exposure_gini(np.zeros(0, np.int64)))
