"""The Poisson bootstrap against the distribution that it draws from, and against intervals known from theory."""

from __future__ import annotations

from math import exp, factorial

import numpy as np
import pytest

from lakefactor.errors import ShapeError
from lakefactor.kernels import splitmix64
from lakefactor.metrics.bootstrap import interval, poisson_counts, replicate_sums


def keys(n: int) -> np.ndarray:
    return splitmix64(np.arange(n, dtype=np.uint64))


def test_counts_are_poisson_and_independent():
    counts = poisson_counts(keys(20_000), 50).astype(np.float64)
    shares = [(counts == count).mean() for count in range(5)]
    np.testing.assert_allclose(shares, [exp(-1) / factorial(count) for count in range(5)], atol=2e-3)
    correlations = np.corrcoef(counts.T)
    assert np.abs(correlations[np.triu_indices(50, 1)]).max() < 5 / np.sqrt(20_000)
    other = poisson_counts(keys(20_000), 1, seed=1)[:, 0]
    assert abs(np.corrcoef(other, counts[:, 0])[0, 1]) < 5 / np.sqrt(20_000)


def test_a_user_counts_alike_wherever_and_beside_whomever():
    whole = poisson_counts(keys(100), 8)
    order = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(poisson_counts(keys(100)[order], 8), whole[order])
    np.testing.assert_array_equal(poisson_counts(keys(100), 4), whole[:, :4])


def test_sums_add_up_over_blocks():
    values = np.where(np.arange(100) % 7 == 0, np.nan, np.arange(100.0))
    counts = poisson_counts(keys(100), 8)
    sums, users = replicate_sums(values, counts)
    said = ~np.isnan(values)
    np.testing.assert_array_equal(sums, [(values[said] * column).sum() for column in counts[said].T.astype(float)])
    parts = [replicate_sums(values[part], counts[part]) for part in (slice(40), slice(40, 100))]
    np.testing.assert_array_equal(sums, parts[0][0] + parts[1][0])
    np.testing.assert_array_equal(users, parts[0][1] + parts[1][1])


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(2).normal(3, 2, 4000)
    sums, users = replicate_sums(values, poisson_counts(keys(4000), 2000))
    low, high = interval(sums / users)
    half = 1.96 * values.std() / np.sqrt(4000)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.1 * half)


def test_two_models_on_the_same_users_are_a_paired_comparison():
    """The challenger is better by 0.1 for everyone: users differ by far more, and the difference is certain."""
    rng = np.random.default_rng(3)
    champion = rng.normal(0, 5, 500)
    challenger = champion + 0.1 + rng.normal(0, 0.01, 500)
    counts = poisson_counts(keys(500), 400)
    means = [sums / users for sums, users in (replicate_sums(one, counts) for one in (champion, challenger))]
    low, high = interval(means[1] - means[0])
    assert 0.09 < low < 0.1 < high < 0.11
    assert interval(means[0])[1] - interval(means[0])[0] > 0.5


def test_nobody_and_other_users():
    sums, users = replicate_sums(np.array([np.nan]), poisson_counts(keys(1), 3))
    with np.errstate(invalid="ignore"):
        assert np.isnan(interval(sums / users)).all()
    with pytest.raises(ShapeError, match="2 values with counts of 3 users"):
        replicate_sums(np.zeros(2), poisson_counts(keys(3), 3))
