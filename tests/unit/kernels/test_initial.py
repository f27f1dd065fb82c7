from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lakefactor.kernels import initial_factors

KEYS = np.random.default_rng(1).integers(0, 2**64, 5000, dtype=np.uint64)


def test_a_row_depends_on_its_key_alone():
    whole = initial_factors(KEYS, 3, 16, "user")
    order = np.random.default_rng(2).permutation(len(KEYS))
    np.testing.assert_array_equal(initial_factors(KEYS[order], 3, 16, "user"), whole[order])
    np.testing.assert_array_equal(initial_factors(KEYS[17:18], 3, 16, "user"), whole[17:18])


def test_long_inputs_are_cut_without_a_seam():
    keys = np.arange(40_000, dtype=np.uint64)
    whole = initial_factors(keys, 0, 2, "item")
    np.testing.assert_array_equal(whole[30_000:], initial_factors(keys[30_000:], 0, 2, "item"))


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_factors_are_normal_with_a_tenth_over_root_k(k):
    factors = initial_factors(KEYS, 0, k, "item")
    assert factors.dtype == np.float32
    assert factors.shape == (len(KEYS), k)
    assert stats.kstest(factors.ravel(), "norm", (0.0, 0.1 / np.sqrt(k))).pvalue > 0.01


def test_columns_and_rows_are_uncorrelated():
    factors = initial_factors(np.arange(20_000, dtype=np.uint64), 0, 8, "user")
    for sample in (np.corrcoef(factors.T) - np.eye(8), np.corrcoef(factors[:-1, 0], factors[1:, 0])[0, 1]):
        assert np.abs(sample).max() < 5 / np.sqrt(len(factors))


@pytest.mark.parametrize("other", [(4, "user"), (3, "item"), (-1, "user"), (2**64 - 4, "user")])
def test_seed_and_side_select_another_stream(other):
    first = initial_factors(KEYS, 3, 4, "user").ravel()
    second = initial_factors(KEYS, other[0], 4, other[1]).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(first))
    assert not np.any(first == second)


def test_a_column_does_not_depend_on_the_rank():
    five, eight = initial_factors(KEYS, 0, 5, "user"), initial_factors(KEYS, 0, 8, "user")
    np.testing.assert_allclose(five * np.sqrt(5), eight[:, :5] * np.sqrt(8), rtol=1e-6)
